"""Which arguments each backend accepts, by version, and whether what a recipe says of them can be used."""

from __future__ import annotations

import difflib
import json
import math
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

import msgspec

from orchestrator.errors import Problem
from orchestrator.machine.packages import parse_release
from orchestrator.machine.tables import load_record

FOLDER = Path(__file__).parent  # of the snapshots, and of the tables of words
_TRUE, _FALSE = {"true", "yes", "on", "1"}, {"false", "no", "off", "0"}
_NEAR = 0.78  # what is less alike is another word: use_badam is no use_dora
_TOKENS = "new_special_tokens"  # a comma may be one of them, or a part of one
_ARTICLES = {
    "int": "a whole number", "float": "a number", "bool": "true or false", "str": "text",
    "list[str]": "a list of words", "dict": "a mapping", "json": "a mapping or a JSON file",
}  # fmt: skip
# How other tools write a choice.
_WORDS = {
    "bf16": "bfloat16", "fp16": "float16", "half": "float16", "fp32": "float32", "float": "float32",
    "bitsandbytes": "bnb", "torch.bfloat16": "bfloat16", "torch.float16": "float16", "torch.float32": "float32",
}  # fmt: skip


class VersionSet(msgspec.Struct, frozen=True):
    """One of the sets of versions that a snapshot holds; `index` is its number there, 0 the tested set."""

    index: int
    versions: dict[str, str]


@cache
def read_snapshot(name: str) -> dict[str, Any]:
    """Return a snapshot of this folder, or by its own path: `module`, `deciding`, `sets` and `items`.

    `deciding` are the packages whose versions decide it: the one that reads the command line comes first. Each item has
    the numbers of the sets that have it; an argument whose type, default or choices differ stands there once a form.
    """
    raw: dict[str, Any] = json.loads((Path(__file__).parent / f"{name}.json").read_text(encoding="utf-8"))
    return raw


def find_modules(names: Iterable[str]) -> dict[str, str]:
    """Return the modules that are run as a stage, each with the snapshot of what it accepts."""
    return {read_snapshot(name)["module"]: name for name in names}


def version_sets(name: str) -> tuple[VersionSet, ...]:
    """Return every set of versions that the snapshot holds, the tested one first."""
    return tuple(VersionSet(index, versions) for index, versions in enumerate(read_snapshot(name)["sets"]))


def is_exact(name: str, found: VersionSet, versions: Mapping[str, str]) -> bool:
    """Tell whether the snapshot was taken from these very versions, as far as they decide it."""
    return all(found.versions[package] == versions.get(package) for package in read_snapshot(name)["deciding"])


