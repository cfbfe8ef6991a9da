"""When a training saves and evaluates: at the same steps, or the best checkpoint would be one that was not saved.

One rule for every trainer that is transformers' own underneath (DefaultFlowCallback, Trainer._save_checkpoint): what a
recipe leaves out follows what it gives, and what it gives must agree wherever the best checkpoint is asked for.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from orchestrator.backends.argument_list import ArgumentList
from orchestrator.backends.protocol import Found, Job
from orchestrator.errors import Problem

SETS_ASIDE = "set some aside: data: {validation_ratio: 0.05}"
_STEPS = 500  # transformers' own default of save_steps
_OR_LAST = "or say checkpoint: last"


@dataclass(frozen=True)
class Saving:
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


def put_saving(found: ArgumentList, job: Job, given: Mapping[str, Any], *, eval_batch: int) -> None:
    """Add when to save and to evaluate; `eval_batch` is the trainer's own default of per_device_eval_batch_size."""
    validated = bool(job.recipe.data.validation_ratio)
    saving = find_saving(given)
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
