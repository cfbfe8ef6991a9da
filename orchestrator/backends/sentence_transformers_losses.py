"""`loss:` of a recipe → the loss of the worker that trains cross-encoders, its data form, and what prepare must know.

What each loss computes stands in docs/losses.md.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from orchestrator.backends.protocol import Found, Job
from orchestrator.errors import Problem
from orchestrator.recipe.losses import LISTS, LOSSES, LossType, find_target, list_losses
from orchestrator.recipe.plan import Note
from orchestrator.recipe.schema import Loss

_DEFAULT = "pointwise_bce"
_HARD_TO_REACH = "margin_mse, pointwise_mse (both with activation: identity), pairwise_ranknet and list_mle learn them"
# What fields of other backends' losses are called here.
_HINTS = {
    "max_negatives": "train.train_group_size bounds the documents of a query",
    "max_positives": "train.train_group_size bounds the documents of a query",
    "temperature": "the scores are compared as they are",
}


def find_loss(job: Job) -> Loss:
    """Return the recipe's loss; a recipe without one has each document judged alone."""
    return job.loss or Loss(type=_DEFAULT)


def find_form(job: Job) -> str:
    """Return which rows the loss reads; those of the default where the loss is another backend's."""
    facts = find_loss(job).facts
    return (facts if facts.backend == job.recipe.backend else LOSSES[_DEFAULT]).form


def build_loss(loss: Loss) -> dict[str, Any]:
    """Return the loss as the worker reads it, every setting of its losses with its value."""
    known = {name: setting for one in _own_losses() for name, setting in one.settings.items()}
    given = {name: getattr(loss, name) for name in Loss.model_fields if name in known}
    return {"type": loss.type} | {
        name: known[name].default if value is None else value for name, value in given.items()
    }


def _own_losses() -> list[LossType]:
    return [LOSSES[name] for name in list_losses("sentence-transformers")]


def explain_loss(job: Job) -> tuple[Note, ...]:
    """Return where the loss and each of its settings come from, for `orch render --explain`."""
    loss, built = find_loss(job), build_loss(find_loss(job))
    origin, why = ("recipe", "loss") if job.recipe.loss else ("default", "each document is judged alone, by its label")
    notes = [Note("train", "loss", loss.type, origin, why)]
    given = loss.target is not None
    why = "loss.target" if given else "what this loss usually learns"
    notes.append(Note("train", "loss.target", find_target(loss), "recipe" if given else "default", why))
    for name, setting in sorted(loss.facts.settings.items()):
        given = getattr(loss, name) is not None
        origin, why = ("recipe", f"loss.{name}") if given else ("default", setting.meaning)
        notes.append(Note("train", f"loss.{name}", str(built[name]), origin, why))
    return tuple(notes)


def prepare_flags(loss: Loss, train: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the prepare stage needs to write the rows that the loss reads, and to refuse others."""
    flags: dict[str, Any] = {"loss": loss.type}
    target = find_target(loss)
    if loss.graded:
        flags["graded"] = True
    if target == "teacher" or loss.facts.learns == "teacher":
        flags["target"] = target
    if target == "teacher":
        flags["needs-scores"] = True
    if loss.facts.form == LISTS and "train_group_size" in train:
        flags["train-group-size"] = train["train_group_size"]
    return flags


def check_loss(job: Job, train: Mapping[str, Any]) -> Iterator[Found]:
    """Yield what is wrong with the loss: another backend's, settings that it does not have, a target that it cannot."""
    loss, known = find_loss(job), list_losses(job.recipe.backend)
    if loss.type not in known:
        message = f"the loss {loss.type} is not one of sentence-transformers' cross-encoders"
        yield ("loss",), Problem(message, f"one of {', '.join(known)}; left out, it is {_DEFAULT}")
        return
    facts = loss.facts
    allowed = {"type", "target", *facts.settings}
    for field in sorted(loss.model_fields_set - allowed):
        if getattr(loss, field) is not None:
            hint = _HINTS.get(field, f"its settings: {', '.join(sorted(allowed - {'type'}))}")
            yield ("loss", field), Problem(f"{loss.type} has no {field}", hint)
    if "train_group_size" in train and facts.form != LISTS:
        message = f"{loss.type} learns no lists: there is no group to bound"
        yield ("train", "train_group_size"), Problem(message, "remove it, or take a loss over lists")
    yield from _check_teacher(job, loss)


def _check_teacher(job: Job, loss: Loss) -> Iterator[Found]:
    if find_target(loss) != "teacher":
        if job.recipe.teacher is not None:
            message = "the teacher's scores would be computed and not learnt: the loss learns labels"
            yield ("teacher",), Problem(message, "say loss: {type: margin_mse}, or loss.target: teacher, or remove it")
        return
    if loss.type == "listwise_ce" and not loss.graded:
        message = "a teacher's scores are no single positive, which listwise_ce learns unless it is graded"
        yield ("loss", "target"), Problem(message, _HARD_TO_REACH)
    elif job.recipe.teacher is not None and not loss.facts.reads_logits:
        message = f"a teacher's scores are logits, of any size, and {loss.type} learns numbers from 0 to 1"
        yield ("loss", "target"), Problem(message, _HARD_TO_REACH)
    if job.recipe.teacher is not None and loss.activation == "sigmoid":
        message = "a teacher's scores are logits: a score that passed a sigmoid never reaches them"
        yield ("loss", "activation"), Problem(message, "say activation: identity")
