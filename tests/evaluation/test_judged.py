from __future__ import annotations

import json

import pytest

from orchestrator.errors import RunFolderError
from orchestrator.evaluation.eval_sets import load_eval

GROUP = {"qid": "q1", "query": "为什么", "documents": [{"docid": "q1.0", "text": "因为", "label": 1}]}


def write(path, *rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_a_group_is_read_with_its_documents(tmp_path):
    (group,) = load_eval(write(tmp_path / "eval.jsonl", GROUP)).groups
    assert (group.qid, group.query, group.relevant, group.documents[0].text) == ("q1", "为什么", 1, "因为")


def test_a_qid_that_comes_twice_is_refused_with_its_line(tmp_path):
    with pytest.raises(RunFolderError) as raised:
        load_eval(write(tmp_path / "eval.jsonl", GROUP, GROUP))
    assert str(raised.value.problems[0].where).endswith("eval.jsonl:2")


def test_a_line_that_is_not_a_group_is_refused(tmp_path):
    with pytest.raises(RunFolderError, match="not a ranking group"):
        load_eval(write(tmp_path / "eval.jsonl", {"query": "x", "documents": []}))


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"qid": "q9", "docid": "q9.0", "score": 1}], "does not hold"),
        ([{"qid": "q1", "docid": "q1.7", "score": 1}], "does not hold"),
        ([{"qid": "q1", "docid": "q1.0", "score": 1}] * 2, "two scores"),
        ([{"qid": "q1", "docid": "q1.0", "score": None}], "not a score"),
    ],
)
def test_scores_that_belong_to_other_data_are_refused(tmp_path, rows, message):
    evaluation = load_eval(write(tmp_path / "eval.jsonl", GROUP))
    with pytest.raises(RunFolderError, match=message):
        evaluation.load_scores(write(tmp_path / "scores.jsonl", *rows))


def test_a_file_cut_in_the_middle_of_a_line_is_refused(tmp_path):
    path = tmp_path / "scores.jsonl"
    path.write_text('{"qid": "q1", "doc', encoding="utf-8")
    with pytest.raises(RunFolderError, match="not a line of JSON"):
        load_eval(write(tmp_path / "eval.jsonl", GROUP)).load_scores(path)
