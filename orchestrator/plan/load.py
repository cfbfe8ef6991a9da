"""One recipe file and its overrides → a frozen Recipe, or every problem at once, in the words of a recipe."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
from pydantic import ValidationError

from orchestrator.backends import BACKENDS
from orchestrator.backends.arguments import find_own_name, is_foreign
from orchestrator.data.reading.file_sets import expand_name
from orchestrator.errors import Problem, RecipeError, Where
from orchestrator.evaluation.measures import BASELINE, CHAT, GROUP, PAIR, RETRIEVAL, SOURCE, parse_metric, parse_rule
from orchestrator.machine.secrets import is_secret
from orchestrator.machine.tables import load_record
from orchestrator.recipe.losses import find_loss, find_own_loss, list_settings
from orchestrator.recipe.schema import Guard, Part, Recipe, list_parts
from orchestrator.recipe.source import Key, Source, apply_overrides, load_source

_PARTS = list_parts(Recipe)
EVAL_KINDS = {"reranker": (GROUP,), "embedding": (RETRIEVAL, PAIR), "sft": (CHAT,)}  # what a task is measured on
_LONGEST_SHOWN = 120  # characters of a value in a message
_GUARDS: Key = ("evaluate", "guard")
_PROCESS_COUNTS = frozenset({"NPROC_PER_NODE", "PET_NPROC_PER_NODE"})
# Variables of launchers on several machines, and the values that they have on one.
_ONE_MACHINE = {
    "NNODES": {"1"}, "PET_NNODES": {"1", "1:1"}, "NODE_RANK": {"0"}, "PET_NODE_RANK": {"0"}, "WORLD_SIZE": {"1"},
    "RANK": {"0", "-1"}, "LOCAL_RANK": {"0", "-1"}, "LOCAL_WORLD_SIZE": {"1"},
}  # fmt: skip
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)  # a name that every shell can set


def _part_at(key: Key) -> type[Part] | None:
    """Return what may stand at a key: a part of the recipe, or one of its guards."""
    return Guard if len(key) == len(_GUARDS) + 1 and key[:-1] == _GUARDS else _PARTS.get(key)


class LoadedRecipe(msgspec.Struct, frozen=True):
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
        problems += _find_wrong_values(source, error.errors(include_url=False))
    problems += _check_metrics(source)
    problems += _check_arguments(source)
    problems += _environment_problems(source)
    files, missing = _expand_files(source, path.resolve().parent)
    problems += missing
    if recipe is None or problems:
        raise RecipeError.from_problems(sorted(problems, key=_place_in_file))
    return LoadedRecipe(_with_files(recipe, files), path, source)


def _place_in_file(problem: Problem) -> tuple[int, int]:
    where = problem.where or Where("")
    return where.line or 0, where.column or 0


def _find_wrong_values(source: Source, items: Iterable[Any]) -> Iterator[Problem]:
    """Yield pydantic's errors, one problem a value: alternatives of one value (a number, or a word) are joined."""
    grouped: dict[Key, list[Any]] = {}
    for item in items:
        missing = tuple(part for part in item["loc"] if part != "_")
        path = missing if item["type"] == "missing" else _find_path(source.data, item["loc"])
        grouped.setdefault(path, []).append(item)
    inner = {path[:-1] for path in grouped}
    for path, found in grouped.items():
        kind = found[0]["type"] if len(found) == 1 else "several"
        shorter = kind == "too_short" and path in inner  # a bad entry of a list leaves it one entry short
        if not shorter and not (kind == "string_type" and "gate" in path[:-1]):  # a rule is read in words of its own
            yield _explain(source, path, kind, found)


def _explain(source: Source, key: Key, kind: str, items: list[Any]) -> Problem:
    """Return what is wrong with one value in the words of a recipe."""
    where, context = source.where(key), items[0].get("ctx", {})
    if kind == "extra_forbidden":
        name = str(key[-1])
        return Problem(f"unknown key {name!r}", _nearest_key(key[:-1], name, source), where)
    if kind == "missing":
        return Problem(f"{_write_key(key)} is missing", _describe(key), source.where(key[:-1]))
    if kind == "value_error":
        return Problem(str(context.get("error", items[0]["msg"])), _describe(key), where)
    got = _value_at(source.data, key)
    if kind == "string_pattern_mismatch":
        hint = "use letters, digits, '.', '_' and '-'"
        return Problem(f"{_write_key(key)}: {_show(got)} cannot name a folder", hint, where)
    choices = next((item["ctx"]["expected"] for item in items if item["type"] == "literal_error"), "")
    near = _nearest_choice(key, str(got), choices, source)
    if kind == "literal_error":
        message = f"{_write_key(key)}: {_show(got)} is not one of {choices}"
        return Problem(message, near or "choose one of them", where)
    expected = " or ".join(dict.fromkeys(_expect(key, item) for item in items))
    hint = _advise(key, kind, expected, got) or near or _describe(key)
    return Problem(f"{_write_key(key)}: expected {expected}, got {_show(got)}", hint, where)


