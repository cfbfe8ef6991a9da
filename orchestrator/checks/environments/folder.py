"""An environment's folder: where it lies, what its marker file says, and that one builder works in it at a time."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

from orchestrator.errors import PreflightError
from orchestrator.machine.json_files import load_json
from orchestrator.machine.places import find_home
from orchestrator.machine.rundir import write_json

_MARKER = "orch-env.json"
_LOCK = "orch-env.lock"


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
        raise PreflightError(f"{folder} is an environment for {found.backend}", hint="name another folder with --path")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise PreflightError(
            f"{folder} exists, and is no environment that orch has built", hint="name another folder with --path"
        )


@contextlib.contextmanager
def hold_folder(folder: Path) -> Iterator[None]:
    """Make the folder and keep every other builder out of it. Raises PreflightError when that cannot be done."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise PreflightError(
            f"{folder} cannot be written to: {error.strerror}", hint="name another folder with --path"
        ) from None
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise PreflightError(
                f"another `orch env create` works in {folder}", hint="wait for it, or name another folder with --path"
            ) from None
        yield
    finally:
        os.close(descriptor)
