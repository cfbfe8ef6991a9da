from __future__ import annotations

import pytest

from orchestrator.workers.folders import fresh_folder, write_json


def test_a_failed_attempt_leaves_nothing_and_keeps_what_was_there(tmp_path):
    out = tmp_path / "model"
    with fresh_folder(out) as folder:
        (folder / "a").write_text("old")
    with pytest.raises(IsADirectoryError), fresh_folder(out) as folder:
        (folder / "a").write_text("new") and folder.write_text("not a file")
    assert (out / "a").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_a_new_folder_replaces_the_old_one_whole(tmp_path):
    out = tmp_path / "model"
    out.mkdir()
    (out / "stale").write_text("x")
    with fresh_folder(out) as folder:
        (folder / "a").write_text("new")
        assert (out / "stale").is_file()
    assert [path.name for path in out.iterdir()] == ["a"]


def test_what_a_killed_attempt_left_is_removed(tmp_path):
    left = tmp_path / ".model.dead.part"
    left.mkdir()
    with fresh_folder(tmp_path / "model"):
        assert not left.exists()


def test_json_with_nan_is_refused(tmp_path):
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "x.json", {"score": float("nan")})
    assert not list(tmp_path.iterdir())
