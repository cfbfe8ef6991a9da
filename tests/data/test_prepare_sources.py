"""Training rows a second time, a file for each that they came from: batches of one data set need it."""

from __future__ import annotations

import json

import pytest

from orchestrator.data import prepare
from orchestrator.errors import DataError


def write_rows(path, name, count):
    rows = [{"query": f"{name} {i}", "pos": [f"yes {name} {i}"], "neg": [f"no {name} {i}"]} for i in range(count)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.fixture
def run(tmp_path):
    def run(sizes, batch="4", limit=100):
        train = [write_rows(tmp_path / f"{name}.jsonl", name, count) for name, count in sizes.items()]
        evaluation = write_rows(tmp_path / "eval.jsonl", "eval", 2)
        argv = ["--train", *train, "--eval", evaluation, "--form", "flagembedding", "--out", str(tmp_path / "data")]
        sources = [f"{number:03d}-{name}.jsonl" for number, name in enumerate(sizes)]
        request, outputs = prepare.parse_arguments(
            [*argv, "--full-batch", batch, "--limit-train", str(limit), "--by-source", *sources]
        )
        return prepare.prepare(request, outputs), tmp_path / "data"

    return run


def test_each_row_stands_in_the_file_of_its_source_and_in_the_whole(run):
    gathered, data = run({"nli": 8, "msmarco": 4})
    first, second = ((data / "train" / name).read_text() for name in ("000-nli.jsonl", "001-msmarco.jsonl"))
    assert first + second == (data / "train.jsonl").read_text()
    assert len(second.splitlines()) == 4
    assert gathered.ledger.warnings == ()


def test_what_no_batch_of_its_own_data_set_holds_is_said(run):
    gathered, _ = run({"nli": 9, "tiny": 3})
    (warned,) = gathered.ledger.warnings
    assert (warned.code, warned.count) == ("rows-left-over", 4)
    assert warned.message.endswith("tiny.jsonl has fewer rows than one, and none is used")


def test_a_file_of_which_no_row_is_left_is_refused(run, tmp_path):
    with pytest.raises(DataError, match=r"no row is left of again\.jsonl"):
        run({"nli": 8, "again": 4}, limit=8)
    assert not (tmp_path / "data" / "train.jsonl").exists()
