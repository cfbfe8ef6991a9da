"""What to change in a recipe after a failure: `--set` assignments, by the rule's `patch` and by what the recipe says.

Only what leaves the objective as it is: where a smaller batch is another loss (recipe/losses.py, which on_oom: retry
asks too), no patch makes it smaller. Only arguments that the recipe's backend has; the tests hold every patch against
the backends' own lists, and against every shipped recipe.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import msgspec
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


class Remedies(msgspec.Struct, frozen=True):
    """What a tool's trainer takes unasked, and assignments that cure a diagnosis in this tool only.

    `lengths` maps the arguments that cut texts to their defaults.
    """

    batch: int = 1
    lengths: Mapping[str, int] = {}
    cures: Mapping[str, Patch] = {}


def suggest_patch(name: str, recipe: Recipe, stage: str = _TRAIN_STAGE, of_tool: Remedies | None = None) -> Patch:
    """Return assignments for `--set` that may cure a diagnosis in that kind of stage; empty where none is known.

    `recipe` is the recipe as a plan holds it: every key of the schema, and under `train` what the user wrote.
    """
    from orchestrator.logs.diagnose import find_rule  # backends import this module, and no plan needs the rules

    of_tool, rule = of_tool or Remedies(), find_rule(name)
    patch = of_tool.cures.get(name, rule.patch if rule else ())
    if patch == "save_memory" and stage.startswith(_SCORING_STAGES):
        batch = _number(recipe.get("evaluate", {}), "batch_size", 2 * _SCORING_BATCH)
        return (f"evaluate.batch_size={batch // 2}",) if batch > 1 else ()
    if stage != _TRAIN_STAGE:
        return ()
    if isinstance(patch, str):
        return COMPUTED[patch](recipe, recipe.get("train", {}), of_tool)
    return tuple(assignment for assignment in patch if _changes(assignment, recipe))


def _changes(assignment: str, recipe: Recipe) -> bool:
    """Tell whether an assignment is worth saying.

    Not where the recipe says the same, to turn off what is not on, or outside `train` where it says anything.
    """
    key, _, value = assignment.partition("=")
    part, _, name = key.rpartition(".")
    said = (recipe.get(part, {}) if part else recipe).get(name)
    if value == "false":
        return _is_on(said)
    return str(said).lower() != value if part == "train" else not said


def _save_memory(recipe: Recipe, train: Recipe, of_tool: Remedies) -> Patch:
    """Halve the batch and double the steps that are added up; where that cannot be, keep fewer activations."""
    batch = _number(train, _BATCH, of_tool.batch)
    if batch > 1 and _may_be_split(recipe, train):
        half = batch // 2
        steps = _number(train, _STEPS, 1) * batch // half
        return (f"train.{_BATCH}={half}", f"train.{_STEPS}={steps}")
    return () if _is_on(train.get("gradient_checkpointing")) else ("train.gradient_checkpointing=true",)


def _may_be_split(recipe: Recipe, train: Recipe) -> bool:
    """Tell whether a smaller batch learns the same, and whether nothing else decides its size."""
    if any(train.get(name) for name in _OTHER_BATCHES):
        return False
    given = recipe.get("loss")
    try:
        loss = Loss.model_validate(given) if given else None
    except ValidationError:  # another version of Orch wrote this plan: of its loss nothing is known
        return False
    chosen = choose_loss(recipe.get("backend", ""), recipe.get("task", ""), loss, train)
    return find_batch_obstacle(chosen, train) is None


def _align_strategies(_: Recipe, train: Recipe, __: Remedies) -> Patch:
    return tuple(
        f"train.save_{name}={train[f'eval_{name}']}" for name in ("strategy", "steps") if train.get(f"eval_{name}")
    )


def _calm_down(_: Recipe, train: Recipe, __: Remedies) -> Patch:
    try:
        rate = float(train["learning_rate"])
    except (KeyError, TypeError, ValueError):
        return ()
    return (f"train.learning_rate={rate / 2:g}", "train.max_grad_norm=1.0")


def _shorten(_: Recipe, train: Recipe, of_tool: Remedies) -> Patch:
    lengths = {name: _number(train, name, default) for name, default in of_tool.lengths.items()}
    return tuple(f"train.{name}={max(_SHORTEST, length // 2)}" for name, length in lengths.items())


def _number(values: Recipe, name: str, default: int) -> int:
    """Return a whole number as the recipe gives it; its text may be a number too."""
    try:
        return int(values[name])
    except (KeyError, TypeError, ValueError):
        return default


def _is_on(value: object) -> bool:
    return str(value).lower() == "true"


# What a rule's `patch` names, where the assignments depend on what the recipe says.
COMPUTED: Mapping[str, Callable[[Recipe, Recipe, Remedies], Patch]] = {
    "save_memory": _save_memory,
    "align_strategies": _align_strategies,
    "calm_down": _calm_down,
    "wait_longer": lambda _, train, __: (f"train.ddp_timeout={2 * _number(train, 'ddp_timeout', 1800)}",),
    "shorten": _shorten,
}
