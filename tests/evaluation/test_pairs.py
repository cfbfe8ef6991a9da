from __future__ import annotations

import json
import math

import numpy as np
import pytest
from scipy import stats

from orchestrator.errors import RunFolderError, StageFailedError
from orchestrator.evaluation.eval_sets import load_eval

ROWS = [{"pid": f"p{n}", "text1": "a", "text2": "b", "score": score} for n, score in enumerate((0.0, 2.5, 5.0, 2.5))]


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture
def load(tmp_path):
    return lambda rows=ROWS: load_eval(write(tmp_path / "eval.jsonl", rows))


def measure(evaluation, scores, names=("spearman", "pearson")):
    given = {pair.pid: score for pair, score in zip(evaluation.pairs, scores, strict=True)}
    return evaluation.measure({"a": given}, list(names), seed=42)["a"]


def test_the_correlations_are_scipys(load):
    draw = np.random.default_rng(4)
    rows = [{"pid": f"p{n}", "text1": "", "text2": "", "score": round(draw.uniform(0, 5))} for n in range(80)]
    scores = draw.normal(size=80)
    gold = [row["score"] for row in rows]
    expected = {"spearman": stats.spearmanr(scores, gold).statistic, "pearson": stats.pearsonr(scores, gold).statistic}
    assert measure(load(rows), scores).means == pytest.approx(expected)


def test_the_right_order_correlates_perfectly_whatever_the_scale(load):
    measured = measure(load(), [0.10, 0.20, 0.21, 0.20])
    assert measured.means["spearman"] == pytest.approx(1.0)
    assert measured.columns["spearman"] == (0.0, 0.0, 0.0, 0.0)


def test_constant_scores_count_zero_and_are_named(load):
    measured = measure(load(), [0.5] * 4)
    assert (measured.means, measured.facts) == ({"spearman": 0.0, "pearson": 0.0}, {"constant": True})


def test_a_single_pair_has_no_correlation(load):
    assert measure(load(ROWS[:1]), [0.5]).means == {"spearman": 0.0, "pearson": 0.0}


def test_the_columns_hold_what_the_correlation_is_made_of(load):
    columns = measure(load(), [0.1, 0.2, 0.3, 0.4], ["pearson"]).columns
    assert (columns["score"], columns["gold"]) == ((0.1, 0.2, 0.3, 0.4), (0.0, 2.5, 5.0, 2.5))


def test_the_range_of_the_gold_scores_is_described(load):
    assert load().describe() == {"pairs": 4, "distinct_scores": 3, "least": 0.0, "most": 5.0}


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_score_that_is_not_finite_is_an_error_that_names_the_pair(load, bad):
    with pytest.raises(StageFailedError, match="for p2"):
        measure(load(), [0.1, 0.2, bad, 0.3])


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([*ROWS, ROWS[0]], "the pid p0 comes twice"),
        ([{"pid": "p0", "text1": "a", "score": 1}], "not a scored pair"),
        ([{**ROWS[0], "score": "high"}], "not a scored pair"),
        ([{**ROWS[0], "score": math.nan}], "not a number"),
        ([*ROWS, 3], "not a scored pair"),
    ],
)
def test_a_line_that_is_no_pair_is_refused(load, rows, message):
    with pytest.raises(RunFolderError, match=message):
        load(rows)


SCORES = [{"pid": f"p{n}", "score": n / 4} for n in range(4)]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([*SCORES, {"pid": "p9", "score": 1}], "does not hold"),
        ([*SCORES, SCORES[0]], "two scores for p0"),
        ([{"pid": "p0"}], "not a pair's score"),
        (SCORES[:3], r"1 of 4 pairs have no score \(the first: p3\)"),
    ],
)
def test_scores_that_do_not_fit_the_pairs_are_refused(load, tmp_path, rows, message):
    with pytest.raises(RunFolderError, match=message):
        load().load_scores(write(tmp_path / "scores.jsonl", rows))
