from __future__ import annotations

import json

import pytest

from orchestrator.errors import RunFolderError
from orchestrator.evaluation.eval_sets import load_eval

ROWS = {
    "group": {"qid": "q", "query": "?", "documents": [{"docid": "d", "text": "t", "label": 1}]},
    "retrieval": {"qid": "q", "query": "?", "relevant": ["d"]},
    "pair": {"pid": "p", "text1": "a", "text2": "b", "score": 1},
    "chat": {"id": "r", "messages": [{"role": "user", "content": "?"}], "reference": "!"},
}


@pytest.mark.parametrize("kind", ROWS)
def test_the_rows_say_of_which_kind_an_evaluation_set_is(tmp_path, kind):
    (tmp_path / "eval.jsonl").write_text(json.dumps({**ROWS[kind], "source": "x.jsonl", "line": 1}) + "\n")
    (tmp_path / "corpus.jsonl").write_text('{"docid": "d", "text": "t"}\n')
    evaluation = load_eval(tmp_path / "eval.jsonl")
    assert evaluation is not None
    assert (evaluation.kind, len(evaluation.row_texts())) == (kind, 1)


def test_queries_of_classes_keep_them_and_say_how_many_there_are(tmp_path):
    rows = [{"qid": f"q{number}", "query": "?", "relevant": ["d"], "class": name} for number, name in enumerate("aba")]
    (tmp_path / "eval.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "corpus.jsonl").write_text('{"docid": "d", "text": "t"}\n')
    evaluation = load_eval(tmp_path / "eval.jsonl")
    assert evaluation.describe()["classes"] == 2
    assert [group.class_name for group in evaluation.pool({})] == ["a", "b", "a"]
    (tmp_path / "eval.jsonl").write_text(json.dumps(ROWS["retrieval"]))
    assert "classes" not in load_eval(tmp_path / "eval.jsonl").describe()


@pytest.mark.parametrize("row", ['{"text": "x"}', "[1]", "3"])
def test_a_row_of_no_known_kind_is_refused(tmp_path, row):
    (tmp_path / "eval.jsonl").write_text(row)
    with pytest.raises(RunFolderError, match="none of documents, relevant, text1, messages"):
        load_eval(tmp_path / "eval.jsonl")


def test_a_row_of_another_kind_than_the_first_is_refused(tmp_path):
    (tmp_path / "eval.jsonl").write_text(json.dumps(ROWS["pair"]) + "\n" + json.dumps(ROWS["chat"]) + "\n")
    with pytest.raises(RunFolderError, match="not a scored pair"):
        load_eval(tmp_path / "eval.jsonl")


def test_a_missing_or_empty_file_is_no_evaluation_set(tmp_path):
    assert load_eval(tmp_path / "eval.jsonl") is None
    (tmp_path / "eval.jsonl").write_text("\n")
    assert load_eval(tmp_path / "eval.jsonl") is None
