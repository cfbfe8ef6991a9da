"""Where things lie: Orch's own files, the user's caches and settings, and what a recipe or a command line names."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1]
WORKERS = PACKAGE / "workers"


def find_beside(name: str) -> Path:
    """Return the path of a file or folder: inside the package (a wheel), else beside it (a checkout)."""
    inside = PACKAGE / name
    return inside if inside.exists() else PACKAGE.parent / name


def find_home() -> Path:
    """Return the user's home, or a folder among the temporary ones.

    The user of a container may have no home: neither HOME nor a line in /etc/passwd.
    """
    try:
        return Path.home()
    except RuntimeError:
        return Path(tempfile.gettempdir()) / f"home-{os.getuid()}"


def find_cache_home() -> Path:
    """Return the folder of all caches: XDG_CACHE_HOME, or .cache in the user's home."""
    return Path(os.environ.get("XDG_CACHE_HOME") or find_home() / ".cache")


def find_orch_config() -> Path:
    """Return the folder of what Orch keeps for this user and cannot make a second time: orch in XDG_CONFIG_HOME."""
    return Path(os.environ.get("XDG_CONFIG_HOME") or find_home() / ".config") / "orch"


def find_orch_cache() -> Path:
    """Return the folder where Orch keeps what it need not find out, or compute, a second time."""
    return find_cache_home() / "orch"


def find_file(folder: Path, name: str) -> Path | None:
    """Return the regular file that `name` names from `folder`, the root or a home; None where there is none."""
    try:
        path = folder / Path(name).expanduser()
        return path if path.is_file() else None
    except (OSError, RuntimeError):  # a name that is too long, the home of nobody
        return None


def find_python(folder: Path, name: str) -> str | None:
    """Return an interpreter as an absolute path that is not resolved: a venv's link is its identity.

    A name without a slash is looked for in PATH, and a path starts from `folder`; None where there is none, or where it
    may not be executed.
    """
    path = name if "/" not in name else find_file(folder, name)
    found = shutil.which(path) if path else None
    return str(Path(found).absolute()) if found else None
