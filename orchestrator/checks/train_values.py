"""What the trainer is really told, as text: the plan's own notes, which are the same for every backend."""

from __future__ import annotations

from collections.abc import Mapping

from orchestrator.recipe.plan import Plan

_TRUE = frozenset({"true", "1", "yes", "on"})


def read_train_values(plan: Plan) -> dict[str, str]:
    """Return every argument of the train stage, given or default; lists are words with spaces between them."""
    return {note.argument: note.value for note in plan.notes if note.stage == "train"}


def is_on(values: Mapping[str, str], name: str, *, default: bool = False) -> bool:
    """Tell whether a switch of the trainer is on; `default` is what the trainer does where nothing is said."""
    return values[name].lower() in _TRUE if name in values else default
