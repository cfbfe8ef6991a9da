from __future__ import annotations

import json
import math

import pytest

from orchestrator.errors import RunFolderError, StageFailedError
from orchestrator.evaluation.eval_rows import ChatScore
from orchestrator.evaluation.eval_sets import load_eval

ASK = [{"role": "user", "content": "?"}]
ROWS = [{"id": f"r{n}", "messages": ASK, "reference": text} for n, text in enumerate(("Yes", "备份 保留", "no"))]
NAMES = ["loss", "perplexity", "exact_match", "rouge_l"]


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture
def load(tmp_path):
    return lambda rows=ROWS: load_eval(write(tmp_path / "eval.jsonl", rows))


def measure(evaluation, *scores, names=NAMES):
    given = {row.row: score for row, score in zip(evaluation.rows, scores, strict=True)}
    return evaluation.measure({"a": given}, names, seed=42)["a"]


def test_the_loss_is_a_token_and_not_a_row(load):
    measured = measure(load(), ChatScore(10.0, 2, None), ChatScore(8.0, 8, None), ChatScore(2.0, 10, None))
    assert measured.means["loss"] == 1.0
    assert measured.means["perplexity"] == pytest.approx(math.e)
    assert measured.columns["loss"] == (5.0, 1.0, 0.2)


def test_texts_are_compared_over_the_rows_that_have_one(load):
    measured = measure(load(), ChatScore(1, 1, " yes "), ChatScore(1, 1, "备份三天"), ChatScore(1, 1, None))
    assert measured.columns["exact_match"] == (1.0, 0.0, None)
    assert (measured.means["exact_match"], measured.means["rouge_l"]) == (0.5, 0.75)
    assert measured.facts["generations"] == 2


def test_an_empty_answer_is_an_answer(load):
    measured = measure(load(), *[ChatScore(1, 1, "")] * 3)
    assert (measured.facts["generations"], measured.means["rouge_l"]) == (3, 0.0)


def test_without_generations_there_is_nothing_to_compare(load):
    measured = measure(load(), *[ChatScore(1, 1, None)] * 3)
    assert (measured.means["exact_match"], measured.means["rouge_l"], measured.means["loss"]) == (None, None, 1.0)


def test_a_row_without_a_token_is_left_out_of_the_loss(load):
    measured = measure(load(), ChatScore(0.0, 0, None), ChatScore(4.0, 2, None), ChatScore(2.0, 1, None))
    assert (measured.means["loss"], measured.columns["loss"][0]) == (2.0, None)
    assert measured.facts["rows_without_tokens"] == 1


def test_without_any_token_there_is_no_loss(load):
    means = measure(load(), *[ChatScore(0.0, 0, None)] * 3).means
    assert (means["loss"], means["perplexity"]) == (None, None)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_is_an_error_that_names_the_row(load, bad):
    with pytest.raises(StageFailedError, match="for r1"):
        measure(load(), ChatScore(1, 1, None), ChatScore(bad, 1, None), ChatScore(1, 1, None))


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([*ROWS, ROWS[0]], "the id r0 comes twice"),
        ([{"id": "r0", "messages": ASK}], "not a chat row"),
        ([{"id": "r0", "messages": ["hello"], "reference": "x"}], "not a chat row"),
        ([{"id": "r0", "messages": None, "reference": "x"}], "not a chat row"),
    ],
)
def test_a_line_that_is_no_chat_row_is_refused(load, rows, message):
    with pytest.raises(RunFolderError, match=message):
        load(rows)


SCORES = [{"id": f"r{n}", "nll": 1.0, "tokens": 2, "generation": None} for n in range(3)]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([*SCORES, {**SCORES[0], "id": "r9"}], "does not hold"),
        ([*SCORES, SCORES[0]], "two scores for r0"),
        ([{"id": "r0", "nll": 1.0}], "not a chat row's score"),
        ([[1]], "not a chat row's score"),
        (SCORES[:1], r"2 of 3 rows have no score \(the first: r1\)"),
    ],
)
def test_scores_that_do_not_fit_the_rows_are_refused(load, tmp_path, rows, message):
    with pytest.raises(RunFolderError, match=message):
        load().load_scores(write(tmp_path / "scores.jsonl", rows))
