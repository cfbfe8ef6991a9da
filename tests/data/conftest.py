"""Fixtures for the data tests: small files on disk."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from pathlib import Path


class Files:
    """Writes rows or bytes to files of one temporary folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def raw(self, name: str, data: bytes | str) -> Path:
        path = self.folder / name
        path.write_bytes(data if isinstance(data, bytes) else data.encode())
        return path

    def lines(self, name: str, *rows: Any) -> Path:
        return self.raw(name, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


def row(number: int = 1, **changes: Any) -> dict[str, Any]:
    """Return a good row; equal numbers give equal rows."""
    good = {"query": f"question {number}", "pos": [f"answer {number}"], "neg": [f"other {number}", f"more {number}"]}
    return good | changes


@pytest.fixture(name="row")
def _row() -> Any:
    return row
