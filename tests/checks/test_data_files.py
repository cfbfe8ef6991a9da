"""That small data files are all right is found once; whatever decides it has changed, they are read again."""

from __future__ import annotations

import json
import os
import tempfile

import pytest

from orchestrator import checks
from orchestrator.checks import data_files
from orchestrator.cli import main
from orchestrator.data import prepare
from tests.bad_input.case import ROWS, BadInput


@pytest.fixture
def check(tmp_path, monkeypatch, capsys):
    """Check a good recipe with more words; return the exit code, how often its data was read, and what was said."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(checks, "CHECKS", [check for check in checks.CHECKS if check.kind != "ask"])
    monkeypatch.chdir(tmp_path)
    BadInput("case", "", (), 0, "", "", "", {}).write(tmp_path)
    read, plain = [], prepare.prepare

    def counted(*args, **more):
        read.append(args)
        return plain(*args, **more)

    monkeypatch.setattr(prepare, "prepare", counted)

    def check(*words: str) -> tuple[int, int, str]:
        read.clear()
        with pytest.raises(SystemExit) as ended:
            main(["check", "recipe.yaml", *words])
        return int(ended.value.code or 0), len(read), capsys.readouterr().err

    return check


def test_good_files_are_read_once(check):
    assert check()[:2] == (0, 1)
    assert check()[:2] == (0, 0)


def test_what_decides_the_verdict_is_asked_anew(check, tmp_path, monkeypatch):
    assert check()[:2] == (0, 1)
    assert check("--set", "data.max_dropped=1")[:2] == (0, 1)
    assert check("--set", "data.seed=7")[:2] == (0, 1)
    (tmp_path / "eval.jsonl").write_text((tmp_path / "eval.jsonl").read_text() + "\n")
    assert check()[:2] == (0, 1)
    monkeypatch.setattr(data_files, "find_packages", lambda _: {"pyarrow": "1.0"})
    assert check()[:2] == (0, 1)
    monkeypatch.setattr(data_files, "_stamp_code", lambda: [("data/fit.py", 1, 1)])
    assert check()[:2] == (0, 1)
    assert check()[:2] == (0, 0)


def test_a_change_that_keeps_size_and_time_is_found(check, tmp_path):
    assert check()[:2] == (0, 1)
    rows, stat = tmp_path / "train.jsonl", (tmp_path / "train.jsonl").stat()
    rows.write_text(ROWS.replace('"query"', '"quary"', 1))
    os.utime(rows, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert rows.stat().st_size == stat.st_size
    code, _, said = check()
    assert code == 3
    assert "train.jsonl:1" in said


def test_bad_files_are_read_each_time_and_give_the_same_words(check, tmp_path):
    (tmp_path / "train.jsonl").write_text(ROWS + "{\n")
    first = check()
    assert first[:2] == (3, 1)
    assert check() == first
    (tmp_path / "train.jsonl").unlink()
    assert check()[0] == 2


def test_where_the_files_could_not_be_tried_nothing_is_remembered(check, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(tempfile, "tempdir", str(tmp_path / "gone"))
        assert check()[:2] == (0, 0)
    assert check()[:2] == (0, 1)


def test_a_cache_that_cannot_be_written_changes_nothing(check, tmp_path):
    (tmp_path / "cache").write_text("a file")
    assert [check()[:2], check()[:2]] == [(0, 1), (0, 1)]


def test_the_code_counts_with_its_tables(root):
    stamped = {os.path.relpath(path, root / "orchestrator") for path, *_ in data_files._stamp_code()}
    assert {"data/fit.py", "data/rows/names.yaml", "recipe/losses.py", "errors.py"} <= stamped
    assert json.dumps(sorted(stamped)).count("__pycache__") == 0
