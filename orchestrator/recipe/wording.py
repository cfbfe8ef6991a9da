"""What pydantic finds wrong with a recipe's values, in the words of a recipe: one finding for each value."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from orchestrator.machine.tables import load_record

Key = tuple[str | int, ...]


@cache
def _load_words() -> dict[str, dict[str, str]]:
    return load_record(Path(__file__).with_suffix(".yaml"), dict[str, dict[str, str]])


@dataclass(frozen=True)
class Finding:
    """What is wrong with one value: its path in the recipe, what may stand there, and pydantic's own kind."""

    path: Key
    kind: str
    expected: str
    choices: str | None
    context: dict[str, Any]
    message: str


def group_findings(data: Any, items: Iterable[Any]) -> list[Finding]:
    """Return pydantic's errors, one for each value: alternatives of one value (a number, or a word) are joined."""
    grouped: dict[Key, list[Any]] = {}
    for item in items:
        found = _find_path(data, item["loc"])
        if item["type"] == "missing":
            found = tuple(part for part in item["loc"] if part != "_")
        grouped.setdefault((*found, item["type"]) if item["type"] == "missing" else found, []).append(item)
    findings = [_join(path, items) for path, items in grouped.items()]
    inner = {finding.path[:-1] for finding in findings}  # a bad entry of a list leaves it one entry short
    return [finding for finding in findings if finding.kind != "too_short" or finding.path not in inner]


def _join(path: Key, items: list[Any]) -> Finding:
    first = items[0]
    if first["type"] == "missing":
        path = path[:-1]
    literal = next((item for item in items if item["type"] == "literal_error"), None)
    words = dict.fromkeys(_expect(path, item) for item in items)
    return Finding(
        path,
        first["type"] if len(items) == 1 else "several",
        " or ".join(words),
        literal["ctx"]["expected"] if literal else None,
        first.get("ctx", {}),
        first["msg"],
    )


def _expect(path: Key, item: Any) -> str:
    """Return what may stand at a path, by one of pydantic's errors."""
    kind, context, known = item["type"], item.get("ctx", {}), _load_words()
    if kind == "literal_error":
        return str(context["expected"])
    if kind in known["bounds"]:
        return known["bounds"][kind].format(**context)
    short = known["short_forms"].get(".".join(map(str, path)))
    if kind in known["words"] and short and kind != "string_type":
        return short
    return known["words"].get(kind) or str(item["msg"]).replace("Input should be ", "")


def _find_path(data: Any, place: Iterable[Any]) -> Key:
    """Return the path of the value that an error is about: pydantic names alternatives and validators in it too."""
    path: Key = ()
    for part in place:
        inside = isinstance(data, list) and isinstance(part, int) and part < len(data)
        if inside or (isinstance(data, dict) and part in data):
            data = data[part]
            path = (*path, part)
    return path
