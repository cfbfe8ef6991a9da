"""What is written into a run folder is there whole or not at all."""

from __future__ import annotations

import pytest

from orchestrator.machine import files
from orchestrator.machine.files import write_bytes, write_text


def test_bytes_and_text_are_written_as_they_are(tmp_path):
    write_bytes(tmp_path / "a" / "curve.png", b"\x89PNG\r\n")
    write_text(tmp_path / "a" / "run.sh", "né\r\n\n")
    assert (tmp_path / "a" / "curve.png").read_bytes() == b"\x89PNG\r\n"
    assert (tmp_path / "a" / "run.sh").read_bytes() == b"n\xc3\xa9\r\n\n"
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == ["curve.png", "run.sh"]


def test_a_write_that_fails_leaves_the_old_file_and_no_part(tmp_path, monkeypatch):
    write_bytes(tmp_path / "curve.png", b"old")

    def full(_descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", full)
    for write, content in ((write_bytes, b"new"), (write_text, "new")):
        with pytest.raises(OSError, match="No space left"):
            write(tmp_path / "curve.png", content)
    assert [path.name for path in tmp_path.iterdir()] == ["curve.png"]
    assert (tmp_path / "curve.png").read_bytes() == b"old"
