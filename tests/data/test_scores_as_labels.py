"""Graded rows whose grades stand in pos_scores: never trained on as positives all alike."""

from __future__ import annotations

import json

import pytest

from orchestrator.data.mining import gather_for_mining
from orchestrator.data.request import RowFiles
from orchestrator.data.rows.checks import RowRules
from orchestrator.errors import DataError

PAIRS = ("--kind", "labelled", "--form", "cross-encoder-pairs")
GRADED = (
    {"query": "q1", "pos": ["a", "b", "c"], "pos_scores": [2, 0, 1]},
    {"query": "q2", "pos": ["d", "e"], "pos_scores": [0, 2]},
)
MIXED = {"query": "q3", "pos": ["f", "g"], "neg": ["h"], "pos_scores": [2, 1]}
EVAL = {"query": "e", "hits": [{"content": "x", "label": 2}, {"content": "y", "label": 0}]}


@pytest.mark.parametrize("scale", [("--max-label", 2), ()])
def test_scores_beside_positives_are_not_taken_for_a_teachers_unasked(stage, files, scale):
    train, evaluation = files.lines("t.jsonl", *GRADED), files.lines("e.jsonl", EVAL)
    sides = ("--train", train, "--eval", evaluation) if scale else ("--train", train)
    assert stage(*sides, *PAIRS, *scale, "--loss", "pointwise_bce") == 3
    assert f"{train}:1: scores-or-labels: " in stage.stderr
    assert "data.scores_as_labels: true (--scores-as-labels)" in stage.stderr
    assert stage.names() == ["ledger.failed.json"]


def test_scores_are_read_as_labels_where_the_recipe_says_so(stage, files):
    train = files.lines("t.jsonl", *GRADED, MIXED)
    told = ("--max-label", 2, "--scores-as-labels")
    assert stage("--train", train, *PAIRS, *told, "--loss", "pointwise_bce") == 0
    found = {row["document"]: row["label"] for row in stage.lines("train.jsonl")}
    assert found == {"a": 1, "b": 0, "c": 0.5, "d": 0, "e": 1, "f": 1, "g": 0.5, "h": 0}
    assert "scores-not-used" not in stage.stderr


def test_a_row_that_is_also_a_single_judgement_has_no_text_unread(stage, files):
    both = GRADED[0] | {"pos": ["a long text that is judged", "b", "c"], "content": "d", "label": 1}
    train = files.lines("t.jsonl", *GRADED, both)
    told = ("--max-label", 2, "--scores-as-labels")
    assert stage("--train", train, *PAIRS, *told, "--loss", "pointwise_bce") == 3
    assert f'{train}:3: text-not-read: the row has "hits"' in stage.stderr


def test_the_mixed_form_is_answered_with_what_it_means(stage, files):
    assert stage("--train", files.lines("t.jsonl", MIXED), *PAIRS, "--max-label", 2) == 3
    assert 'the row has "pos_scores" without "neg_scores"' in stage.stderr
    assert "if they are labels (negatives have the lowest), say data.scores_as_labels: true" in stage.stderr


def test_a_teachers_scores_stay_a_teachers_where_that_is_said_or_learnt(stage, files):
    both = {"query": "q", "pos": ["a"], "neg": ["b"], "pos_scores": [9.5], "neg_scores": [-3.0]}
    train, evaluation = files.lines("t.jsonl", both), files.lines("e.jsonl", EVAL)
    sides = ("--train", train, "--eval", evaluation, *PAIRS, "--max-label", 2)
    assert stage(*sides, "--loss", "pointwise_bce") == 3
    assert stage(*sides, "--loss", "pointwise_bce", "--no-scores-as-labels") == 0
    assert [row["label"] for row in stage.lines("train.jsonl")] == [1, 0]
    assert stage(*sides, "--loss", "pointwise_mse", "--target", "teacher") == 0


