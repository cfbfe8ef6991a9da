"""What a recipe or a command line names: a file or an interpreter, None where there is none."""

from __future__ import annotations

import shutil
from pathlib import Path


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
