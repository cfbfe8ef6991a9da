"""Environments of backends: the tested versions, what each backend needs, and how an environment is built and kept.

The tested set is constraints.txt; what a backend needs stands in the extras of orch-finetune's metadata. An
environment is a venv with a marker file that says whether it is whole; one builder works in it at a time.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import os
import re
import shlex
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from itertools import chain
from pathlib import Path
from typing import Literal

from orchestrator.backends.protocol import Backend
from orchestrator.errors import PreflightError
from orchestrator.machine.files import try_lock, write_json
from orchestrator.machine.json_files import load_json
from orchestrator.machine.packages import normalise, parse_release
from orchestrator.machine.places import PACKAGE, find_beside, find_home, find_python
from orchestrator.machine.process import run, run_visibly

Standing = Literal["tested", "supported", "unknown"]

_PIN = re.compile(r"\s*([A-Za-z0-9._-]+)\s*==\s*([^\s;#]+)")
_SNAPSHOTS = PACKAGE / "backends" / "arguments"
_ORCH = "orch-finetune"
_REPORT = "report"  # runs in Orch's own Python
_NAME = re.compile(r"[A-Za-z0-9._-]+")
_EXTRA = re.compile(r"""extra\s*==\s*['"]([^'"]+)['"]""")
_MINIMUM = re.compile(r">=\s*([^\s,]+)")
_MARKER = "orch-env.json"
_LOCK = "orch-env.lock"
_MODULES = {"ms-swift": "swift", "sentence-transformers": "sentence_transformers"}  # where it is not the name
_IMPORT_TIMEOUT_S = 300.0
_PROBE = """
import importlib, importlib.metadata, json, sys
for module in sys.argv[1].split(","):
    importlib.import_module(module)
