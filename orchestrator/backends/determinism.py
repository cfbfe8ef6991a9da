"""`deterministic: true`: the arguments and environment that make a training repeat itself, the same for every backend.

Sources: enable_full_determinism of transformers/trainer_utils.py (5.19), and PyTorch's notes on reproducibility.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from orchestrator.backends.argument_list import ArgumentList
from orchestrator.backends.protocol import Found, Job
from orchestrator.errors import Problem
from orchestrator.recipe.plan import Note

_WORKSPACES = (":4096:8", ":16:8")  # the two with which cuBLAS adds in a fixed order
# Arguments that undo it: name, the values that do, and what they do.
_UNDOING: tuple[tuple[str, Any, str], ...] = (
    ("full_determinism", False, "lets the kernels add in any order"),
    ("tf32", True, "rounds differently from one GPU to the next"),
    ("auto_find_batch_size", True, "lets the free memory decide the batch"),
    ("dataloader_in_order", False, "takes the batches as they come"),
)


def put_determinism(found: ArgumentList, job: Job) -> None:
    """Add the trainer's own arguments; they go last, so that they stand together."""
    if not job.recipe.deterministic:
        return
    found.put("full_determinism", True, "recipe", "deterministic: kernels that add in a fixed order; slower on a GPU")
    found.put("dataloader_num_workers", 0, "recipe", "deterministic: every random draw from one process, in order")
    if job.hardware.kind == "cuda":
        found.put("tf32", False, "recipe", "deterministic: matrices in full float32 where they are not in bf16 or fp16")


def deterministic_environment(job: Job, seed: Any) -> dict[str, str]:
    """Return the environment of the train stage, in place before its first import; empty when it was not asked for.

    The trainer itself sets CUBLAS_WORKSPACE_CONFIG to :16:8 later: either value makes cuBLAS repeat itself.
    """
    if not job.recipe.deterministic:
        return {}
    return {"PYTHONHASHSEED": str(seed), "CUBLAS_WORKSPACE_CONFIG": _WORKSPACES[0]}


def explain_determinism(job: Job, env: Mapping[str, str]) -> tuple[Note, ...]:
    """Return the notes on `deterministic_environment` for `orch render --explain`; `env` is what is rendered."""
    if not job.recipe.deterministic:
        return ()
    whys = {
        "PYTHONHASHSEED": "deterministic: sets and dictionaries of text in one order",
        "CUBLAS_WORKSPACE_CONFIG": "deterministic: cuBLAS adds in a fixed order",
    }
    return tuple(Note("train", name, env[name], "recipe", why) for name, why in whys.items())


def check_determinism(job: Job, train: Mapping[str, Any]) -> Iterator[Found]:
    """Yield what contradicts `deterministic: true`; `train` has the backend's types."""
    if not job.recipe.deterministic:
        return
    for name, value, why in _UNDOING:
        if train.get(name) is value:
            message = f"{name}: {str(value).lower()} {why}, and the recipe says deterministic: true"
            yield ("train", name), Problem(message, "remove one of the two")
    if train.get("dataloader_num_workers"):
        message = "several data workers draw at random side by side, and the recipe says deterministic: true"
        yield ("train", "dataloader_num_workers"), Problem(message, "remove one of the two")
    env = job.recipe.launch.env
    for name, allowed in (
        ("PYTHONHASHSEED", (str(train.get("seed", 42)),)),
        ("CUBLAS_WORKSPACE_CONFIG", _WORKSPACES),
    ):
        if env.get(name, allowed[0]) not in allowed:
            message = f"{name} is {env[name]}, and deterministic: true needs {' or '.join(allowed)}"
            yield ("launch", "env", name), Problem(message, "remove it: Orch sets it")
