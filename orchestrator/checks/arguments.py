"""Every command line of a native tool, held before anything runs against the arguments that the installed one takes."""

from __future__ import annotations

import difflib
import hashlib
import json
import math
import os
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from orchestrator.backends import arguments as snapshots
from orchestrator.backends.arguments import Argument, describe_versions, load_arguments
from orchestrator.backends.protocol import Job
from orchestrator.errors import Problem
from orchestrator.machine.files import write_json
from orchestrator.machine.process import run
from orchestrator.recipe.plan import Plan, Stage

_READ_TIMEOUT_S = 300.0  # the imports alone take a minute on a slow disk
_WORKERS = frozenset({"train_cross_encoder", "train_embedding"})  # over sentence-transformers' trainers
_TRAINER = "sentence_transformers"  # module and snapshot of what its config holds
# string_to_bool of transformers/hf_argparser.py
_BOOLEANS = frozenset({"yes", "true", "t", "y", "1", "no", "false", "f", "n", "0"})
# How a word is read as a type, and what to say of one that is not: it gives False, or raises ValueError.
_READ: dict[str, tuple[Callable[[str], bool], str]] = {
    "bool": (lambda word: word.lower() in _BOOLEANS, "true or false"),
    "int": (lambda word: math.isfinite(int(word)), "a whole number"),
    "float": (lambda word: math.isfinite(float(word)), "a number"),
    "dict": (lambda word: isinstance(json.loads(word), dict), "a mapping, as JSON"),
}

Accepted = tuple[Mapping[str, Argument], str]  # the arguments that a backend takes, and whose they are, in words


def check_arguments(job: Job, plan: Plan) -> Iterator[Problem]:
    """Yield every argument of a native command that the installed backend refuses, misreads or lacks."""
    modules = snapshots.find_modules((*job.backend.snapshots, *job.backend.command_snapshots))
    for stage in plan.stages:
        if (found := find_command(stage, modules)) is not None:
            module, words = found
            resumed = (stage.resume.flag, "checkpoint") if stage.resume else ()  # appended when it is continued
            if (accepted := _ask_backend(job, module, modules[module])) is not None:
                for problem in find_argv_problems((*words, *resumed), accepted[0]):
                    yield _explain(problem, stage, plan, modules[module], accepted)
        config = _find_trainer_config(stage, plan)
        if config is not None and (accepted := _ask_backend(job, _TRAINER, _TRAINER)) is not None:
            for problem in _check_values(config, accepted[0]):
                yield _explain(problem, stage, plan, _TRAINER, accepted)


def find_command(stage: Stage, modules: Collection[str]) -> tuple[str, tuple[str, ...]] | None:
    """Return which of the native `modules` a stage runs and the words behind it; None for Orch's own commands.

    It stands behind `-m`, after torchrun's own, or behind the `--` of the worker that gives it a fresh folder.
    """
    argv = stage.command.argv
    for place, word in enumerate(argv[:-1]):
        if word in {"-m", "--"} and argv[place + 1] in modules:
            return argv[place + 1], argv[place + 2 :]
    return None


def _find_trainer_config(stage: Stage, plan: Plan) -> dict[str, Any] | None:
    """Return what sentence-transformers' trainer is told, which stands in a file of the plan."""
    argv = stage.command.argv
    if _WORKERS.isdisjoint(argv) or "--config" not in argv:
        return None
    path = Path(argv[argv.index("--config") + 1])
    text = next((file.text for file in plan.files if Path(plan.run_dir) / file.path == path), None)
    arguments: dict[str, Any] | None = json.loads(text)["arguments"] if text is not None else None
    return arguments


def _check_values(given: Mapping[str, Any], known: Mapping[str, Argument]) -> Iterator[Problem]:
    for name, value in given.items():
        if name not in known:
            yield describe_unknown(name, known)
        elif isinstance(problem := snapshots.coerce(known[name], value), Problem):
            yield replace(problem, name=name)


def _ask_backend(job: Job, module: str, name: str) -> Accepted | None:
    """Return what the installed backend accepts: by its snapshot, by the cache, or as it says itself.

    None where it is not installed, which is for another check to say.
    """
    if any(package not in job.versions for package in snapshots.read_snapshot(name)["deciding"]):
        return None
    nearest = snapshots.find_set(name, job.versions)
    if snapshots.is_exact(name, nearest, job.versions):
        return load_arguments(name, job.versions), describe_versions(name, job.versions)
    if (read := _read_cached(job, module)) is not None:
        return read, describe_versions(name, job.versions)
    known = describe_versions(name, nearest.versions)
    by = f"by {known}, the nearest one known: the installed one gave no answer"
    return load_arguments(name, job.versions), f"{describe_versions(name, job.versions)}, {by}"


def _read_cached(job: Job, module: str) -> dict[str, Argument] | None:
    """Return what the backend's own Python says, asked once for these versions; None when it gives no answer."""
    key = hashlib.sha256(json.dumps([module, sorted(job.versions.items())]).encode()).hexdigest()[:16]
    path = Path(job.cache_dir) / "arguments" / f"{key}.json"
    with suppress(OSError):
        if (known := _parse(path.read_bytes(), module)) is not None:
            return known
    command = (job.backend_python, job.workers, "arguments", "--module", module)
    asked = run(command, _READ_TIMEOUT_S, env={**os.environ, "CUDA_VISIBLE_DEVICES": "", "HF_HUB_OFFLINE": "1"})
    known = _parse(asked.stdout, module) if asked.exit_code == 0 else None
    if known is not None and job.cache_dir:
        with suppress(OSError):  # a cache that cannot be written costs time and nothing else
            write_json(path, json.loads(asked.stdout))
    return known