print("\\n" + json.dumps({name: importlib.metadata.version(name) for name in sys.argv[2:]}))
"""
_MIN_PYTHON = (3, 11)
_OTHER_FOLDER = "name another folder with --path"


def find_constraints() -> Path:
    """Return constraints.txt: inside the wheel, or beside the package in a checkout. Raises PreflightError."""
    path = find_beside("constraints.txt")
    if path.is_file():
        return path
    message = f"constraints.txt, the tested set of versions, is missing from {PACKAGE}"
    raise PreflightError(message, hint="install orch-finetune again")


@cache
def load_tested() -> dict[str, str]:
    """Return the tested version of each distribution, by its normalised name."""
    lines = find_constraints().read_text(encoding="utf-8").splitlines()
    return {normalise(found[1]): found[2] for line in lines if (found := _PIN.match(line))}


def judge_version(name: str, version: str, minimum: str | None = None) -> Standing:
    """Return how a version stands: tested, supported or unknown.

    Supported are versions whose arguments Orch ships, and those from `minimum` (the extras') to the tested one.
    """
    tested = load_tested().get(normalise(name))
    release = parse_release(version)
    if tested is not None and release == parse_release(tested):
        return "tested"
    if release in _snapshot_versions().get(normalise(name), ()):
        return "supported"
    if minimum is None or tested is None:
        return "unknown"
    return "supported" if parse_release(minimum) <= release <= parse_release(tested) else "unknown"


@cache
def _snapshot_versions() -> dict[str, set[tuple[int, ...]]]:
    """Return the versions whose arguments are shipped, by normalised name."""
    found: dict[str, set[tuple[int, ...]]] = {}
    sets = chain.from_iterable(load_json(path)["sets"] for path in _SNAPSHOTS.rglob("*.json"))
    for name, version in chain.from_iterable(versions.items() for versions in sets):
        found.setdefault(normalise(name), set()).add(parse_release(version))
    return found


def find_requirements(backend: Backend) -> tuple[str, ...]:
    """Return what pip installs for a backend whose workers Orch runs by path: the backend, and not Orch.

    What the backend's extra names, less what only the report needs, and what the backend says it needs besides.
    Raises PreflightError when Orch's own metadata are not there.
    """
    extras = _load_extras()
    report = {_name(line) for line in extras.get(_REPORT, ())}
    named = [line for line in extras.get(backend.name, ()) if _name(line) not in {*report, _ORCH}]
    there = {_name(line) for line in named}
    return (*named, *(name for name in backend.distributions if normalise(name) not in there))


def find_minimum(backend: Backend, distribution: str) -> str | None:
    """Return the lowest version of a distribution that the backend's extra allows, where it names one."""
    for line in _load_extras().get(backend.name, ()):
        if _name(line) == normalise(distribution) and (found := _MINIMUM.search(line)):
            return found[1]
    return None


def _load_extras() -> dict[str, tuple[str, ...]]:
    """Return the requirements of each extra, without their markers."""
    try:
        lines = importlib.metadata.requires(_ORCH) or []
    except importlib.metadata.PackageNotFoundError:
        raise PreflightError(
            f"the distribution {_ORCH} is not installed here, so what a backend needs is not known",
            hint="install it: pip install orch-finetune, or pip install -e . in its checkout",
        ) from None
    found: dict[str, tuple[str, ...]] = {}
    for requirement, _, marker in (line.partition(";") for line in lines):
        if extra := _EXTRA.search(marker):
            found[extra[1]] = (*found.get(extra[1], ()), requirement.strip())
    return found


def _name(requirement: str) -> str:
    found = _NAME.match(requirement)
    return normalise(found[0]) if found else requirement


@dataclass(frozen=True)
class Environment:
    """What the marker of a folder says: it is one of Orch's, for this backend, and whole or not."""

    folder: Path
    backend: str
    complete: bool
    versions: dict[str, str] = field(default_factory=dict)

    @property
    def python(self) -> Path:
        """The environment's interpreter, which `launch.python` names."""
        return self.folder / "bin" / "python"


def environments_home() -> Path:
    """Return the folder of all environments: orch/envs in XDG_DATA_HOME."""
    return Path(os.environ.get("XDG_DATA_HOME") or find_home() / ".local" / "share") / "orch" / "envs"


def find_environment(folder: Path) -> Environment | None:
    """Return what lies in a folder, where it is one of Orch's environments."""
    try:
        raw = load_json(folder / _MARKER)
        versions = {str(name): str(version) for name, version in raw["versions"].items()}
        return Environment(folder, str(raw["backend"]), raw["complete"] is True, versions)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def list_environments(home: Path) -> tuple[Environment, ...]:
    """Return the environments in a folder, by name."""
    folders = sorted(home.iterdir()) if home.is_dir() else []
    return tuple(found for folder in folders if (found := find_environment(folder)))


def write_marker(environment: Environment) -> None:
    """Write what the environment is, by rename: a folder without `complete` was never finished."""
    content = {name: value for name, value in asdict(environment).items() if name != "folder"}
    write_json(environment.folder / _MARKER, {"version": 1, **content})


def require_buildable(folder: Path, backend: str) -> None:
    """Raise PreflightError unless an environment of that backend may be built or continued in the folder."""
    found = find_environment(folder)
    if found and found.backend == backend and not found.complete:
        return
    if found and found.backend == backend:
        raise PreflightError(
            f"{folder} is a complete environment for {backend}",
            hint=f"use it as launch.python: {found.python}\nor remove the folder, and build it again",
        )
    if found:
        raise PreflightError(f"{folder} is an environment for {found.backend}", hint=_OTHER_FOLDER)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise PreflightError(f"{folder} exists, and is no environment that orch has built", hint=_OTHER_FOLDER)


@contextlib.contextmanager
def _writing(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise PreflightError(f"{folder} cannot be written to: {error.strerror}", hint=_OTHER_FOLDER) from None


@contextlib.contextmanager
def hold_folder(folder: Path) -> Iterator[None]:
    """Make the folder and keep every other builder out of it. Raises PreflightError when that cannot be done."""
    with _writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
    try:
        with _writing(folder):
            if not try_lock(descriptor):
                message = f"another `orch env create` works in {folder}"
                raise PreflightError(message, hint=f"wait for it, or {_OTHER_FOLDER}")
        yield
    finally:
        os.close(descriptor)


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
    make = (_require_python(python), "-m", "venv", str(folder))
    fill = (*pip, "-c", str(find_constraints()), *find_requirements(backend))
    return EnvironmentPlan(environment, (make, fill), backend.distributions)


def create_environment(plan: EnvironmentPlan) -> Environment:
    """Build it and return it with its versions. What fails can be repeated: the same call goes on from there.

    Raises PreflightError when a command fails, or when what was installed cannot be imported.
    """
    environment = plan.environment
    with hold_folder(environment.folder):
        with _writing(environment.folder):
            write_marker(environment)
        python = environment.python  # of a venv that an earlier attempt has finished
        finished = python.exists() and run((str(python), "-m", "pip", "--version"), 30.0).exit_code == 0
        for command in plan.commands[1 if finished else 0 :]:
            try:
                code = run_visibly(command)
            except OSError as error:
                hint = "name another Python with --python"
                raise PreflightError(f"{command[0]} cannot be started: {error.strerror}", hint=hint) from None
            if code != 0:
                hint = f"its last lines say why; then the same `orch env create` goes on in {environment.folder}"
                raise PreflightError(f"exit code {code} from: {shlex.join(command)}", hint=hint)
        built = replace(environment, complete=True, versions=_import_all(plan))
        write_marker(built)
    return built


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
    another = "name a Python, such as python3.11"
    found = find_python(Path(), name)
    if found is None:
        raise PreflightError(f"--python: no such interpreter: {name}", hint=another)
    probe = run((found, "-I", "-c", "import sys; print(*sys.version_info[:2])"), 10.0)
    numbers = probe.stdout.split() if probe.exit_code == 0 else []
    if len(numbers) != len(_MIN_PYTHON) or not all(number.isdigit() for number in numbers):
        raise PreflightError(f"--python: {found} cannot be run", hint=another)
    if tuple(map(int, numbers)) < _MIN_PYTHON:
        message = f"--python: {found} is Python {'.'.join(numbers)}"
        raise PreflightError(message, hint="the tested versions need 3.11 or newer")
    return found
