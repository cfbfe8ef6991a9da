"""YAML text → plain data in which every value knows its line and column."""

from __future__ import annotations

import copy
import datetime as dt
import os
import re
import stat
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import yaml

from orchestrator.errors import Problem, RecipeError, Where
from orchestrator.machine.secrets import describe_secret, find_secrets

Key = tuple[str | int, ...]

MAX_BYTES = 1_000_000
MAX_NODES = 10_000  # after aliases are followed: a "billion laughs" file stops here
MAX_DEPTH = 40
_MAX_INTEGER = 2**63
# Mappings whose keys are names of the recipe's own, or a backend's: an empty value takes such a key away.
_NAMED_FREELY: frozenset[Key] = frozenset({
    ("train",), ("gate",), ("launch", "env"), ("data", "columns"), ("evaluate", "guard"),
    ("sweep", "set"),
})  # fmt: skip

_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
# What YAML 1.1 lets stand in a file (production c-printable); its own error names a byte, not a line.
_UNPRINTABLE = re.compile("[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


class Source(msgspec.Struct, frozen=True):
    """Parsed recipe text: `data` is plain Python, `places` maps a path of keys to where it stands."""

    path: str
    data: dict[str, Any]
    places: dict[Key, Where]
    problems: tuple[Problem, ...] = ()

    def where(self, key: Key) -> Where:
        """Return the place of `key`, or of the nearest thing around it that has one."""
        while key and key not in self.places:
            key = key[:-1]
        return self.places.get(key, Where(self.path))


def load_source(path: Path) -> Source:
    """Read and parse one recipe file. Raises RecipeError when it is not one YAML mapping."""
    where = Where(str(path))
    try:
        found = path.stat()
        if not stat.S_ISREG(found.st_mode):  # opening a pipe would wait for its writer, reading a device might not end
            kind = "a folder" if stat.S_ISDIR(found.st_mode) else "a pipe or a device"
            raise RecipeError(f"this is {kind}, not a recipe", hint="name a .yaml file", where=where)
        if found.st_size > MAX_BYTES:
            message = f"the recipe is larger than {MAX_BYTES:,} bytes"
            raise RecipeError(message, hint="is this a data file?", where=where)
        data = path.read_bytes()
    except FileNotFoundError:
        raise RecipeError("there is no such recipe", hint="write one: orch init RECIPE", where=where) from None
    except OSError as error:
        hint = "check the path and its permissions"
        raise RecipeError(f"cannot be read: {error.strerror}", hint=hint, where=where) from None
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        message = f"not UTF-8 text (byte {error.start})"
        raise RecipeError(message, hint="save it as UTF-8", where=Where(str(path), line)) from None
    return parse_source(text, str(path))


def parse_source(text: str, path: str) -> Source:
    """Parse recipe text. Raises RecipeError when it is not one YAML mapping; other problems are collected."""
    if found := _UNPRINTABLE.search(text):
        line, column = text.count("\n", 0, found.start()) + 1, found.start() - text.rfind("\n", 0, found.start())
        message = f"not valid YAML: the character U+{ord(found[0]):04X} cannot stand in it"
        raise RecipeError(message, hint="remove it: it is invisible in most editors", where=Where(path, line, column))
    try:
        reader = _Reader(path)
        data = reader.read(text, ())
    except yaml.MarkedYAMLError as error:
        raise _syntax_error(error, text, path) from None
    except yaml.YAMLError as error:
        message = f"not valid YAML: {' '.join(str(error).split())}"
        raise RecipeError(message, hint="check indentation and quotes", where=Where(path)) from None
    if not isinstance(data, dict):
        hint = "start from: orch init recipe.yaml"
        raise RecipeError("a recipe is a mapping of keys to values", hint=hint, where=Where(path, 1))
    secrets = find_secrets(os.environ)
    # comments too: a run folder keeps a copy of them
    lines = ((Where(path, number), describe_secret(line, secrets)) for number, line in enumerate(text.splitlines(), 1))
    shown = [_build_secret_problem("the line", secret, where) for where, secret in lines if secret]
    hidden = shown or _find_written_secrets(data, (), reader.places, Where(path), secrets)
    return Source(path, data, reader.places, (*hidden, *reader.problems))


def apply_overrides(source: Source, overrides: tuple[str, ...]) -> Source:
    """Return the source with each `a.b=value` set. Raises RecipeError for text that is not of that form."""
    data, places = copy.deepcopy(source.data), dict(source.places)
    problems, secrets = [], find_secrets(os.environ)
    for text in overrides:
        where = Where(f"--set {_shown(text)}")
        dotted, equals, raw = text.partition("=")
        keys = tuple(dotted.split("."))
        if not equals or not all(keys):
            problems.append(Problem("not of the form a.b=value", "for example --set train.learning_rate=1e-5", where))
            continue
        if len(keys) > MAX_DEPTH:
            problems.append(Problem("a key nested beyond reason", "see the keys with: orch schema", where))
            continue
        if secret := describe_secret(text, secrets):
            problems.append(_build_secret_problem("the value", secret, Where(f"--set {dotted}")))
            continue
        value, found = parse_value(raw, where)
        problems += found or _find_written_secrets(value, (), {}, Where(f"--set {dotted}"), secrets)
        _set_value(data, places, keys, value, where)
    if problems:
        raise RecipeError.from_problems(problems)
    return msgspec.structs.replace(source, data=data, places=places)


def _set_value(data: dict[str, Any], places: dict[Key, Where], keys: tuple[str, ...], value: Any, where: Where) -> None:
    """Put a value where an override says, or take an optional key of a free mapping away; `where` is its new place."""
    target = data
    for depth, key in enumerate(keys[:-1], start=1):
        inner = target.get(key)
        if not isinstance(inner, dict):
            inner = target[key] = {}
            places[keys[:depth]] = where
        target = inner
    for known in [place for place in places if place[: len(keys)] == keys]:
        del places[known]
    if value is None and keys[:-1] in _NAMED_FREELY:
        target.pop(keys[-1], None)
        return
    target[keys[-1]] = value
    places[keys] = where


def _shown(text: str) -> str:
    """Return an override as messages show it: legible, and not longer than a line or two."""
    legible = "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in text)
    return legible if len(legible) <= 200 else legible[:199] + "…"  # noqa: PLR2004


def parse_value(raw: str, where: Where) -> tuple[Any, list[Problem]]:
    """Return what the text behind an override's `=` holds, and what is wrong with it."""
    if _UNPRINTABLE.search(raw):  # bytes that are not UTF-8 arrive as halves of surrogate pairs
        return None, [Problem("the value holds a control character, or is not UTF-8", "remove it", where)]
    if not raw.strip():
        return None, []
    reader = _Reader(where.path)
    try:
        value = reader.read(raw, ())
    except yaml.YAMLError:
        return raw, []  # text that is no YAML, such as "%x", is meant as itself
    except RecipeError as error:
        return None, [replace(problem, where=where) for problem in error.problems]
    return value, [replace(problem, where=where) for problem in reader.problems]


def _find_written_secrets(
    value: Any, key: Key, places: dict[Key, Where], where: Where, secrets: Mapping[str, str]
) -> list[Problem]:
    """Return the values that hold a secret which no line shows: YAML may escape it, or break it over lines."""
    where = places.get(key, where)
    if not isinstance(value, dict | list):
        secret = describe_secret(value, secrets) if isinstance(value, str) else None
        return [_build_secret_problem("the value", secret, where)] if secret else []
    parts = [(name, name) for name in value] if isinstance(value, dict) else []
    parts += [*(value.items() if isinstance(value, dict) else enumerate(value))]
    return [
        found for name, part in parts for found in _find_written_secrets(part, (*key, name), places, where, secrets)
    ]


def _build_secret_problem(what: str, secret: str, where: Where) -> Problem:
    hint = "remove it and set it in the environment of your shell: stages inherit that"
    return Problem(f"{what} holds {secret}", hint, where)


def _syntax_error(error: yaml.MarkedYAMLError, text: str, path: str) -> RecipeError:
    """Return a syntax error of the YAML library with its place and what to do about it."""
    mark = error.problem_mark or error.context_mark
    where = Where(path, mark.line + 1, mark.column + 1) if mark else Where(path)
    problem = error.problem or error.context or ""
    lines = text.splitlines()
    line = lines[mark.line] if mark and mark.line < len(lines) else ""
    hint = "check indentation and quotes"
    if "\t" in line[: len(line) - len(line.lstrip())] or "\\t" in problem:
        hint = "tabs cannot indent YAML: use spaces"
    elif "another document" in problem:
        hint = "keep one recipe a file: remove the line --- and what follows it"
    elif "tag" in problem:
        hint = "remove the tag (what begins with !): recipes hold plain values"
    return RecipeError(f"not valid YAML: {problem}", hint=hint, where=where)


class _Reader:
    """Builds plain data from YAML text and remembers where each value stands."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.places: dict[Key, Where] = {}
        self.problems: list[Problem] = []
        self._nodes = 0
        self._loader: Any = None

    def read(self, text: str, key: Key) -> Any:
        """Return the one document of `text`. Raises YAMLError, and RecipeError for one built to explode."""
        self._refuse_depth(text)
        self._loader = _Loader(text)
        try:
            node = self._loader.get_single_node()
            return None if node is None else self._value(node, key)
        finally:
            self._loader.dispose()

    def _refuse_depth(self, text: str) -> None:
        """Raise RecipeError for text nested so deeply that libyaml's binding, which recurses in C, would crash."""
        depth = 0
        for event in yaml.parse(text, Loader=_Loader):
            if isinstance(event, yaml.CollectionStartEvent):
                depth += 1
                if depth > MAX_DEPTH:
                    raise self._beyond_reason(event)
            elif isinstance(event, yaml.CollectionEndEvent):
                depth -= 1

    def _beyond_reason(self, at: Any) -> RecipeError:
        hint = "nest and repeat less: remove YAML aliases (*name) and superfluous brackets"
        return RecipeError("the recipe is nested or repeated beyond reason", hint=hint, where=self._where(at))

    def _value(self, node: Any, key: Key) -> Any:
        self._nodes += 1
        if self._nodes > MAX_NODES or len(key) > MAX_DEPTH:
            raise self._beyond_reason(node)
        self.places.setdefault(key, self._where(node))
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, key)
        if isinstance(node, yaml.SequenceNode):
            return [self._value(item, (*key, index)) for index, item in enumerate(node.value)]
        return self._scalar(node)

    def _scalar(self, node: Any) -> Any:
        """Return a scalar as text, number, truth value or None; what is none of these becomes a problem."""
        try:
            value = self._loader.construct_object(node)
        except yaml.YAMLError:
            raise
        except Exception as error:  # noqa: BLE001  (PyYAML's constructors: ValueError for 2024-13-45, KeyError for !!bool x)
            message = f"not valid YAML: {node.value[:40]!r} is no {node.tag.rpartition(':')[2]}: {error}"
            raise RecipeError(message, hint="put the value in quotes", where=self._where(node)) from None
        if isinstance(value, dt.date):  # and a datetime: no recipe has dates, but names may look like one
            return node.value
        what = None
        if isinstance(value, str):
            if "\0" in value:
                self.problems.append(Problem("the value holds the NUL character", "remove it", self._where(node)))
            return value.replace("\0", "")
        if isinstance(value, int) and abs(value) >= _MAX_INTEGER:
            what, hint = "the number has more than 64 bits", "write a smaller one, or put it in quotes if it is a name"
        elif value is not None and not isinstance(value, str | int | float):
            what, hint = f"a recipe cannot hold {type(value).__name__}", "remove the tag (what begins with !)"
        if what is None:
            return value
        self.problems.append(Problem(what, hint, self._where(node)))
        return None

    def _mapping(self, node: Any, key: Key) -> dict[str, Any]:
        data: dict[str, Any] = {}
        for key_node, value_node in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                hint = "write it as one word or in quotes"
                self.problems.append(Problem("a key must be plain text", hint, self._where(key_node)))
                continue
            name = key_node.value
            place: Key = (*key, name)
            if name in data:
                message = f"the key {name!r} stands twice (first on line {self.places[place].line})"
                self.problems.append(Problem(message, "keep one", self._where(key_node)))
            self.places[place] = self._where(key_node)
            data[name] = self._value(value_node, place)
        return data

    def _where(self, node: Any) -> Where:
        return Where(self.path, node.start_mark.line + 1, node.start_mark.column + 1)