def _advise(key: Key, kind: str, expected: str, got: Any) -> str | None:
    """Return what to write in the place of a value that YAML or its author meant otherwise; None for any other."""
    number = isinstance(got, int | float) and not isinstance(got, bool)
    if key == ("data", "eval") and number and 0 < got < 1:
        return f"to hold out a share of the training queries, say eval_ratio: {got:g} in its place"
    if expected == "a list" and isinstance(got, str):
        return f"write [{got}]"
    if kind == "string_type" and isinstance(got, bool | int | float):
        return f"put it in quotes, for YAML reads {got} as a {'number' if number else 'truth value'}"
    if expected == "a name or a list of them" and isinstance(got, dict) and isinstance(got.get("path"), str):
        return f"say {key[-1]}: {got['path']}; what its columns are called goes under data.columns"
    return None


def _write_key(key: Key) -> str:
    return ".".join(str(part) for part in key) or "the recipe"


def _show(value: Any) -> str:
    text = repr(value)
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
        if parent and (description := parent.describe_key(str(key[-1]))):
            return description
        if part := _part_at(key):
            return f"its keys: {', '.join(part.model_fields)}"
        key = key[:-1]
    return "see `orch schema`, or start from: orch init recipe.yaml"


def _nearest_key(parent: Key, name: str, source: Source) -> str | None:
    part = _part_at(parent)
    known = list(part.model_fields) if part else []
    if parent == ("loss",):
        kind = str(_value_at(source.data, ("loss", "type")))
        known = ["type", *list_settings(find_loss(*_owner(source), kind))]
    near = difflib.get_close_matches(name, known, n=1)
    if near:
        return f"did you mean {near[0]!r}?"
    for other, model in _PARTS.items():
        if name in model.model_fields and other not in {parent, ("teacher",)}:
            return f"it belongs under {'.'.join(map(str, other)) or 'the top level'}"
    if parent == () and any(name in backend.arguments for backend in BACKENDS.values()):
        return "it belongs under train"
    if parent == () and is_foreign(name):
        backend = BACKENDS.get(str(source.data.get("backend")))
        own = find_own_name(name, backend.json_schema() if backend else (), {})
        return own if own.startswith(("say it as", "remove it")) else f"under train: {own}"
    return f"known keys: {', '.join(known)}" if known else None


def _owner(source: Source) -> tuple[str, str]:
    """Return backend and task as the recipe says them, right or wrong."""
    return str(_value_at(source.data, ("backend",))), str(_value_at(source.data, ("task",)))


def _nearest_choice(key: Key, word: str, choices: str, source: Source) -> str | None:
    """Return what to say for a word that is none of the choices; losses have names in other tools too."""
    if key in {("loss",), ("loss", "type")}:
        return find_own_loss(word, *_owner(source))
    near = difflib.get_close_matches(word, choices.replace("'", "").replace(" or ", ", ").split(", "), n=1)
    return f"did you mean {near[0]!r}?" if near else None


def _check_metrics(source: Source) -> list[Problem]:
    """Return the problems of metric names and gates, which are words of their own."""
    found: list[tuple[Key, object]] = []
    kinds = EVAL_KINDS.get(str(source.data.get("task")), ())
    metrics = _value_at(source.data, ("evaluate", "metrics"))
    for index, name in enumerate(metrics if isinstance(metrics, list) else []):
        found.append((("evaluate", "metrics", index), parse_metric(str(name), kinds)))
    for gates in (("gate",), ("export", "gate"), *((*_GUARDS, name, "gate") for name in _guard_names(source))):
        gate, against = _value_at(source.data, gates), SOURCE if gates[0] == "export" else BASELINE
        for name, rule in (gate if isinstance(gate, dict) else {}).items():
            found.append(((*gates, name), parse_rule(name, rule, against)))
    return [Problem(item.message, item.hint, source.where(key)) for key, item in found if isinstance(item, Problem)]


