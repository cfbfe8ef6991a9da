"""One recipe file and its overrides → a frozen Recipe, or every problem at once."""

from __future__ import annotations

import difflib
import re
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
_EMBEDDING_MODEL = "model: Qwen/Qwen3-Embedding-0.6B"
_LONGEST_SHOWN = 120  # characters of a value in a message
_GUARDS: Key = ("evaluate", "guard")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)  # a name that every shell can set


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
    problems += _environment_problems(source)
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
        return Problem(str(context.get("error", item["msg"])), _describe(key), source.where(key))
    got = _value_at(source.data, key)
    if kind == "literal_error":
        expected = context["expected"]
        return Problem(
            f"{_dotted(key)}: {_show(got)} is not one of {expected}",
            _nearest_word(str(got), expected) or "choose one of them",
            source.where(key),
        )
    if kind == "string_pattern_mismatch":
        return Problem(
            f"{_dotted(key)}: {_show(got)} cannot name a folder",
            "use letters, digits, '.', '_' and '-'",
            source.where(key),
        )
    if kind == "tuple_type":
        return _explain_no_list(key, got, source)
    text = item["msg"].replace("Input should be", "expected").replace("valid dictionary", "mapping of keys to values")
    hint = _describe(key)
    if kind == "string_type" and isinstance(got, bool | int | float):
        hint = f"put it in quotes, for YAML reads {got} as a {'truth value' if isinstance(got, bool) else 'number'}"
    return Problem(f"{_dotted(key)}: {text[0].lower() + text[1:]}, got {_show(got)}", hint, source.where(key))


def _explain_no_list(key: Key, got: Any, source: Source) -> Problem:
    """Return the problem of one value where several may stand; a share in place of evaluation files is known."""
    hint = _describe(key)
    if key == ("data", "eval") and isinstance(got, int | float) and not isinstance(got, bool) and 0 < got < 1:
        hint = f"to hold out a share of the training queries, say eval_ratio: {got:g} in its place"
    return Problem(f"{_dotted(key)}: expected a name or a list of them, got {_show(got)}", hint, source.where(key))


def _dotted(key: Key) -> str:
    return ".".join(str(part) for part in key) or "the recipe"


def _show(value: Any) -> str:
    return _show_text(repr(value))


def _show_text(text: str) -> str:
    return text if len(text) <= _LONGEST_SHOWN else text[: _LONGEST_SHOWN - 1] + "…"


def _value_at(data: Any, key: Key) -> Any:
    for part in key:
        try:
            data = data[part]
        except (KeyError, IndexError, TypeError):
            return None
    return data


def _describe(key: Key) -> str:
    """Return what may stand at a key, or around it: its description, or the keys that it has."""
    while key:
        parent = _part_at(key[:-1])
        field = parent.model_fields.get(str(key[-1])) if parent else None
        if field and field.description:
            return field.description
        if part := _part_at(key):
            return f"its keys: {', '.join(part.model_fields)}"
        key = key[:-1]
    return "see `orch schema`, or start from: orch init recipe.yaml"


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


def _environment_problems(source: Source) -> list[Problem]:
    """Return the variables that no shell can set, and those that hold a secret: run folders and logs would keep it."""
    env = _value_at(source.data, ("launch", "env"))
    hint = "remove it and set it in the environment of your shell: stages inherit that"
    found = []
    for name in env if isinstance(env, dict) else {}:
        where = source.where(("launch", "env", name))
        if not _VARIABLE.fullmatch(str(name)):
            names = "use letters, digits and '_', and begin with a letter"
            found.append(Problem(f"launch.env: {_show(name)} cannot name a variable", names, where))
        elif is_secret(str(name)):
            found.append(Problem(f"launch.env.{name} looks like a secret", hint, where))
    return found


def _train_problems(source: Source) -> list[Problem]:
    name, train = source.data.get("backend"), source.data.get("train")
    backend = find_backend(name) if isinstance(name, str) else None
    if backend is None or not isinstance(train, dict):
        return []
    schema = backend.json_schema()
    return [
        Problem(problem.message, problem.hint or _describe_argument(schema.get(key)), source.where(("train", key)))
        for key, problem in backend.check_train(train)
    ]


def _describe_argument(schema: dict[str, Any] | None) -> str:
    """Return what a backend's argument may be, in one sentence."""
    if schema and "default" in schema:
        return f"for example {schema['default']}, which is its default; `orch schema` lists every argument"
    return "`orch schema` lists every argument with its type"


def _task_problems(source: Source) -> list[Problem]:
    """Return that the backend does not train for the task, with those that do."""
    name, task = source.data.get("backend"), source.data.get("task")
    backend = find_backend(name) if isinstance(name, str) else None
    able = [other.name for other in BACKENDS.values() if task in other.tasks]
    if backend is None or not able or backend.name in able:
        return []
    hint = f"say backend: {' or '.join(able)}"
    if task == "embedding":
        hint += f", whose embedding models here are Qwen3-Embedding, such as {_EMBEDDING_MODEL}"
    return [Problem(f"{name} does not train for task: {task}", hint, source.where(("backend",)))]


def _missing_files(source: Source, folder: Path) -> list[Problem]:
    problems = []
    keys: list[Key] = [("data", "train"), ("data", "eval"), *((*_GUARDS, name) for name in _guard_names(source))]
    for side in keys:
        given = _value_at(source.data, side)
        key = (*side, "data") if isinstance(given, dict) else side  # a guard in full, not its files alone
        given = given.get("data") if isinstance(given, dict) else given
        for index, name in enumerate(given if isinstance(given, list) else [given]):
            if not isinstance(name, str) or parse_hub_id(name) is not None:
                continue
            what = _why_no_file(folder / name)
            if what:
                where, hint = source.where((*key, index)), f"paths start from {folder}"
                problems.append(Problem(f"{_dotted(key)}: {what}: {_show_text(name)}", hint, where))
    return problems


def _why_no_file(path: Path) -> str | None:
    """Return why no data can be read from there, None where a file lies."""
    try:
        if path.is_file():
            return None
        return "no such file" if not path.exists() else "not a file" if not path.is_dir() else "a folder, not a file"
    except OSError as error:  # such as a name that is too long
        return f"no such file ({error.strerror})"
