"""A shape of rows is added from here, in one place each time, and every verb reads it."""

from __future__ import annotations

import json

import pytest

from orchestrator.data.check import check_files
from orchestrator.data.convert import Conversion, convert_files
from orchestrator.data.mining import MiningRows, gather_for_mining
from orchestrator.data.prepare import main as prepare
from orchestrator.data.prepare_eval import EvalRequest
from orchestrator.data.prepare_eval import main as prepare_eval
from orchestrator.data.prepare_eval import prepare_eval as prepare_eval_files
from orchestrator.data.reshape import Reshaping
from orchestrator.data.rows import shapes
from orchestrator.data.rows.shapes import Fields, Shape
from orchestrator.data.split import split_file
from orchestrator.data.teacher import Rows, join_scores, write_pairs
from orchestrator.serving.evaluate_model import sniff_data


def read_exam(row):
    """{"task", "right", "wrong"}: a question with its right answer and its wrong ones."""
    names = {"query": "task", "pos": "right", "neg": "wrong"}
    return Fields({"query": row["task"], "pos": [row["right"]], "neg": row["wrong"]}, names, frozenset({"pos"}))


def rewrite_exam(row):
    rest = {key: value for key, value in row.items() if key not in {"task", "right", "wrong"}}
    return {"query": row["task"], "pos": [row["right"]], "neg": row["wrong"]} | rest


KEYS = ("task", "right", "wrong")
READ = Shape("exam", "group", KEYS, read_exam, lists=("wrong",))
REWRITTEN = Shape("exam", "group", KEYS, rewrite=rewrite_exam, lists=("wrong",))


@pytest.fixture(params=[READ, REWRITTEN], ids=["read", "rewritten"])
def exam(request):
    shapes.register(request.param)
    yield request.param
    shapes.SHAPES.remove(request.param)
    shapes.forget_order()


def build_row(number, **changes):
    return {"task": f"question {number}", "right": f"answer {number}", "wrong": [f"other {number}", "none"]} | changes


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "exam.jsonl"
    path.write_text("".join(json.dumps(build_row(number)) + "\n" for number in range(20)))
    return path


def read_lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_rows_of_it_are_checked_prepared_and_split(exam, path, tmp_path):
    assert check_files([path]).ok
    argv = ["--train", str(path), "--eval-ratio", "0.3", "--form", "flagembedding", "--out", str(tmp_path / "out")]
    assert prepare(argv) == 0
    found = read_lines(tmp_path / "out/train.jsonl")
    assert set(map(tuple, found)) == {("query", "pos", "neg")}
    assert len(found) + len(read_lines(tmp_path / "out/eval.jsonl")) == 20
    report = split_file(path, tmp_path / "a.jsonl", tmp_path / "b.jsonl", 0.3)
    assert report.train_rows + report.eval_rows == 20
    assert read_lines(report.train)[0].keys() == set(KEYS)
    assert prepare_eval(["--eval", str(path), "--out", str(tmp_path / "eval")]) == 0


def test_a_table_of_it_is_read(exam, tmp_path):
    path = tmp_path / "exam.csv"
    path.write_text('task,right,wrong\nquestion,answer,"[""other"", ""none""]"\n')
    assert check_files([path]).ok


def test_a_fault_is_told_in_the_words_of_the_row(exam, path):
    path.write_text(json.dumps(build_row(1, wrong="other")) + "\n")
    [problem] = check_files([path]).problems[:1]
    assert problem.message.startswith("wrong-type: ")
    assert ('"wrong"' if exam is READ else '"neg"') in problem.message


def test_rows_of_it_are_converted_scored_and_mined(exam, path, tmp_path):
    hits = tmp_path / "hits.jsonl"
    convert_files([path], hits, Conversion(reshaping=Reshaping("hits")))
    assert read_lines(hits)[3]["hits"][0] == {"content": "answer 3", "label": 1}
    write_pairs(Rows((path,)), tmp_path)
    scores = tmp_path / "scores.jsonl"
    scores.write_text(
        "".join(json.dumps({"pid": p["pid"], "score": 0.5}) + "\n" for p in read_lines(tmp_path / "pairs.jsonl"))
    )
    join_scores(Rows((path,)), scores, tmp_path / "scored.jsonl")
    assert read_lines(tmp_path / "scored.jsonl")[0]["neg_scores"] == [0.5, 0.5]
    assert gather_for_mining(MiningRows((path,)), tmp_path).queries == 20


def test_models_are_evaluated_on_rows_of_it(exam, path, tmp_path):
    request = EvalRequest((path,), sniff_data([path], {}))
    assert request.kind == "group"
    assert prepare_eval_files(request, tmp_path).ledger.sides["eval"].kept == 20
    assert {document["label"] for document in read_lines(tmp_path / "eval.jsonl")[0]["documents"]} == {0, 1}


def read_votes(row):
    """{"task", "answers", "votes"}: a question, its answers, and a grade each."""
    names = {"query": "task", "documents": "answers", "labels": "votes"}
    return Fields({"query": row["task"], "documents": row["answers"], "labels": row["votes"]}, names)


def test_graded_rows_of_a_new_shape_are_converted_and_mined_too(tmp_path):
    votes = Shape("votes", "labelled", ("task", "answers", "votes"), read_votes, lists=("answers", "votes"))
    path, hits = tmp_path / "votes.jsonl", tmp_path / "hits.jsonl"
    path.write_text(json.dumps({"task": "q", "answers": ["a", "b"], "votes": [1, 0], "id": 7}) + "\n")
    shapes.register(votes)
    try:
        convert_files([path], hits, Conversion(reshaping=Reshaping("hits")))
        assert gather_for_mining(MiningRows((path,)), tmp_path).queries == 1
    finally:
        shapes.SHAPES.remove(votes)
        shapes.forget_order()
    judged = [{"content": "a", "label": 1}, {"content": "b", "label": 0}]
    assert read_lines(hits) == [{"query": "q", "hits": judged, "id": 7}]
