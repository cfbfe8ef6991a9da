"""One recipe file and its overrides → a frozen Recipe, or every problem at once."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ValidationError

from orchestrator.backends import BACKENDS, find_backend
from orchestrator.data.reading.hub_ids import parse_hub_id
from orchestrator.errors import Problem, RecipeError, Where
from orchestrator.evaluation.gate import parse_rule
from orchestrator.evaluation.measures import parse_metric
from orchestrator.recipe.schema import Data, Evaluate, Guard, Launch, Loss, ModelRef, Recipe, Teacher, Watch
from orchestrator.recipe.source import Key, Source, apply_overrides, load_source
from orchestrator.secrets import is_secret

if TYPE_CHECKING:
    from pathlib import Path

_PARTS: dict[Key, type[BaseModel]] = {
    (): Recipe,
    ("model",): ModelRef,
    ("data",): Data,
    ("loss",): Loss,
    ("evaluate",): Evaluate,
    ("launch",): Launch,
    ("watch",): Watch,
    ("teacher",): Teacher,
}
_GUARDS: Key = ("evaluate", "guard")


def _part_at(key: Key) -> type[BaseModel] | None:
    """Return what may stand at a key: a part of the recipe, or one of its guards."""
    return Guard if len(key) == len(_GUARDS) + 1 and key[:-1] == _GUARDS else _PARTS.get(key)


@dataclass(frozen=True)
class LoadedRecipe:
    """A valid recipe, the file that it came from, and where each of its values stands."""

    recipe: Recipe
    path: Path
    source: Source

    @property
    def folder(self) -> Path:
        """The folder that the recipe's relative paths start from."""
        return self.path.resolve().parent


def load_recipe(path: Path, overrides: tuple[str, ...] = ()) -> LoadedRecipe:
    """Read and check a recipe. Raises RecipeError with every problem, in the order of the file."""
    source = apply_overrides(load_source(path), overrides)
    problems = list(source.problems)
    recipe = None
    try:
        recipe = Recipe.model_validate(source.data)
    except ValidationError as error:
        problems += [_problem(source, item) for item in error.errors(include_url=False)]
    problems += _named_measures(source)
    problems += _train_problems(source)
    problems += _task_problems(source)
    problems += _secrets(source)
    problems += _missing_files(source, path.resolve().parent)
    if recipe is None or problems:
        raise RecipeError.from_problems(sorted(problems, key=_place_in_file))
    return LoadedRecipe(recipe, path, source)


def _place_in_file(problem: Problem) -> tuple[int, int]:
    where = problem.where or Where("")
    return where.line or 0, where.column or 0


def _problem(source: Source, item: Any) -> Problem:
    """Return one of pydantic's errors in the words of a recipe."""
    key: Key = tuple(part for part in item["loc"] if part != "_")
    while key and key not in source.places and key[:-1] in source.places and item["type"] != "missing":
        key = key[:-1]  # pydantic names union branches and validators too
    dotted = ".".join(str(part) for part in item["loc"])
    kind, context = item["type"], item.get("ctx", {})
    if kind == "extra_forbidden":
        name = str(item["loc"][-1])
        return Problem(f"unknown key {name!r}", _nearest_key(key[:-1], name), source.where(key))
    if kind == "missing":
        return Problem(f"{dotted} is missing", _describe(key), source.where(key[:-1]))
    if kind == "value_error":
        return Problem(str(context.get("error", item["msg"])), None, source.where(key))
    got = _value_at(source.data, key)
    if kind == "literal_error":
        expected = context["expected"]
        return Problem(
            f"{_dotted(key)}: {got!r} is not one of {expected}", _nearest_word(str(got), expected), source.where(key)
        )
    if kind == "string_pattern_mismatch":
        return Problem(
            f"{_dotted(key)}: {got!r} cannot name a folder", "use letters, digits, '.', '_' and '-'", source.where(key)
        )
    text = item["msg"].replace("Input should be", "expected").replace("valid dictionary", "mapping of keys to values")
    return Problem(f"{_dotted(key)}: {text[0].lower() + text[1:]}, got {_show(got)}", _describe(key), source.where(key))


def _dotted(key: Key) -> str:
    return ".".join(str(part) for part in key) or "the recipe"


