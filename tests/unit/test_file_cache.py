"""A file is read once for as long as it stays the same, and again as soon as it may not be."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from orchestrator.machine.files import read_once


class Reader:
    """Reads a file's text, and keeps which files it was asked for."""

    def __init__(self) -> None:
        self.read: list[str] = []
        self.look = read_once(self._read)

    def _read(self, path: Path) -> str | None:
        self.read.append(path.name)
        return path.read_text() if path.is_file() else None


@pytest.fixture
def reader() -> Reader:
    return Reader()


def test_the_same_file_is_read_once(tmp_path, reader):
    (tmp_path / "a").write_text("one")
    (tmp_path / "b").write_text("two")
    assert [reader.look(tmp_path / name) for name in "abab"] == ["one", "two", "one", "two"]
    assert reader.read == ["a", "b"]


def _rewrite(path: Path) -> None:
    path.write_text("changed")


def _touch_with_other_content(path: Path) -> None:
    path.write_text("eno")
    os.utime(path, ns=(1, 1))


def _replace(path: Path) -> None:
    found = path.stat()
    fresh = path.with_name("fresh")
    fresh.write_text("eno")
    os.utime(fresh, ns=(found.st_atime_ns, found.st_mtime_ns))
    fresh.replace(path)


@pytest.mark.parametrize("change", [_rewrite, _touch_with_other_content, _replace])
def test_a_file_of_another_size_time_or_inode_is_read_again(tmp_path, reader, change):
    path = tmp_path / "a"
    path.write_text("one")
    assert reader.look(path) == "one"
    change(path)
    assert reader.look(path) == path.read_text()
    assert reader.read == ["a", "a"]


def test_a_file_that_is_not_there_is_looked_for_each_time(tmp_path, reader):
    assert reader.look(tmp_path / "a") is None
    (tmp_path / "a").write_text("one")
    assert reader.look(tmp_path / "a") == "one"
    (tmp_path / "a").unlink()
    assert reader.look(tmp_path / "a") is None
