"""What the trainers have in common, for all are transformers' Trainer underneath: arguments, saving, repeatability.

A training saves and evaluates at the same steps, or the best checkpoint would be one that was not saved
(DefaultFlowCallback, Trainer._save_checkpoint): what a recipe leaves out follows what it gives, and what it gives must
agree wherever the best checkpoint is asked for. Sources of `deterministic: true`: enable_full_determinism of
transformers/trainer_utils.py (5.19), and PyTorch's notes on reproducibility.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import msgspec

from orchestrator.backends.aliases import Translation, list_paths
from orchestrator.backends.arguments import Argument
from orchestrator.backends.protocol import Found, Job, Training
from orchestrator.backends.render import render_command
from orchestrator.backends.sharing import count_step_rows
from orchestrator.errors import Problem
from orchestrator.machine.json_files import load_json
from orchestrator.machine.places import WORKERS
from orchestrator.recipe.plan import Note
from orchestrator.recipe.schema import Loss

SETS_ASIDE = "set some aside: data: {validation_ratio: 0.05}"
_STEPS = 500  # transformers' own default of save_steps
TINY_HIDDEN_SIZE = 32  # of workers/tiny_model.py
_OR_LAST = "or say checkpoint: last"
_WORKSPACES = (":4096:8", ":16:8")  # the two with which cuBLAS adds in a fixed order
# Arguments that undo it: name, the values that do, and what they do.
_UNDOING: tuple[tuple[str, Any, str], ...] = (
    ("full_determinism", False, "lets the kernels add in any order"),
    ("tf32", True, "rounds differently from one GPU to the next"),
    ("auto_find_batch_size", True, "lets the free memory decide the batch"),
    ("dataloader_in_order", False, "takes the batches as they come"),
)

TRACKERS: dict[str, dict[str, Any]] = load_json(WORKERS / "trackers.json")


class RenderedArgument(msgspec.Struct, frozen=True):
    """One argument of the train command, and where it comes from."""

    name: str
    value: Any
    origin: str
    why: str


class ArgumentList:
    """Collects the train command's arguments in reading order; what the recipe gives wins over every default."""

    def __init__(self, translation: Translation) -> None:
        self.given = translation.arguments
        self._translation = translation
        self._items: dict[str, RenderedArgument] = {}

    def put(self, name: str, value: Any, origin: str, why: str) -> None:
        """Add one argument, with the recipe's value where it has one."""
        if name in self.given:
            value = self.given[name]
            why_translated = self._translation.why.get(name)
            origin, why = ("translated", why_translated) if why_translated else ("recipe", f"train.{name}")
        self._items[name] = RenderedArgument(name, value, origin, why)

    def put_defaults(self, known: Mapping[str, Argument], names: Iterable[str], why: str) -> None:
        """Add arguments that would otherwise be set where nobody sees it."""
        for name in names:
            self.put(name, known[name].default, "default", why)

    def put_rest(self) -> None:
        """Add what the recipe gives and nothing has asked for yet."""
        for name, value in self.given.items():
            if name not in self._items:
                self.put(name, value, "recipe", f"train.{name}")

    def items(self) -> list[RenderedArgument]:
        """Return all arguments in the order in which they were added."""
        return list(self._items.values())

    def values(self) -> dict[str, Any]:
        """Return the value of each argument."""
        return {item.name: item.value for item in self._items.values()}

    def notes(self) -> tuple[Note, ...]:
        """Return the notes of `orch render --explain` for a train command."""
        notes = [Note("train", item.name, _show(item.value), item.origin, item.why) for item in self._items.values()]
        dropped = self._translation.dropped.items()
        return (*notes, *(Note("train", name, "(not rendered)", "translated", why) for name, why in dropped))


def finish_training(
    job: Job,
    arguments: ArgumentList,
    *,
    template: str,
    template_values: Mapping[str, Any],
    env: dict[str, str],
    weights: str,
    notes_before: tuple[Note, ...] = (),
    notes_after: tuple[Note, ...] = (),
    reads: tuple[str, ...] = (),
    **rest: Any,
) -> Training:
    """Return a train stage: its rendered command, its notes, and what follows from its arguments.

    `rest` are the fields of Training that only the tool knows.
    """
    values = arguments.values()
    command = render_command(
        template,
        env=env,
        cwd=str(job.run_dir),
        python=job.backend_python,
        workers=job.workers,
        nproc_per_node=job.processes(),
        group=_describe_group(job, values) if job.world_size() > 1 else {},
        track=job.tracking,
        **template_values,
    )
    lora, accumulation = job.backend.trains_lora(job), int(values["gradient_accumulation_steps"])
    return Training(
        command=command,
        notes=notes_before + arguments.notes() + notes_after + _explain_determinism(job, env),
        outputs=(f"{weights}/{'adapter_model.safetensors' if lora else 'config.json'}",),
        lora=lora,
        weights=weights,
        world_size=job.world_size(),
        step_rows=count_step_rows(job, values) * accumulation,
        batch=int(values["per_device_train_batch_size"]),
        accumulation=accumulation,
        reads=(*reads, *(path for _, path in list_paths(arguments.given, job.backend.arguments))),
        **rest,
    )


