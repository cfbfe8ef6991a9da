"""Build a backend's own environment from the tested versions: venv, pip, and a look at what came of it."""

from __future__ import annotations

import json
import shlex
import sys
from dataclasses import dataclass, replace
from pathlib import Path

from orchestrator.backends.protocol import Backend
from orchestrator.checks.environments.folder import Environment, hold_folder, require_buildable, write_marker
from orchestrator.checks.environments.requirements import find_requirements
from orchestrator.checks.environments.tested import find_constraints
from orchestrator.errors import PreflightError
from orchestrator.machine.places import find_python
from orchestrator.machine.process import run, run_visibly

_MODULES = {"ms-swift": "swift", "sentence-transformers": "sentence_transformers"}  # where it is not the name
_IMPORT_TIMEOUT_S = 300.0
_PROBE = """
import importlib, importlib.metadata, json, sys
for module in sys.argv[1].split(","):
    importlib.import_module(module)
print("\\n" + json.dumps({name: importlib.metadata.version(name) for name in sys.argv[2:]}))
"""
_MIN_PYTHON = (3, 11)


@dataclass(frozen=True)
class EnvironmentPlan:
    """What will be done: the commands, in order, and the environment that they make."""

    environment: Environment
    commands: tuple[tuple[str, ...], ...]
    distributions: tuple[str, ...]


def plan_environment(backend: Backend, folder: Path, python: str | None) -> EnvironmentPlan:
    """Return how a backend's environment is built in `folder`, with `python` or with Orch's own.

    pip reads its own configuration, which is where a mirror belongs. Raises PreflightError for an interpreter that
    cannot be found or is too old, and for a folder that holds something else.
    """
    require_buildable(folder, backend.name)
    environment = Environment(folder, backend.name, complete=False)
    pip = (str(environment.python), "-m", "pip", "install", "--no-input", "--disable-pip-version-check")
    return EnvironmentPlan(
        environment,
        (
            (_require_python(python), "-m", "venv", str(folder)),
            (*pip, "-c", str(find_constraints()), *find_requirements(backend)),
        ),
        backend.distributions,
    )


def create_environment(plan: EnvironmentPlan) -> Environment:
    """Build it and return it with its versions. What fails can be repeated: the same call goes on from there.

    Raises PreflightError when a command fails, or when what was installed cannot be imported.
    """
    environment = plan.environment
    with hold_folder(environment.folder):
        try:
            write_marker(environment)
        except OSError as error:
            raise PreflightError(
                f"{environment.folder} cannot be written to: {error.strerror}", hint="name another folder with --path"
            ) from None
        for command in plan.commands[1 if _has_pip(environment) else 0 :]:
            try:
                code = run_visibly(command)
            except OSError as error:
                hint = "name another Python with --python"
                raise PreflightError(f"{command[0]} cannot be started: {error.strerror}", hint=hint) from None
            if code != 0:
                hint = f"its last lines say why; then the same `orch env create` goes on in {environment.folder}"
                raise PreflightError(f"exit code {code} from: {shlex.join(command)}", hint=hint)
        finished = replace(environment, complete=True, versions=_import_all(plan))
        write_marker(finished)
    return finished


def _has_pip(environment: Environment) -> bool:
    """Tell whether the venv was finished by an earlier attempt."""
    return environment.python.exists() and run((str(environment.python), "-m", "pip", "--version"), 30.0).exit_code == 0


def _import_all(plan: EnvironmentPlan) -> dict[str, str]:
    """Return the versions of what the backend needs, each of which was imported: a broken build shows here."""
    python = str(plan.environment.python)
    modules = ",".join(_MODULES.get(name, name) for name in plan.distributions)
    probe = run((python, "-I", "-c", _PROBE, modules, *plan.distributions), _IMPORT_TIMEOUT_S)
    if probe.exit_code != 0:
        said = (probe.stderr.strip().splitlines() or [f"no answer within {_IMPORT_TIMEOUT_S:.0f} s"])[-1]
        raise PreflightError(
            f"what was installed for {plan.environment.backend} cannot be imported: {said}",
            hint=f"try it: {python} -c 'import {modules}'",
        )
    versions: dict[str, str] = json.loads(probe.stdout.strip().splitlines()[-1])
    return versions


def _require_python(name: str | None) -> str:
    if name is None:
        return sys.executable
    found = find_python(Path(), name)
    if found is None:
        raise PreflightError(f"--python: no such interpreter: {name}", hint="name a Python, such as python3.11")
    probe = run((found, "-I", "-c", "import sys; print(*sys.version_info[:2])"), 10.0)
    numbers = probe.stdout.split() if probe.exit_code == 0 else []
    if len(numbers) != len(_MIN_PYTHON) or not all(number.isdigit() for number in numbers):
        raise PreflightError(f"--python: {found} cannot be run", hint="name a Python, such as python3.11")
    if tuple(map(int, numbers)) < _MIN_PYTHON:
        raise PreflightError(
            f"--python: {found} is Python {'.'.join(numbers)}", hint="the tested versions need 3.11 or newer"
        )
    return found