def is_near(name: str, found: VersionSet, versions: Mapping[str, str]) -> bool:
    """Tell whether the snapshot was taken from the same minor versions: they differ in no argument."""
    near = [package for package in read_snapshot(name)["deciding"] if package in versions]
    return bool(near) and all(_count(found.versions[one]) // 1_000 == _count(versions[one]) // 1_000 for one in near)


def find_set(name: str, versions: Mapping[str, str] | None) -> VersionSet:
    """Return the set of exactly these versions, else the nearest; the tested one where nothing is known.

    The package that reads the command line comes first, by its minor version; the others decide among equals.
    """
    sets = version_sets(name)
    own, *others = read_snapshot(name)["deciding"]
    if versions is None or own not in versions:
        return sets[0]

    def apart(one: VersionSet, package: str, unit: int = 1) -> int:
        version = one.versions[package]
        return abs(_count(version) // unit - _count(versions.get(package, version)) // unit)

    def distance(one: VersionSet) -> tuple[int, ...]:
        return (apart(one, own, 1_000), *(apart(one, package) for package in others), apart(one, own))

    return min(sets, key=distance)


def items_of(name: str, index: int) -> list[dict[str, Any]]:
    """Return what the set of that number holds: arguments, or models."""
    return [item for item in read_snapshot(name)["items"] if index in item["sets"]]


def describe_versions(name: str, versions: Mapping[str, str]) -> str:
    """Return the versions that decide a snapshot as text, such as `ms-swift 4.6.0 with transformers 5.19.0`."""
    return " with ".join(
        f"{package} {versions[package]}" for package in read_snapshot(name)["deciding"] if package in versions
    )


def _count(version: str) -> int:
    """Return a version's first three numbers as one, three digits each; what is not there counts as 0."""
    major, minor, patch = (*parse_release(version), 0, 0, 0)[:3]
    return major * 1_000_000 + minor * 1_000 + patch


class Argument(msgspec.Struct, frozen=True):
    """One argument of a backend's own parser; `type` is int, float, bool, str, list[str], dict or json."""

    name: str
    type: str
    default: Any
    choices: tuple[str, ...] | None
    required: bool = False


def load_words(name: str) -> dict[str, Any]:
    """Return one of the tables of words beside this module: what names mean, and what to say of them."""
    return load_record(FOLDER / f"{name}.yaml", dict[str, Any])


def load_arguments(name: str, versions: Mapping[str, str] | None = None) -> dict[str, Argument]:
    """Return what the backend of these versions accepts, by the snapshot `name` (such as `swift`).

    Without a snapshot of exactly these versions it is the nearest one; without versions it is the tested set's, by
    which recipes are read before anybody knows what is installed.
    """
    return _load_set(name, find_set(name, versions).index)


@cache
def _load_set(name: str, index: int) -> dict[str, Argument]:
    return {item["name"]: parse_argument(item) for item in items_of(name, index)}


def parse_argument(item: Mapping[str, Any]) -> Argument:
    """Return one argument of a snapshot, or of what `workers arguments` prints. Raises KeyError, TypeError."""
    choices = tuple(map(str, item["choices"])) if item["choices"] else None
    return Argument(item["name"], item["type"], item["default"], choices, required=bool(item["required"]))


def build_schema(arguments: Mapping[str, Argument], reserved: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """Return the JSON Schema of each argument that a recipe may give; `reserved` are said elsewhere in it."""
    types = {"int": "integer", "float": "number", "bool": "boolean", "str": "string"}
    schema: dict[str, dict[str, Any]] = {}
    for name, argument in sorted(arguments.items()):
        if name in reserved:
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
    train: Mapping[str, Any],
    known: Mapping[str, Argument],
    reserved: Mapping[str, str],
    *,
    whose: str,
    elsewhere: Mapping[str, str | Problem] = MappingProxyType({}),
) -> list[tuple[str, Problem]]:
    """Return unknown names, names that are said elsewhere (`reserved`: name → where), wrong types and choices.

    `elsewhere` says what to do about names that other trainers have, or the whole problem.
    """
    problems: list[tuple[str, Problem]] = []
    for name, value in train.items():
        if name in reserved:
            problems.append((name, Problem(f"train.{name} is not set here", reserved[name])))
        elif name not in known:
            other = elsewhere.get(name) or find_own_name(name, known.keys() - reserved.keys(), reserved)
            unknown = f"unknown argument {name!r}: {whose} have none of that name"
            problems.append((name, other if isinstance(other, Problem) else Problem(unknown, other)))
        elif isinstance(result := coerce(known[name], value), Problem):
            problems.append((name, result))
    return problems


@cache
def _other_tools(part: str) -> dict[str, Any]:
    """Return a part of other_tools.yaml by each single name."""
    return {name: ours for names, ours in load_words("other_tools")[part].items() for name in names.split()}


def is_foreign(name: str) -> bool:
    """Tell whether another tool calls an argument so."""
    return name in _other_tools("names") or name in _other_tools("elsewhere")


def find_own_name(name: str, known: Collection[str], reserved: Mapping[str, str]) -> str:
    """Return what to say instead of a name that a trainer does not have: another tool's, or one that is near.

    `known` are its own names, without those that a recipe says elsewhere; `reserved` says where.
    """
    names, elsewhere = _other_tools("names"), _other_tools("elsewhere")
    words = {ours: ours.split()[0].strip(":,") for ours in names.get(name, ())}
    if own := next((ours for ours, word in words.items() if word in known), None):
        return f"say {own}"
    if place := next((reserved[ours] for ours in words if ours in reserved), None) or elsewhere.get(name):
        return place
    if words:
        return f"remove it: this trainer has no {next(iter(words.values()))}"
    near = difflib.get_close_matches(name, sorted(known), n=1, cutoff=_NEAR)
    return f"did you mean {near[0]!r}?" if near else "`orch schema` lists every argument"


def coerce_all(train: Mapping[str, Any], known: Mapping[str, Argument]) -> dict[str, Any]:
    """Return the values of `train:` as the backend's types; wrong ones were reported by `check_arguments`."""
    typed = {name: coerce(known[name], value) for name, value in train.items() if name in known}
    return {name: value for name, value in typed.items() if not isinstance(value, Problem)}


def coerce(argument: Argument, value: Any) -> Any | Problem:
    """Return `value` as the argument's type, or what is wrong with it.

    YAML reads `1e-4` as text and `no` as a boolean; the backend's own type decides.
    """
    problem = Problem(f"{argument.name}: expected {_ARTICLES[argument.type]}, got {value!r}")
    if value is None:
        return Problem(f"{argument.name} has no value", "give one, or remove the line")
    if argument.type == "list[str]":
        apart = r"\s+" if argument.name == _TOKENS else r"[,\s]+"
        items = value if isinstance(value, list) else [item for item in re.split(apart, str(value)) if item]
        return (
            [str(item) for item in items] if items and not any(isinstance(i, dict | list) for i in items) else problem
        )
    if argument.type in {"dict", "json"}:
        return value if isinstance(value, dict | str) else problem
    if isinstance(value, dict | list):
        return _one_place(value) if argument.name == "report_to" else problem
    if argument.type == "bool":
        word = str(value).lower()
        if word == "auto":  # axolotl's bf16: auto
            return replace(problem, hint="remove it: left out, the trainer or the hardware decides")
        return word in _TRUE if word in _TRUE | _FALSE else problem
    return _number(argument, value, problem) if argument.type in {"int", "float"} else _text(argument, value)


def _text(argument: Argument, value: Any) -> str | Problem:
    text = {True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value)
    if argument.choices and text not in argument.choices:
        choices = [choice for choice in argument.choices if choice != "None"]  # Python's word for: left out
        near = difflib.get_close_matches(text, choices, n=1)
        own = _WORDS.get(text) if _WORDS.get(text) in choices else next(iter(near), None)
        hint = f"say {own}" if own else "choose one of them, or remove it"
        return Problem(f"{argument.name}: {text!r} is not one of {', '.join(choices)}", hint)
    if argument.name == "report_to" and len(text.replace(",", " ").split()) > 1:
        return _one_place(text)
    return text


def _one_place(value: Any) -> Problem:
    return Problem(f"report_to: {value!r}: this trainer takes one name here", "keep one of them, or say all")


def _number(argument: Argument, value: Any, problem: Problem) -> Any | Problem:
    try:
        number = float(value)
    except ValueError:
        return problem
    if isinstance(value, bool) or not math.isfinite(number):
        return problem
    if argument.type == "int":
        return int(number) if number == int(number) else problem
    return int(number) if isinstance(value, int) else number