def _describe_group(job: Job, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the launcher of several processes is told: where they prove that they are one, and of other hosts."""
    launch, found = job.recipe.launch, {"checkpoints": values["output_dir"]}
    if job.hosts() == 1:
        return found
    told = {"endpoint": launch.rdzv.endpoint, "local_addr": launch.local_addr, "interface": launch.interface}
    told = {name: value for name, value in told.items() if value is not None}
    return {**found, "nnodes": job.hosts(), **told, "timeout": values["ddp_timeout"]}


def put_fixed(found: ArgumentList, job: Job) -> None:
    """Add what no trainer's own default suits."""
    put_trackers(found, job, most=1)
    put_timeout(found, job)


def put_trackers(found: ArgumentList, job: Job, most: int | None = None) -> None:
    """Add the trackers that are installed, `most` of them where the argument takes no list: the others follow by us."""
    asked = dict.fromkeys(job.recipe.track.to if job.recipe.track else ())
    names = [name for name in asked if not job.versions or job.versions.keys() & set(TRACKERS[name]["packages"])]
    why = ("recipe", "track") if names else ("orch", "no experiment tracker unless the recipe names one")
    found.put("report_to", (names or ["none"])[0] if most == 1 else names or ["none"], *why)


def put_timeout(found: ArgumentList, job: Job, why: str = "a lost process is noticed after half an hour") -> None:
    """Add how long processes wait for one another."""
    asked = job.recipe.launch.ddp_timeout_s
    found.put("ddp_timeout", asked or 1800, "recipe" if asked else "orch", "launch.ddp_timeout_s" if asked else why)


def put_hardware(found: ArgumentList, job: Job) -> None:
    """Add half precision where the hardware has one, and that there is no GPU."""
    precision = job.hardware.precision
    if precision in {"bf16", "fp16"} and not {"bf16", "fp16"} & found.given.keys():
        found.put(precision, True, "hardware", f"{job.hardware}")
    if job.hardware.kind == "cpu":
        found.put("use_cpu", True, "hardware", "no GPU is used: several processes would not synchronise without it")


def shrink_sizes(loss: Loss, name: str) -> dict[str, dict[int, float]]:
    """Return the loss's Matryoshka sizes for the tiny model, as many as fit it: its own, half of it, and so on."""
    weights = [weight for _, weight in sorted((getattr(loss, name) or {}).items(), reverse=True)]
    sizes = {TINY_HIDDEN_SIZE >> place: weight for place, weight in enumerate(weights)}
    return {name: {size: weight for size, weight in sizes.items() if size}} if weights else {}


def _show(value: Any) -> str:
    if isinstance(value, dict):
        return json.dumps(value, ensure_ascii=False, sort_keys=True)
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)


class Saving(msgspec.Struct, frozen=True):
    """When a training saves and evaluates; the steps count where a strategy is `steps`."""

    save_strategy: str
    save_steps: float
    eval_strategy: str
    eval_steps: float


def find_saving(given: Mapping[str, Any]) -> Saving:
    """Return when a training with validation rows saves and evaluates: each from its own arguments, or as the other."""
    save = given.get("save_strategy") or ("steps" if "save_steps" in given else None)
    asked = given.get("eval_strategy")
    evaluate = (None if asked == "no" else asked) or ("steps" if "eval_steps" in given else None)
    save, evaluate = save or evaluate or "epoch", evaluate or save or "epoch"
    both = save == evaluate == "steps"
    save_steps = given.get("save_steps", given.get("eval_steps", _STEPS) if both else _STEPS)
    return Saving(save, save_steps, evaluate, given.get("eval_steps", save_steps if both else _STEPS))


