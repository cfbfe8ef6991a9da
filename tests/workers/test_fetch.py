from __future__ import annotations

import datetime as dt
import json
import os
import subprocess
import sys
import time

import pytest

from orchestrator.workers.failure import WorkerError
from orchestrator.workers.hubs import format_row
from tests.workers.conftest import WORKERS


@pytest.fixture(name="fetch")
def _fetch(tmp_path):
    def fetch(*arguments, **environment):
        """Run the worker with a cache of its own and no way to the real hub."""
        out = tmp_path / "out" / "rows.jsonl"
        kept = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
        cache = {"HF_HOME": str(tmp_path / "cache"), "HF_ENDPOINT": "http://127.0.0.1:9", **environment}
        command = [sys.executable, str(WORKERS), "fetch", *map(str, arguments), "--out", str(out)]
        done = subprocess.run(
            command, env=kept | cache, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=120
        )
        assert "Traceback" not in done.stderr
        assert out.exists() == (done.returncode == 0)
        assert not list(tmp_path.glob("out/.*"))
        return done, out

    return fetch


@pytest.fixture(name="folder")
def _folder(tmp_path):
    folder = tmp_path / "pairs"
    folder.mkdir()
    rows = [{"sentence1": f"句子 {n}", "sentence2": "b\u2028c", "score": n / 7, "note": None} for n in range(5)]
    for split in ("train", "test"):
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return folder, rows


def test_a_split_of_a_folder_becomes_json_lines_with_progress(fetch, folder):
    path, rows = folder
    done, out = fetch("--id", path, "--split", "test")
    assert done.returncode == 0, done.stderr
    written = [json.loads(line) for line in out.read_text(encoding="utf-8").split("\n")[:-1]]
    assert written == [{key: value for key, value in row.items() if value is not None} for row in rows]
    assert "orch-progress 5/5" in done.stdout


def test_a_split_that_is_not_there_is_named_with_those_that_are(fetch, folder):
    done, _ = fetch("--id", folder[0], "--split", "dev")
    assert done.returncode == 1
    assert done.stderr.startswith(f"fetch: {folder[0]}: split dev cannot be loaded: Unknown split")
    assert "train" in done.stderr
    assert "owner/name:SPLIT" in done.stderr


def test_a_hub_out_of_reach_ends_at_once_and_names_the_way_out(fetch):
    began = time.monotonic()
    done, _ = fetch("--id", "sentence-transformers/stsb")
    assert done.returncode == 1
    assert "the hub http://127.0.0.1:9 cannot be reached" in done.stderr
    assert "HF_ENDPOINT" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert time.monotonic() - began < 30


def test_offline_it_says_that_the_environment_forbids_it(fetch):
    done, _ = fetch("--id", "sentence-transformers/stsb", HF_HUB_OFFLINE="1")
    assert done.returncode == 1
    assert "it is not in the cache, and the environment forbids to ask the hub (HF_HUB_OFFLINE)" in done.stderr


def test_a_name_that_no_data_set_can_have_is_an_error_of_one_line(fetch):
    done, _ = fetch("--id", "a/b/c")
    assert done.returncode == 1
    assert done.stderr.startswith("fetch: a/b/c: this is no folder and no name of a data set")


def test_absent_values_leave_their_key_out_at_any_depth():
    row = {"a": None, "b": float("nan"), "c": {"d": None, "e": [1, None]}, "f": dt.date(2026, 1, 2), "g": b"x"}
    assert json.loads(format_row(row, 1)) == {"c": {"e": [1, None]}, "f": "2026-01-02", "g": "x"}


@pytest.mark.parametrize("value", [object(), float("inf"), b"\xff"])
def test_a_value_that_json_has_not_is_named_with_its_row(value):
    with pytest.raises(WorkerError, match=r"^row 7 holds a value that JSON has not"):
        format_row({"a": value}, 7)