def test_a_grade_outside_of_the_range_is_named_as_the_row_names_it(stage, files):
    train = files.lines("t.jsonl", {"query": "q", "pos": ["a", "b"], "pos_scores": [1, 3]})
    assert stage("--train", train, *PAIRS, "--max-label", 2, "--scores-as-labels") == 3
    assert 't.jsonl:1: label-out-of-range: "pos_scores"[1] is 3, outside 0 to 2' in stage.stderr


@pytest.mark.parametrize("options", [("--max-label", "2"), ("--kind", "labelled")])
def test_the_check_of_a_file_asks_too_and_takes_the_answer(files, orch, options):
    train = files.lines("t.jsonl", *GRADED)
    code, said = orch("data", "check", train, *options)
    assert (code, "scores-or-labels" in said) == (3, True)
    code, said = orch("data", "check", train, "--max-label", 2, "--scores-as-labels")
    assert (code, "labels: 0 to 1 (mean 0.50)" in said) == (0, True)


def test_converting_asks_too_and_makes_labels_of_the_scores(files, orch):
    train, out = files.lines("t.jsonl", *GRADED, MIXED), files.folder / "new.jsonl"
    call = ("data", "convert", files.lines("g.jsonl", *GRADED), "--to", "hits", "--max-label", 2, "-o", out)
    code, said = orch(*call)
    assert (code, "scores-or-labels" in said, out.exists()) == (3, True, False)
    code, _ = orch("data", "convert", train, "--to", "hits", "--max-label", 2, "--scores-as-labels", "-o", out)
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert [[hit["label"] for hit in row["hits"]] for row in rows] == [[1, 0, 0.5], [0, 1], [1, 0.5, 0]]
    assert (code, {key for row in rows for hit in row["hits"] for key in hit}) == (0, {"content", "label"})
    assert orch("data", "check", out)[0] == 0


def test_labels_written_as_scores_come_back(files, orch):
    hits = {"query": "q", "hits": [{"content": "a", "label": 1}, {"content": "b", "label": 0.5}]}
    there, back = files.folder / "there.jsonl", files.folder / "back.jsonl"
    orch(
        "data", "convert", files.lines("h.jsonl", hits), "--to", "ranking", "--relevant-from", 1,
        "--labels-as-scores", "-o", there,
    )  # fmt: skip
    assert orch("data", "convert", there, "--to", "hits", "--scores-as-labels", "-o", back)[0] == 0
    assert json.loads(back.read_text()) == hits


def test_mining_does_not_take_a_grade_of_zero_for_a_positive(files):
    train = files.lines("t.jsonl", *GRADED)
    with pytest.raises(DataError, match="scores-or-labels"):
        gather_for_mining(RowFiles((train,), RowRules(max_label=2.0)), files.folder)
    gather_for_mining(RowFiles((train,), RowRules(max_label=2.0, scores_as_labels=True)), files.folder)
    queries = [json.loads(line) for line in (files.folder / "queries.jsonl").read_text().splitlines()]
    assert [(len(row["positives"]), len(row["negatives"])) for row in queries] == [(2, 1), (1, 1)]


def test_training_rows_with_one_label_are_refused_by_losses_of_one_pair(stage, files):
    same = [{"query": name, "content": f"text {name}", "label": 1} for name in "abc"]
    train = files.lines("t.jsonl", *same)
    for loss in ("pointwise_bce", "pointwise_mse"):
        assert stage("--train", train, *PAIRS, "--loss", loss) == 3
        assert f"one-label-only: every training pair has the label 1: {loss} has nothing to contrast" in stage.stderr


def test_a_limit_on_the_rows_does_not_make_their_labels_one(stage, files):
    rows = [{"query": name, "content": f"text {name}", "label": int(name == "z")} for name in "abcz"]
    train = files.lines("t.jsonl", *rows)
    assert stage("--train", train, *PAIRS, "--loss", "pointwise_bce", "--limit-train", 2) == 0