def put_saving(found: ArgumentList, job: Job, *, eval_batch: int) -> None:
    """Add when to save and to evaluate; `eval_batch` is the trainer's own default of per_device_eval_batch_size."""
    validated = bool(job.recipe.data.validation_ratio)
    given, saving = found.given, find_saving(found.given)
    epoch = "a run that is interrupted continues from the last epoch"
    along = "with every evaluation, so that the best checkpoint is there"
    if saving.save_strategy != "steps" or "save_steps" not in given:  # save_steps alone says it to every trainer
        found.put("save_strategy", saving.save_strategy, "orch", epoch if saving.save_strategy == "epoch" else along)
    if saving.save_strategy == "steps":
        found.put("save_steps", saving.save_steps, "orch", along)
    if validated:
        why = "with every checkpoint, so that the best one is known"
        found.put("eval_strategy", saving.eval_strategy, "orch", why)
        if saving.eval_strategy == "steps":
            found.put("eval_steps", saving.eval_steps, "orch", why)
        found.put("per_device_eval_batch_size", eval_batch, "default", "transformers' default")
    else:
        found.put("eval_strategy", "no", "orch", "there are no validation rows: data.validation_ratio sets some aside")


def put_limit(found: ArgumentList, job: Job) -> None:
    """Add how many checkpoints are kept."""
    if isinstance(job.recipe.checkpoint, int):
        found.put("save_total_limit", 100, "orch", f"checkpoint {job.recipe.checkpoint} must still be there at the end")
    else:
        found.put("save_total_limit", 2, "orch", "checkpoints fill disks; the best one is always kept")


def wants_best(job: Job) -> bool:
    """Tell whether the best checkpoint becomes the model: by its validation loss, unless the recipe names another."""
    return job.recipe.data.validation_ratio is not None and job.recipe.checkpoint in {None, "best"}


def check_saving(job: Job, train: Mapping[str, Any]) -> Iterator[Found]:
    """Yield that no checkpoint is left, that the asked one cannot be, or that the best one may not be saved."""
    asked, save = job.recipe.checkpoint, train.get("save_strategy")
    validated = job.recipe.data.validation_ratio is not None
    if save in {"no", "best"}:
        what = "saves nothing: there is no model to package" if save == "no" else "leaves nothing to continue from"
        hint = "say steps, as it evaluates" if validated and "eval_steps" in train else "say epoch or steps"
        yield ("train", "save_strategy"), Problem(f"save_strategy {save} {what}", hint)
    if asked == "best" and not validated:
        yield ("checkpoint",), Problem("without validation rows none is best", f"say last, or {SETS_ASIDE}")
    if isinstance(asked, int) and asked < 1:
        yield ("checkpoint",), Problem(f"there is no checkpoint {asked}", "best, last or the number of a step")
    if not validated:
        return
    if train.get("eval_strategy") == "no":
        hint = "remove it: the best checkpoint is found by evaluating"
        yield ("train", "eval_strategy"), Problem("data.validation_ratio sets rows aside to evaluate on", hint)
    elif wants_best(job) and save not in {"no", "best"}:
        yield from _check_agreement(train)


def _check_agreement(train: Mapping[str, Any]) -> Iterator[Found]:
    """Yield that an evaluation finds the best weights where no checkpoint is written."""
    saving = find_saving(train)
    if saving.save_strategy != saving.eval_strategy:
        said = f"it evaluates by {saving.eval_strategy} and saves by {saving.save_strategy}"
        hint = f"say save_strategy: {saving.eval_strategy}" + (
            f" and save_steps: {saving.eval_steps}" if saving.eval_strategy == "steps" else " without save_steps"
        )
        yield ("train", "eval_strategy"), Problem(f"{said}: the best one may not be saved", f"{hint}, {_OR_LAST}")
    elif saving.save_strategy == "steps" and saving.save_steps != saving.eval_steps:
        said = f"it evaluates every {saving.eval_steps} steps and saves every {saving.save_steps}"
        hint = f"give both the same number, {_OR_LAST}"
        yield ("train", "eval_steps"), Problem(f"{said}: the best one may not be saved", hint)


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


def _explain_determinism(job: Job, env: Mapping[str, str]) -> tuple[Note, ...]:
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
    needed = {"PYTHONHASHSEED": (str(train.get("seed", 42)),), "CUBLAS_WORKSPACE_CONFIG": _WORKSPACES}
    for name, allowed in needed.items():
        if env.get(name, allowed[0]) not in allowed:
            message = f"{name} is {env[name]}, and deterministic: true needs {' or '.join(allowed)}"
            yield ("launch", "env", name), Problem(message, "remove it: Orch sets it")
