"""Every command line of a native tool, held before anything runs against the arguments that the installed one takes."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from orchestrator.backends.arguments import Argument, coerce, load_arguments, parse_argument, snapshots
from orchestrator.backends.arguments.argv import check_argv, describe_unknown
from orchestrator.backends.protocol import Job
from orchestrator.errors import Problem
from orchestrator.machine.files import write_json
from orchestrator.machine.process import run
from orchestrator.recipe.plan import Note, Plan, Stage

_READ_TIMEOUT_S = 300.0  # the imports alone take a minute on a slow disk
_CROSS_ENCODER = "train_cross_encoder"
_TRAINER = "sentence_transformers"  # module and snapshot of what its config holds


@dataclass(frozen=True)
class Accepted:
    """The arguments that a backend takes, and whose they are, as the messages say it."""

    arguments: Mapping[str, Argument]
    whose: str


def check_arguments(job: Job, plan: Plan) -> Iterator[Problem]:
    """Yield every argument of a native command that the installed backend refuses, misreads or lacks."""
    modules = snapshots.find_modules((*job.backend.snapshots, *job.backend.command_snapshots))
    for stage in plan.stages:
        if (found := find_command(stage, modules)) is not None:
            module, words = found
            resumed = (stage.resume.flag, "checkpoint") if stage.resume else ()  # appended when it is continued
            if (accepted := _ask_backend(job, module, modules[module])) is not None:
                for problem in check_argv((*words, *resumed), accepted.arguments):
                    yield _explain(problem, stage, plan, modules[module], accepted)
        config = _find_trainer_config(stage, plan)
        if config is not None and (accepted := _ask_backend(job, _TRAINER, _TRAINER)) is not None:
            for problem in _check_values(config, accepted.arguments):
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
    if _CROSS_ENCODER not in argv or "--config" not in argv:
        return None
    path = Path(argv[argv.index("--config") + 1])
    text = next((file.text for file in plan.files if Path(plan.run_dir) / file.path == path), None)
    arguments: dict[str, Any] | None = json.loads(text)["arguments"] if text is not None else None
    return arguments


def _check_values(given: Mapping[str, Any], known: Mapping[str, Argument]) -> Iterator[Problem]:
    for name, value in given.items():
        if name not in known:
            yield describe_unknown(name, known)
        elif isinstance(problem := coerce(known[name], value), Problem):
            yield replace(problem, name=name)


def _ask_backend(job: Job, module: str, name: str) -> Accepted | None:
    """Return what the installed backend accepts: by its snapshot, by the cache, or as it says itself.

    None where it is not installed, which is for another check to say.
    """
    if any(package not in job.versions for package in snapshots.read_snapshot(name)["deciding"]):
        return None
    nearest = snapshots.find_set(name, job.versions)
    if snapshots.is_exact(name, nearest, job.versions):
        return Accepted(load_arguments(name, job.versions), snapshots.describe_versions(name, job.versions))
    if (read := _read_cached(job, module)) is not None:
        return Accepted(read, snapshots.describe_versions(name, job.versions))
    known = snapshots.describe_versions(name, nearest.versions)
    by = f"by {known}, the nearest one known: the installed one gave no answer"
    return Accepted(load_arguments(name, job.versions), f"{snapshots.describe_versions(name, job.versions)}, {by}")


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
        return {item["name"]: parse_argument(item) for item in raw["arguments"]}
    except (ValueError, KeyError, TypeError):
        return None


def _explain(problem: Problem, stage: Stage, plan: Plan, snapshot: str, accepted: Accepted) -> Problem:
    """Return a problem with its stage, the versions, and what to do about it."""
    name = problem.name or ""
    elsewhere = None if name in accepted.arguments else _find_version(name, snapshot)
    hints = [hint for hint in (problem.hint, _find_origin(name, stage, plan), elsewhere) if hint]
    hints = hints or ["`orch render --explain` shows where it comes from"]
    return Problem(f"{stage.name}: {problem.message} ({accepted.whose})", "; ".join(hints))


def _find_origin(argument: str, stage: Stage, plan: Plan) -> str | None:
    """Return where in the recipe the argument comes from, as the plan's own notes say it."""
    note: Note | None = next(
        (one for one in plan.notes if one.stage == stage.kind and one.argument == argument and one.value), None
    )
    if note is None:
        given = plan.recipe.get("train") or {}
        return f"in the recipe: train.{argument}" if stage.kind == "train" and argument in given else None
    if note.origin == "recipe":
        return f"in the recipe: {note.why.split(',')[0]}"
    return note.why if note.origin == "translated" else f"Orch sets it: {note.why}"


def _find_version(argument: str, name: str) -> str | None:
    """Return which known versions have an argument that the installed one lacks; the newest is named first."""
    having = [
        snapshots.describe_versions(name, one.versions)
        for one in snapshots.version_sets(name)
        if argument in load_arguments(name, one.versions)
    ]
    return f"{having[0]} has it" if having else None