def _parse(text: str | bytes, module: str) -> dict[str, Argument] | None:
    """Return what `workers arguments` printed; None for anything else, such as a file that was cut off."""
    try:
        raw = json.loads(text)
        if raw["module"] != module:
            return None
        return {item["name"]: snapshots.parse_argument(item) for item in raw["arguments"]}
    except (ValueError, KeyError, TypeError):
        return None


def _explain(problem: Problem, stage: Stage, plan: Plan, snapshot: str, accepted: Accepted) -> Problem:
    name, (arguments, whose) = problem.name or "", accepted
    elsewhere = (  # the newest version that has it is named
        f"{describe_versions(snapshot, one.versions)} has it"
        for one in snapshots.version_sets(snapshot)
        if name not in arguments and name in load_arguments(snapshot, one.versions)
    )
    hints = [hint for hint in (problem.hint, _find_origin(name, stage, plan), next(elsewhere, None)) if hint]
    hints = hints or ["`orch render --explain` shows where it comes from"]
    return Problem(f"{stage.name}: {problem.message} ({whose})", "; ".join(hints))


def _find_origin(argument: str, stage: Stage, plan: Plan) -> str | None:
    """Return where in the recipe the argument comes from, as the plan's own notes say it."""
    notes = (one for one in plan.notes if (one.stage, one.argument) == (stage.kind, argument) and one.value)
    if (note := next(notes, None)) is None:
        given = plan.recipe.get("train") or {}
        return f"in the recipe: train.{argument}" if stage.kind == "train" and argument in given else None
    if note.origin == "recipe":
        return f"in the recipe: {note.why.split(',')[0]}"
    return note.why if note.origin == "translated" else f"Orch sets it: {note.why}"


def find_argv_problems(words: Sequence[str], known: Mapping[str, Argument]) -> Iterator[Problem]:
    """Yield what the parser would refuse, and what it would take for something else without a word, by the flag's name.

    `words` follow the module. argparse takes the unique beginning of a flag for the flag, and of a flag that is given
    twice it takes the last: both end with exit code 0 and another training than the one that was read.
    """
    flags, stray = _split(words)
    if stray:
        yield Problem(f"{stray[0]!r} stands in front of every flag", "give it a flag, or remove it")
    seen: set[str] = set()
    for flag, values in flags:
        name = _normal(flag, known)
        if name in seen:
            yield Problem(f"--{flag} is given twice, and the last one would win", "keep one of the two", name=flag)
        seen.add(name)
        if name not in known:
            yield describe_unknown(flag, known)
        elif message := _find_fault(known[name], values):
            yield Problem(f"--{flag}{message}", name=flag)
    for name, argument in known.items():
        if argument.required and name not in seen:
            yield Problem(f"--{name} is missing, and it cannot be left out", name=name)


def _split(words: Sequence[str]) -> tuple[list[tuple[str, list[str]]], list[str]]:
    """Return the flags with their values, and what stands in front of the first one."""
    flags: list[tuple[str, list[str]]] = []
    stray: list[str] = []
    for word in words:
        if word.startswith("--") and len(word) > len("--"):
            name, bound, value = word[2:].partition("=")
            flags.append((name, [value] if bound else []))
        elif flags:
            flags[-1][1].append(word)
        else:
            stray.append(word)
    return flags, stray


def _normal(name: str, known: Mapping[str, Argument]) -> str:
    """Return a flag as the dataclass calls it: HfArgumentParser takes dashes for its underscores, and --no_NAME."""
    name = name.replace("-", "_")
    plain = name.removeprefix("no_")
    negated = name not in known and plain in known and known[plain].type == "bool" and known[plain].default is True
    return plain if negated else name


def describe_unknown(name: str, known: Mapping[str, Argument]) -> Problem:
    """Return what to say of a name that the parser does not have: whose beginning it is, or which is near."""
    longer = sorted(other for other in known if other.startswith(name.replace("-", "_")))
    if len(longer) == 1:
        message = f"there is no argument --{name}, and argparse would take it for --{longer[0]}"
        return Problem(message, f"say --{longer[0]}", name=name)
    near = difflib.get_close_matches(name, known, n=1)
    return Problem(f"there is no argument --{name}", f"did you mean --{near[0]}?" if near else None, name=name)


def _find_fault(argument: Argument, values: Sequence[str]) -> str | None:
    if argument.type == "list[str]":
        wrong = [value for value in values if argument.choices and value not in argument.choices]
        if wrong:
            return f" {wrong[0]}: one of {', '.join(argument.choices or ())}"
        return None if values else " has no value"
    if not values and argument.type != "bool":  # a bool alone means true
        return " has no value"
    if len(values) > 1:
        return f" takes one value, and has {len(values)}: {' '.join(values)}"
    return next((message for value in values if (message := _check_value(argument, value))), None)


def _check_value(argument: Argument, value: str) -> str | None:
    if argument.type in _READ:
        read, expected = _READ[argument.type]
        fits = False
        with suppress(ValueError):
            fits = read(value)
        if not fits:
            return f" {value}: expected {expected}"
    if argument.choices and value not in argument.choices:
        return f" {value}: one of {', '.join(argument.choices)}"
    return None
