"""The arguments of a train command in reading order, each with where it comes from."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from orchestrator.backends.arguments import Argument
from orchestrator.backends.spellings import Translation
from orchestrator.recipe.plan import Note


@dataclass(frozen=True)
class RenderedArgument:
    """One argument of the train command, and where it comes from."""

    name: str
    value: Any
    origin: str
    why: str


class ArgumentList:
    """Collects the train command's arguments in reading order; what the recipe gives wins over every default."""

    def __init__(self, translation: Translation) -> None:
        self._translation = translation
        self._items: dict[str, RenderedArgument] = {}

    def put(self, name: str, value: Any, origin: str, why: str) -> None:
        """Add one argument, with the recipe's value where it has one."""
        if name in self._translation.arguments:
            value = self._translation.arguments[name]
            why_translated = self._translation.why.get(name)
            origin, why = ("translated", why_translated) if why_translated else ("recipe", f"train.{name}")
        self._items[name] = RenderedArgument(name, value, origin, why)

    def put_defaults(self, known: Mapping[str, Argument], names: Iterable[str], why: str) -> None:
        """Add arguments that would otherwise be set where nobody sees it."""
        for name in names:
            self.put(name, known[name].default, "default", why)

    def put_rest(self) -> None:
        """Add what the recipe gives and nothing has asked for yet."""
        for name, value in self._translation.arguments.items():
            if name not in self._items:
                self.put(name, value, "recipe", f"train.{name}")

    def items(self) -> list[RenderedArgument]:
        """Return all arguments in the order in which they were added."""
        return list(self._items.values())


def build_notes(arguments: Iterable[RenderedArgument], translation: Translation) -> tuple[Note, ...]:
    """Return the notes of `orch render --explain` for a train command."""
    notes = [Note("train", item.name, _show(item.value), item.origin, item.why) for item in arguments]
    notes += [Note("train", name, "(not rendered)", "translated", why) for name, why in translation.dropped.items()]
    return tuple(notes)


def _show(value: Any) -> str:
    if isinstance(value, dict):
        return json.dumps(value, ensure_ascii=False, sort_keys=True)
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)
