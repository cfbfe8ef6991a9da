"""The files of datasets_example/ are what its README says."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator.data.convert import Conversion, convert_files
from orchestrator.data.reshape import Reshaping

FOLDER = Path(__file__).parents[2] / "datasets_example"


def read(name):
    return [json.loads(line) for line in (FOLDER / name).read_text(encoding="utf-8").splitlines()]


def test_the_files_are_built_again_with_the_same_bytes(tmp_path):
    built = tmp_path / "built"
    shutil.copytree(FOLDER, built, ignore=shutil.ignore_patterns("*.train.*", "*.eval.*", "__pycache__"))
    subprocess.run([sys.executable, "-B", built / "build.py"], check=True, capture_output=True, timeout=300)
    names = sorted(path.name for path in FOLDER.iterdir() if path.is_file())
    assert sorted(path.name for path in built.iterdir()) == names
    assert [name for name in names if (built / name).read_bytes() != (FOLDER / name).read_bytes()] == []


@pytest.mark.parametrize("side", ["train", "eval"])
@pytest.mark.parametrize(
    ("name", "to", "other"), [("pointwise", "hits", "graded"), ("graded", "pointwise", "pointwise")]
)
def test_the_graded_and_the_pointwise_files_are_the_same_judgements(tmp_path, side, name, to, other):
    out = tmp_path / "out.jsonl"
    convert_files([FOLDER / f"{name}.{side}.jsonl"], out, Conversion(reshaping=Reshaping(to)))
    assert out.read_bytes() == (FOLDER / f"{other}.{side}.jsonl").read_bytes()


def test_nothing_that_is_asked_or_relevant_in_the_graded_eval_file_is_in_train():
    train, held_out = read("graded.train.jsonl"), read("graded.eval.jsonl")
    assert not {row["query"] for row in train} & {row["query"] for row in held_out}
    relevant = {hit["content"] for row in held_out for hit in row["hits"] if hit["label"]}
    assert not relevant & {hit["content"] for row in train for hit in row["hits"]}


@pytest.mark.parametrize(("side", "count"), [("train", 300), ("eval", 80)])
def test_a_graded_question_has_one_answer_two_related_passages_and_two_to_five_others(side, count):
    rows = read(f"graded.{side}.jsonl")
    assert len(rows) == count
    for row in rows:
        labels = sorted((hit["label"] for hit in row["hits"]), reverse=True)
        assert labels[:3] == [2, 1, 1]
        assert labels[3:] in ([0] * zeros for zeros in range(2, 6))
        assert len({hit["content"] for hit in row["hits"]}) == len(row["hits"])
