"""What pydantic finds wrong with a recipe's values, in the words of a recipe: one finding for each value."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

Key = tuple[str | int, ...]

_WORDS = {
    "string_type": "text",
    "string_too_short": "text that is not empty",
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "int_parsing_size": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "float_parsing": "a number",
    "finite_number": "a number",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "dict_type": "a mapping of keys to values",
    "model_type": "a mapping of keys to values",
    "model_attributes_type": "a mapping of keys to values",
    "tuple_type": "a list",
    "list_type": "a list",
}
_BOUNDS = {
    "greater_than": "a number above {gt:g}",
    "greater_than_equal": "{ge:g} or more",
    "less_than": "a number below {lt:g}",
    "less_than_equal": "{le:g} or less",
    "too_short": "at least {min_length} entry",
    "too_long": "at most {max_length} entries",
}
# What else may stand where a mapping or a list may.
_SHORT_FORMS: dict[Key, str] = {
    ("model",): "a hub id, a folder or a mapping",
    ("teacher",): "a hub id, a folder or a mapping",
    ("loss",): "the name of a loss or a mapping",
    ("data", "train"): "a name or a list of them",
    ("data", "eval"): "a name or a list of them",
    ("loss", "mrl_dims"): "a list of sizes, or a mapping of sizes to weights",
    ("loss", "matryoshka_dims"): "a list of sizes, or a mapping of sizes to weights",
}


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
    kind, context = item["type"], item.get("ctx", {})
    if kind == "literal_error":
        return str(context["expected"])
    if kind in _BOUNDS:
        return _BOUNDS[kind].format(**context)
    if kind in _WORDS and path in _SHORT_FORMS and kind != "string_type":
        return _SHORT_FORMS[path]
    return _WORDS.get(kind) or str(item["msg"]).replace("Input should be ", "")


def _find_path(data: Any, place: Iterable[Any]) -> Key:
    """Return the path of the value that an error is about: pydantic names alternatives and validators in it too."""
    path: Key = ()
    for part in place:
        inside = isinstance(data, list) and isinstance(part, int) and part < len(data)
        if inside or (isinstance(data, dict) and part in data):
            data = data[part]
            path = (*path, part)
    return path