def _show(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "…"  # noqa: PLR2004


def _value_at(data: Any, key: Key) -> Any:
    for part in key:
        try:
            data = data[part]
        except (KeyError, IndexError, TypeError):
            return None
    return data


def _describe(key: Key) -> str | None:
    part = _part_at(key[:-1])
    field = part.model_fields.get(str(key[-1])) if part and key else None
    return field.description if field else None


def _nearest_key(parent: Key, name: str) -> str | None:
    part = _part_at(parent)
    known = list(part.model_fields) if part else []
    near = difflib.get_close_matches(name, known, n=1)
    if near:
        return f"did you mean {near[0]!r}?"
    for other, model in _PARTS.items():
        if name in model.model_fields and other not in {parent, ("teacher",)}:
            return f"it belongs under {'.'.join(map(str, other)) or 'the top level'}"
    if parent == () and any(name in backend.argument_names() for backend in BACKENDS.values()):
        return "it belongs under train"
    return f"known keys: {', '.join(known)}" if known else None


def _nearest_word(word: str, expected: str) -> str | None:
    near = difflib.get_close_matches(word, expected.replace("'", "").replace(" or ", ", ").split(", "), n=1)
    return f"did you mean {near[0]!r}?" if near else None


def _named_measures(source: Source) -> list[Problem]:
    """Return the problems of metric names and gates, which are words of their own."""
    found: list[tuple[Key, object]] = []
    metrics = _value_at(source.data, ("evaluate", "metrics"))
    for index, name in enumerate(metrics if isinstance(metrics, list) else []):
        found.append((("evaluate", "metrics", index), parse_metric(str(name))))
    for gates in (("gate",), *((*_GUARDS, name, "gate") for name in _guard_names(source))):
        gate = _value_at(source.data, gates)
        for name, rule in (gate if isinstance(gate, dict) else {}).items():
            found.append(((*gates, name), parse_rule(name, rule)))
    return [Problem(item.message, item.hint, source.where(key)) for key, item in found if isinstance(item, Problem)]


def _guard_names(source: Source) -> list[str]:
    guards = _value_at(source.data, _GUARDS)
    return list(guards) if isinstance(guards, dict) else []


def _secrets(source: Source) -> list[Problem]:
    """Return the environment variables that hold a secret: run folders and logs would keep it."""
    env = _value_at(source.data, ("launch", "env"))
    hint = "remove it and set it in the environment of your shell: stages inherit that"
    return [
        Problem(f"launch.env.{name} looks like a secret", hint, source.where(("launch", "env", name)))
        for name in (env if isinstance(env, dict) else {})
        if is_secret(str(name))
    ]


def _train_problems(source: Source) -> list[Problem]:
    name, train = source.data.get("backend"), source.data.get("train")
    backend = find_backend(name) if isinstance(name, str) else None
    if backend is None or not isinstance(train, dict):
        return []
    return [
        Problem(problem.message, problem.hint, source.where(("train", key)))
        for key, problem in backend.check_train(train)
    ]


def _task_problems(source: Source) -> list[Problem]:
    """Return that the backend does not train for the task, with those that do."""
    name, task = source.data.get("backend"), source.data.get("task")
    backend = find_backend(name) if isinstance(name, str) else None
    able = [other.name for other in BACKENDS.values() if task in other.tasks]
    if backend is None or not able or backend.name in able:
        return []
    return [
        Problem(
            f"{name} does not train for task: {task}", f"say backend: {' or '.join(able)}", source.where(("backend",))
        )
    ]


def _missing_files(source: Source, folder: Path) -> list[Problem]:
    problems = []
    keys: list[Key] = [("data", "train"), ("data", "eval"), *((*_GUARDS, name) for name in _guard_names(source))]
    for side in keys:
        given = _value_at(source.data, side)
        key = (*side, "data") if isinstance(given, dict) else side  # a guard in full, not its files alone
        given = given.get("data") if isinstance(given, dict) else given
        for index, name in enumerate(given if isinstance(given, list) else [given]):
            if isinstance(name, str) and not (folder / name).expanduser().is_file() and parse_hub_id(name) is None:
                where = source.where((*key, index))
                problems.append(Problem(f"{_dotted(key)}: no such file: {name}", f"paths start from {folder}", where))
    return problems
