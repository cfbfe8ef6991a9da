"""Fixtures for the data tests: small files on disk."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from orchestrator.cli import main as command_line
from orchestrator.data.prepare import main

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


class Stage:
    """Runs the prepare stage, and reads what it wrote and said."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.out = folder / "run" / "data"
        self._capsys = capsys
        self.stdout = self.stderr = ""

    def __call__(self, *argv: object) -> int:
        code = main([*map(str, argv), "--out", str(self.out)])
        self.stdout, self.stderr = self._capsys.readouterr()
        return code

    def lines(self, name: str) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.out / name).read_text(encoding="utf-8").splitlines()]

    def json(self, name: str) -> Any:
        return json.loads((self.out / name).read_text(encoding="utf-8"))

    def names(self) -> list[str]:
        return sorted(path.name for path in self.out.iterdir()) if self.out.exists() else []


class Orch:
    """Runs the command line, and returns its exit code and all that it said."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys

    def __call__(self, *argv: object) -> tuple[int, str]:
        with pytest.raises(SystemExit) as ended:
            command_line([*map(str, argv)])
        return int(ended.value.code or 0), "".join(self._capsys.readouterr())


@pytest.fixture
def orch(capsys: pytest.CaptureFixture[str]) -> Orch:
    return Orch(capsys)


@pytest.fixture
def stage(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Stage:
    return Stage(tmp_path, capsys)


def row(number: int = 1, **changes: Any) -> dict[str, Any]:
    """Return a good row; equal numbers give equal rows."""
    good = {"query": f"question {number}", "pos": [f"answer {number}"], "neg": [f"other {number}", f"more {number}"]}
    return good | changes


@pytest.fixture(name="row")
def _row() -> Any:
    return row
