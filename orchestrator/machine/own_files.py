"""Where Orch's own files lie: the package, its workers, and what a wheel carries inside and a checkout beside it."""

from __future__ import annotations

from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1]
WORKERS = PACKAGE / "workers"


def find_beside(name: str) -> Path:
    """Return the path of a file or folder: inside the package (a wheel), else beside it (a checkout)."""
    inside = PACKAGE / name
    return inside if inside.exists() else PACKAGE.parent / name
