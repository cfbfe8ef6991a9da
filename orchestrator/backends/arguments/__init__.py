"""Which arguments each backend accepts: JSON snapshots taken from the tested versions, and their reader."""

from __future__ import annotations

import difflib
import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.errors import Problem

if TYPE_CHECKING:
    from collections.abc import Mapping

_TRUE, _FALSE = {"true", "yes", "on", "1"}, {"false", "no", "off", "0"}


@dataclass(frozen=True)
class Argument:
    """One argument of a backend's own parser; `type` is int, float, bool, str, list[str], dict or json."""

    name: str
    type: str
    default: Any
    choices: tuple[str, ...] | None


@cache
def load_arguments(name: str) -> dict[str, Argument]:
    """Return the snapshot `name` (such as `flagembedding.decoder_only`), argument by argument."""
    raw = json.loads((Path(__file__).parent / f"{name}.json").read_text(encoding="utf-8"))
    return {
        item["name"]: Argument(
            item["name"], item["type"], item["default"], tuple(map(str, item["choices"])) if item["choices"] else None
        )
        for item in raw["arguments"]
    }


def snapshot_versions(name: str) -> dict[str, str]:
    """Return the versions that the snapshot was taken from."""
    raw = json.loads((Path(__file__).parent / f"{name}.json").read_text(encoding="utf-8"))
    return {str(key): str(value) for key, value in raw["versions"].items()}


def build_schema(arguments: Mapping[str, Argument], owned: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """Return the JSON Schema of each argument that a recipe may give; `owned` are said elsewhere in it."""
    types = {"int": "integer", "float": "number", "bool": "boolean", "str": "string"}
    schema: dict[str, dict[str, Any]] = {}
    for name, argument in sorted(arguments.items()):
        if name in owned:
            continue
        one: dict[str, Any] = {"type": types[argument.type]} if argument.type in types else {}
        if argument.type == "list[str]":
            one = {"type": "array", "items": {"type": "string"}}
        if argument.choices:
            one["enum"] = list(argument.choices)
        if argument.type == "float":
            one["type"] = ["number", "string"]  # YAML reads 1e-4 as text
        if argument.default is not None and isinstance(argument.default, bool | int | float | str):
            one["default"] = argument.default
        schema[name] = one
    return schema


def check_arguments(
    train: Mapping[str, Any], known: Mapping[str, Argument], owned: Mapping[str, str], *, whose: str
) -> list[tuple[str, Problem]]:
    """Return unknown names, names that are said elsewhere (`owned`: name → where), wrong types and choices."""
    problems: list[tuple[str, Problem]] = []
    for name, value in train.items():
        if name in owned:
            problems.append((name, Problem(f"train.{name} is not set here", owned[name])))
        elif name not in known:
            near = difflib.get_close_matches(name, known.keys() - owned.keys(), n=1)
            hint = f"did you mean {near[0]!r}?" if near else "`orch schema` lists every argument"
            problems.append((name, Problem(f"unknown argument {name!r}: {whose} have none of that name", hint)))
        elif isinstance(result := coerce(known[name], value), Problem):
            problems.append((name, result))
    return problems


def coerce_all(train: Mapping[str, Any], known: Mapping[str, Argument]) -> dict[str, Any]:
    """Return the values of `train:` as the backend's types; wrong ones were reported by `check_arguments`."""
    typed = {name: coerce(known[name], value) for name, value in train.items() if name in known}
    return {name: value for name, value in typed.items() if not isinstance(value, Problem)}


def coerce(argument: Argument, value: Any) -> Any | Problem:
    """Return `value` as the argument's type, or what is wrong with it.

    YAML reads `1e-4` as text and `no` as a boolean; the backend's own type decides.
    """
    problem = Problem(f"{argument.name}: expected {_article(argument.type)}, got {value!r}")
    if value is None:
        return Problem(f"{argument.name} has no value", "give one, or remove the line")
    if argument.type == "list[str]":
        items = value if isinstance(value, list) else str(value).split()
        return (
            [str(item) for item in items] if items and not any(isinstance(i, dict | list) for i in items) else problem
        )
    if argument.type in {"dict", "json"}:
        return value if isinstance(value, dict | str) else problem
    if isinstance(value, dict | list):
        return problem
    if argument.type == "bool":
        word = str(value).lower()
        return word in _TRUE if word in _TRUE | _FALSE else problem
    if argument.type in {"int", "float"}:
        return _number(argument, value, problem)
    text = {True: "yes", False: "no"}.get(value, value) if isinstance(value, bool) else value
    if argument.choices and str(text) not in argument.choices:
        return Problem(f"{argument.name}: {text!r} is not one of {', '.join(argument.choices)}")
    return str(text)


def _number(argument: Argument, value: Any, problem: Problem) -> Any | Problem:
    if isinstance(value, bool):
        return problem
    try:
        number = float(value)
    except ValueError:
        return problem
    if number != number or number in {float("inf"), float("-inf")}:  # noqa: PLR0124  (NaN is not itself)
        return problem
    if argument.type == "int":
        return int(number) if number == int(number) else problem
    return int(number) if isinstance(value, int) else number


def _article(kind: str) -> str:
    names = {
        "int": "a whole number", "float": "a number", "bool": "true or false", "str": "text",
        "list[str]": "a list of words", "dict": "a mapping", "json": "a mapping or a JSON file",
    }  # fmt: skip
    return names[kind]
