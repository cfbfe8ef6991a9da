"""YAML text → plain data in which every value knows its line and column."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import yaml

from orchestrator.errors import Problem, RecipeError, Where

if TYPE_CHECKING:
    from pathlib import Path

Key = tuple[str | int, ...]

MAX_BYTES = 1_000_000
MAX_NODES = 20_000  # after aliases are followed: a "billion laughs" file stops here
MAX_DEPTH = 40

_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@dataclass(frozen=True)
class Source:
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
        if path.stat().st_size > MAX_BYTES:
            raise RecipeError(
                f"the recipe is larger than {MAX_BYTES:,} bytes", hint="is this a data file?", where=where
            )
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise RecipeError("there is no such recipe", hint=f"write one: orch init {path}", where=where) from None
    except IsADirectoryError:
        raise RecipeError("this is a folder, not a recipe", hint="name a .yaml file", where=where) from None
    except UnicodeDecodeError as error:
        raise RecipeError(f"not UTF-8 text (byte {error.start})", hint="save it as UTF-8", where=where) from None
    except OSError as error:
        raise RecipeError(f"cannot be read: {error.strerror}", where=where) from None
    return parse_source(text, str(path))


def parse_source(text: str, path: str) -> Source:
    """Parse recipe text. Raises RecipeError when it is not one YAML mapping; other problems are collected."""
    try:
        loader = _Loader(text)
        try:
            node = loader.get_single_node()
            if not isinstance(node, yaml.MappingNode):
                raise RecipeError(
                    "a recipe is a mapping of keys to values",
                    hint="start from: orch init recipe.yaml",
                    where=Where(path, 1),
                )
            reader = _Reader(path, loader)
            data = reader.value(node, ())
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = Where(path, mark.line + 1, mark.column + 1) if mark else Where(path)
        hint = (
            "tabs cannot indent YAML: use spaces" if "\\t" in (error.problem or "") else "check indentation and quotes"
        )
        raise RecipeError(f"not valid YAML: {error.problem or error.context}", hint=hint, where=where) from None
    except yaml.YAMLError as error:
        raise RecipeError(f"not valid YAML: {' '.join(str(error).split())}", where=Where(path)) from None
    except ValueError as error:  # such as the date 2024-13-45
        raise RecipeError(f"not valid YAML: {error}", hint="put the value in quotes", where=Where(path)) from None
    return Source(path, data, reader.places, tuple(reader.problems))


def apply_overrides(source: Source, overrides: tuple[str, ...]) -> Source:
    """Return the source with each `a.b=value` set. Raises RecipeError for text that is not of that form."""
    data, places = _copy(source.data), dict(source.places)
    problems = []
    for text in overrides:
        where = Where(f"--set {text}")
        dotted, equals, raw = text.partition("=")
        keys = tuple(dotted.split("."))
        if not equals or not all(keys):
            problems.append(Problem("not of the form a.b=value", "for example --set train.learning_rate=1e-5", where))
            continue
        try:
            value = yaml.load(raw, Loader=_Loader) if raw.strip() else None  # noqa: S506  (a safe loader)
        except (yaml.YAMLError, ValueError):
            value = raw  # text that is no YAML, such as "%x", is meant as itself
        target = data
        for depth, key in enumerate(keys[:-1], start=1):
            inner = target.get(key)
            if not isinstance(inner, dict):
                inner = target[key] = {}
                places[keys[:depth]] = where
            target = inner
        target[keys[-1]] = value
        for known in [place for place in places if place[: len(keys)] == keys]:
            del places[known]
        places[keys] = where
    if problems:
        raise RecipeError.from_problems(problems)
    return replace(source, data=data, places=places)


def _copy(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _copy(item) for key, item in value.items()}
    return [_copy(item) for item in value] if isinstance(value, list) else value


class _Reader:
    """Builds plain data from YAML nodes and remembers where each value stands."""

    def __init__(self, path: str, loader: Any) -> None:
        self.path = path
        self.loader = loader
        self.places: dict[Key, Where] = {}
        self.problems: list[Problem] = []
        self.nodes = 0

    def value(self, node: Any, key: Key) -> Any:
        """Return the node's value as plain Python; raises RecipeError for a document built to explode."""
        self.nodes += 1
        where = self._where(node)
        if self.nodes > MAX_NODES or len(key) > MAX_DEPTH:
            raise RecipeError(
                "the recipe is nested or repeated beyond reason", hint="remove its YAML aliases", where=where
            )
        self.places.setdefault(key, where)
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, key)
        if isinstance(node, yaml.SequenceNode):
            return [self.value(item, (*key, index)) for index, item in enumerate(node.value)]
        return self.loader.construct_object(node)

    def _mapping(self, node: Any, key: Key) -> dict[str, Any]:
        data: dict[str, Any] = {}
        for key_node, value_node in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                self.problems.append(Problem("a key must be plain text", None, self._where(key_node)))
                continue
            name = key_node.value
            place: Key = (*key, name)
            if name in data:
                first = self.places[place].line
                self.problems.append(
                    Problem(f"the key {name!r} stands twice (first on line {first})", "keep one", self._where(key_node))
                )
            self.places[place] = self._where(key_node)
            data[name] = self.value(value_node, place)
        return data

    def _where(self, node: Any) -> Where:
        return Where(self.path, node.start_mark.line + 1, node.start_mark.column + 1)
