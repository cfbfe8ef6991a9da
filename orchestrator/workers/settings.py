"""Read a JSON object as a frozen dataclass whose fields say what they take; every problem is named at once.

A field is `Annotated[type, Rule]`, a plain str or bool, another dataclass, or one of these or None.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar

from orchestrator.workers.failure import WorkerError

T = TypeVar("T")


@dataclass(frozen=True)
class Rule:
    """What a value must be; `words` say it behind the value's name, and may hold `{value}`."""

    words: str
    allows: Callable[[Any], bool]


def one_of(*choices: str) -> Rule:
    """Return the rule for one of these texts."""
    return Rule(f"is {{value!r}}; known are {', '.join(choices)}", lambda value: value in choices)


def or_null(rule: Rule) -> Rule:
    """Return the rule for the same value or none."""
    return Rule(f"{rule.words} or null", lambda value: value is None or rule.allows(value))


def names_of(what: str) -> Rule:
    """Return the rule for a list of names, one at least."""

    def allows(value: Any) -> bool:
        return isinstance(value, list) and bool(value) and all(map(TEXT.allows, value))

    return Rule(f"must be a list of names of {what}", allows)


def is_number(value: Any) -> bool:
    """Tell whether a value is a number, which true and false are not."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)


STRING = Rule("must be a text", lambda value: isinstance(value, str))
TEXT = Rule("must be a text that is not empty", lambda value: isinstance(value, str) and bool(value))
SWITCH = Rule("must be true or false", lambda value: isinstance(value, bool))
COUNT = Rule("must be a whole number of at least 1", lambda value: type(value) is int and value >= 1)
# NaN compares false with everything
SHARE = Rule("must be a number from 0 to 1", lambda value: is_number(value) and 0 <= value <= 1)
AMOUNT = Rule("must be a number of at least 0", lambda value: is_number(value) and value >= 0)
FACTOR = Rule("must be a number above 0", lambda value: is_number(value) and value > 0)
_OF_TYPES = {str: STRING, bool: SWITCH}  # what a field takes that names no rule


def parse_settings(cls: type[T], raw: Any, origin: str) -> T:
    """Return the settings. Raises WorkerError with every problem, each line beginning with `origin`."""
    if problems := list(find_problems(cls, raw)):
        raise WorkerError(*(f"{origin}: {problem}" for problem in problems))
    return _build(cls, raw)


def find_problems(cls: type, raw: Any, prefix: str = "") -> Iterator[str]:
    """Yield one line a key that is unknown or missing, and a value that is not allowed."""
    if not isinstance(raw, dict):
        yield f"{prefix.rstrip('.') or 'this'} must be an object"
        return
    known = {field.name: field for field in dataclasses.fields(cls)}
    for key in raw:
        if key not in known:
            yield f"{prefix}{key} is not a setting; known are {', '.join(known)}"
    for name, (inner, rule) in _read_hints(cls).items():
        if name not in raw:
            if known[name].default is known[name].default_factory is dataclasses.MISSING:
                yield f"{prefix}{name} is missing"
        elif rule is not None and not rule.allows(raw[name]):
            yield f"{prefix}{name} {rule.words.format(value=raw[name])}"
        elif dataclasses.is_dataclass(inner) and raw[name] is not None:
            yield from find_problems(inner, raw[name], f"{prefix}{name}.")


def _build(cls: type[T], raw: dict[str, Any]) -> T:
    built = {}
    for name, (inner, _) in _read_hints(cls).items():
        if name in raw:
            value = raw[name]
            if value is not None and dataclasses.is_dataclass(inner):
                value = _build(inner, value)
            built[name] = Path(value) if value is not None and inner is Path else value
    return cls(**built)


def _read_hints(cls: type) -> dict[str, tuple[type, Rule | None]]:
    """Return the type of each field, without None, and its rule."""
    found = {}
    for name, hint in typing.get_type_hints(cls, include_extras=True).items():
        bare, *marks = typing.get_args(hint) if typing.get_origin(hint) is Annotated else (hint,)
        parts = typing.get_args(bare) if isinstance(bare, types.UnionType) else (bare,)
        inner = next(part for part in parts if part is not type(None))
        found[name] = (inner, marks[0] if marks else _OF_TYPES.get(inner))
    return found
