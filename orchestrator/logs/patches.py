"""What to change in a recipe after a failure: `--set` assignments, computed from what the recipe says.

Only what leaves the objective as it is: where a smaller batch is another loss (recipe/losses.py, which on_oom: retry
asks too), no patch makes it smaller. Only arguments that the recipe's backend has; the tests hold this table against
the backends' own lists, and every patch against every shipped recipe.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic import ValidationError

from orchestrator.recipe.losses import find_batch_obstacle
from orchestrator.recipe.schema import Loss, choose_loss

Recipe = Mapping[str, Any]
Patch = tuple[str, ...]

_BATCH = "per_device_train_batch_size"
_STEPS = "gradient_accumulation_steps"
_OTHER_BATCHES = ("auto_find_batch_size", "per_gpu_train_batch_size")  # they go before per_device_train_batch_size
_SHORTEST = 16
_SCORING_BATCH = 4  # half of what Orch scores an LLM with when the recipe does not say
_SCORING_STAGES = ("baseline", "evaluate", "guard")
_TRAIN_STAGE = "train"


@dataclass(frozen=True)
class Remedies:
    """What a tool's trainer takes unasked, and assignments that cure a diagnosis in this tool only.

    `lengths` maps the arguments that cut texts to their defaults. An assignment that turns an argument off is said only
    where the recipe has it, and one of the top level only where the recipe says nothing of the key.
    """

    batch: int = 1
    lengths: Mapping[str, int] = field(default_factory=dict)
    cures: Mapping[str, Patch] = field(default_factory=dict)


def suggest_patch(name: str, recipe: Recipe, stage: str = _TRAIN_STAGE, of_tool: Remedies | None = None) -> Patch:
    """Return assignments for `--set` that may cure a diagnosis in that kind of stage; empty where none is known.

    `recipe` is the recipe as a plan holds it: every key of the schema, and under `train` what the user wrote.
    """
    if name in _OUT_OF_MEMORY and stage.startswith(_SCORING_STAGES):
        return _halve_scoring(recipe)
    if stage != _TRAIN_STAGE:
        return ()
    of_tool = of_tool or Remedies()
    if name in of_tool.cures:
        return tuple(one for one in of_tool.cures[name] if _fits(one, recipe))
    if name in _TOOLS_OWN:
        return _TOOLS_OWN[name](recipe, of_tool)
    build = _PATCHES.get(name)
    return build(recipe) if build else ()


def _fits(assignment: str, recipe: Recipe) -> bool:
    key, _, value = assignment.partition("=")
    part, _, name = key.rpartition(".")
    if value == "false":
        return name in recipe.get(part, {})
    return bool(part) or not recipe.get(name)


def _save_memory(recipe: Recipe, of_tool: Remedies) -> Patch:
    """Halve the batch and double the steps that are added up; where that cannot be, keep fewer activations."""
    train = recipe.get("train", {})
    batch = _number(train, _BATCH, of_tool.batch)
    if batch > 1 and _may_be_split(recipe):
        half = batch // 2
        return (
            f"train.{_BATCH}={half}",
            f"train.{_STEPS}={_number(train, _STEPS, 1) * batch // half}",
        )
    if not _is_on(train.get("gradient_checkpointing")):
        return ("train.gradient_checkpointing=true",)
    return ()


def _may_be_split(recipe: Recipe) -> bool:
    """Tell whether a smaller batch learns the same, and whether nothing else decides its size."""
    train = recipe.get("train", {})
    if any(train.get(name) for name in _OTHER_BATCHES):
        return False
    given = recipe.get("loss")
    try:
        loss = Loss.model_validate(given) if given else None
    except ValidationError:  # another version of Orch wrote this plan: of its loss nothing is known
        return False
    chosen = choose_loss(recipe.get("backend", ""), recipe.get("task", ""), loss, train)
    return find_batch_obstacle(chosen, train) is None


def _halve_scoring(recipe: Recipe) -> Patch:
    asked = _number(recipe.get("evaluate", {}), "batch_size", 2 * _SCORING_BATCH)
    return (f"evaluate.batch_size={asked // 2}",) if asked > 1 else ()


def _load_in_process(recipe: Recipe) -> Patch:
    return () if recipe.get("train", {}).get("dataloader_num_workers") == 0 else ("train.dataloader_num_workers=0",)


def _lower_evaluation_batch(recipe: Recipe) -> Patch:
    return (
        ()
        if recipe.get("train", {}).get("per_device_eval_batch_size") == 1
        else ("train.per_device_eval_batch_size=1",)
    )


def _set_validation(recipe: Recipe) -> Patch:
    return () if recipe.get("data", {}).get("validation_ratio") else ("data.validation_ratio=0.05",)


def _align_strategies(recipe: Recipe) -> Patch:
    train = recipe.get("train", {})
    patch = []
    if train.get("eval_strategy"):
        patch.append(f"train.save_strategy={train['eval_strategy']}")
    if train.get("eval_steps"):
        patch.append(f"train.save_steps={train['eval_steps']}")
    return tuple(patch)


def _drop_precision(recipe: Recipe) -> Patch:
    return tuple(f"train.{name}=false" for name in ("bf16", "fp16") if _is_on(recipe.get("train", {}).get(name)))


def _calm_down(recipe: Recipe) -> Patch:
    train = recipe.get("train", {})
    try:
        rate = float(train["learning_rate"])
    except (KeyError, TypeError, ValueError):
        return ()
    return (f"train.learning_rate={rate / 2:g}", "train.max_grad_norm=1.0")


def _keep_fewer_checkpoints(recipe: Recipe) -> Patch:
    return () if recipe.get("train", {}).get("save_total_limit") == 1 else ("train.save_total_limit=1",)


def _wait_longer(recipe: Recipe) -> Patch:
    return (f"train.ddp_timeout={2 * _number(recipe.get('train', {}), 'ddp_timeout', 1800)}",)


def _shorten(recipe: Recipe, of_tool: Remedies) -> Patch:
    train = recipe.get("train", {})
    lengths = {name: _number(train, name, default) for name, default in of_tool.lengths.items()}
    return tuple(f"train.{name}={max(_SHORTEST, length // 2)}" for name, length in lengths.items())


def _without_checkpointing(recipe: Recipe) -> Patch:
    on = _is_on(recipe.get("train", {}).get("gradient_checkpointing"))
    return ("train.gradient_checkpointing=false",) if on else ()


def _number(values: Mapping[str, Any], name: str, default: int) -> int:
    """Return a whole number as the recipe gives it; its text may be a number too."""
    try:
        return int(values[name])
    except (KeyError, TypeError, ValueError):
        return default


def _is_on(value: object) -> bool:
    return str(value).lower() == "true"


_OUT_OF_MEMORY = ("cuda-out-of-memory", "host-out-of-memory", "killed")
_TOOLS_OWN: Mapping[str, Callable[[Recipe, Remedies], Patch]] = {
    **dict.fromkeys(_OUT_OF_MEMORY, _save_memory),
    "longer-than-model": _shorten,
}
_PATCHES: Mapping[str, Callable[[Recipe], Patch]] = {
    "shared-memory-full": _load_in_process,
    "too-many-open-files": _load_in_process,
    "worker-died": _load_in_process,
    "disk-full": _keep_fewer_checkpoints,
    "missing-eval-loss": _lower_evaluation_batch,
    "evaluation-without-rows": _set_validation,
    "strategies-differ": _align_strategies,
    "precision-not-supported": _drop_precision,
    "nothing-to-train": _without_checkpointing,
    "tracker-login": lambda _: ("train.report_to=none",),
    "tracker-missing": lambda _: ("train.report_to=none",),
    "parameter-ready-twice": _without_checkpointing,
    "unused-parameters": lambda _: ("train.ddp_find_unused_parameters=true",),
    "collective-timeout": _wait_longer,
    "not-finite": _calm_down,
}