def _guard_names(source: Source) -> list[str]:
    guards = _value_at(source.data, _GUARDS)
    return list(guards) if isinstance(guards, dict) else []


def _environment_problems(source: Source) -> list[Problem]:
    env = _value_at(source.data, ("launch", "env"))
    variables = env.items() if isinstance(env, dict) else ()
    found = ((name, _refuse_variable(str(name), str(value))) for name, value in variables)
    return [replace(problem, where=source.where(("launch", "env", name))) for name, problem in found if problem]


def _refuse_variable(name: str, value: str) -> Problem | None:
    """Return why a variable cannot be set: by no shell; a run folder would keep its secret; what Orch renders wins."""
    if not _VARIABLE.fullmatch(name):
        hint = "use letters, digits and '_', and begin with a letter"
        return Problem(f"launch.env: {_show(name)} cannot name a variable", hint)
    if is_secret(name):
        hint = "remove it and set it in the environment of your shell: stages inherit that"
        return Problem(f"launch.env.{name} looks like a secret", hint)
    if name in _PROCESS_COUNTS:
        number = value if value.isdigit() else "…"
        message = f"launch.env.{name}: it is for another launcher, and Orch's own number of processes would win"
        return Problem(message, f"say launch: {{nproc_per_node: {number}}}, and remove it")
    if name in _ONE_MACHINE and value not in _ONE_MACHINE[name]:
        message = f"launch.env.{name}: {value}: each host has its own, or the launcher sets it"
        return Problem(message, "remove it; say launch.nproc_per_node for processes, launch.nnodes for hosts")
    return None


def _check_arguments(source: Source) -> list[Problem]:
    """Return the arguments that the backend does not take, and that it does not train for the task."""
    backend = BACKENDS.get(str(source.data.get("backend")))
    train, task = source.data.get("train"), source.data.get("task")
    if backend is None:
        return []
    backend = backend.for_task(task)
    schema, found = backend.json_schema(), list[Problem]()
    for key, problem in backend.check_train(train) if isinstance(train, dict) else ():
        hint = "`orch schema` lists every argument with its type"
        if "default" in (known := schema.get(key, {})):
            hint = f"for example {known['default']}, which is its default; `orch schema` lists every argument"
        found.append(Problem(problem.message, problem.hint or hint, source.where(("train", key))))
    if task in backend.tasks:
        return found
    if able := [other.name for other in BACKENDS.values() if task in other.tasks]:
        hint = f"say backend: {' or '.join(able)}"
        found.append(Problem(f"{backend.name} does not train for task: {task}", hint, source.where(("backend",))))
    return found


def _expand_files(source: Source, folder: Path) -> tuple[dict[Key, tuple[str, ...]], list[Problem]]:
    """Return the files that each list of data stands for, at its key, and the problems of names that stand for none."""
    files: dict[Key, tuple[str, ...]] = {}
    problems = []
    keys: list[Key] = [("data", "train"), ("data", "eval"), *((*_GUARDS, name) for name in _guard_names(source))]
    for side in keys:
        given = _value_at(source.data, side)
        key = (*side, "data") if isinstance(given, dict) else side  # a guard in full, not its files alone
        given = given.get("data") if isinstance(given, dict) else given
        found: list[str] = []
        for index, name in enumerate(given if isinstance(given, list) else [given]):
            names = expand_name(folder, name) if isinstance(name, str) else ()
            if isinstance(names, Problem):
                where = source.where((*key, index))
                problems.append(replace(names, message=f"{_write_key(key)}: {names.message}", where=where))
            else:
                found += names
        files[side] = tuple(found)
    return files, problems


def _with_files(recipe: Recipe, files: dict[Key, tuple[str, ...]]) -> Recipe:
    """Return the recipe with every file named that its folders and patterns stand for."""
    train, held_out = files["data", "train"], files["data", "eval"]
    data = recipe.data.model_copy(update={"train": train, "eval": held_out or recipe.data.eval})
    guards = {
        name: guard.model_copy(update={"data": files[*_GUARDS, name]}) for name, guard in recipe.evaluate.guard.items()
    }
    evaluate = recipe.evaluate.model_copy(update={"guard": guards})
    return recipe.model_copy(update={"data": data, "evaluate": evaluate})


def _load_words() -> dict[str, dict[str, str]]:
    return load_record(Path(__file__).with_name("wording.yaml"), dict[str, dict[str, str]])


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
