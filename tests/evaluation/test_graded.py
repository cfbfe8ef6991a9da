"""Graded labels: nDCG takes them as gains, the other measures count those of at least 0.5 as relevant."""

from __future__ import annotations

import json
import math

import ir_measures
import numpy as np
import pytest

from orchestrator.errors import RunFolderError
from orchestrator.evaluation.eval_sets import load_eval, measure_ranking
from orchestrator.evaluation.ranking import FINEST, choose_grades

BINARY = ("mrr@10", "map", "hit@1", "precision@2", "recall@2")


def values(make_group, labels, metrics, scores=None):
    scores = scores or range(len(labels), 0, -1)
    measured = measure_ranking(
        [make_group("q", *labels)], {"q": {f"q.{n}": float(s) for n, s in enumerate(scores)}}, metrics
    )
    return [measured.columns[metric][0] for metric in metrics]


def dcg(labels):
    return math.fsum(label / math.log2(place + 2) for place, label in enumerate(labels))


@pytest.mark.parametrize("labels", [(0.5, 1, 0, 0.25), (1 / 3, 0, 2 / 3, 1), (0.2, 0.8, 0.6), (0, 0.04, 1)])
def test_ndcg_of_a_few_grades_is_that_of_the_definition(make_group, labels):
    expected = dcg(labels) / dcg(sorted(labels, reverse=True))
    assert values(make_group, labels, ["ndcg@10"]) == [pytest.approx(expected, abs=1e-12)]


def test_ndcg_of_continuous_labels_is_exact_to_a_thousandth(make_group):
    labels = np.random.default_rng(3).uniform(size=30).tolist()
    expected = dcg(labels) / dcg(sorted(labels, reverse=True))
    assert values(make_group, labels, ["ndcg@30"]) == [pytest.approx(expected, abs=2e-3)]


@pytest.mark.parametrize("low", [0.25, 1 / 3, 0.4996, 0.4999999])
def test_a_label_below_one_half_is_not_relevant_and_one_half_is(make_group, low):
    labels = (low, 0.5, 0.0, 1.0)
    assert values(make_group, labels, BINARY) == pytest.approx([1 / 2, (1 / 2 + 2 / 4) / 2, 0.0, 0.5, 0.5])


def test_binary_measures_of_graded_labels_are_those_of_their_yes_and_no(make_group):
    labels = np.random.default_rng(5).uniform(size=10)
    scores = (4, 4, 4, 3, 3, 2, 2, 2, 1, 0)  # with ties
    relevant = (labels >= 0.5).astype(int).tolist()
    graded = values(make_group, labels.tolist(), BINARY, scores)
    assert graded == pytest.approx(values(make_group, relevant, BINARY, scores), abs=1e-9)


def test_graded_values_are_those_of_ir_measures(make_group):
    draw = np.random.default_rng(9)
    names = {"ndcg@10": "nDCG@10", "mrr@10": "RR(rel=2)@10", "map": "AP(rel=2)", "precision@5": "P(rel=2)@5",
             "hit@3": "Success(rel=2)@3", "recall@5": "R(rel=2)@5"}  # fmt: skip
    grades = {f"q{n}": draw.integers(0, 5, size=20) for n in range(6)}
    groups = [make_group(qid, *(row / 4).tolist()) for qid, row in grades.items()]
    run = {qid: {f"{qid}.{n}": float(score) for n, score in enumerate(draw.normal(size=20))} for qid in grades}
    qrels = {qid: {f"{qid}.{n}": int(grade) for n, grade in enumerate(row)} for qid, row in grades.items()}
    measured = measure_ranking(groups, run, list(names))
    theirs = {name: ir_measures.parse_measure(text) for name, text in names.items()}
    reference = ir_measures.calc_aggregate(list(theirs.values()), qrels, run)
    assert {name: measured.means[name] for name in names} == pytest.approx({n: reference[m] for n, m in theirs.items()})


def test_a_tie_of_two_grades_has_the_mean_of_both_orders(make_group):
    both = [dcg(labels) / dcg((1, 0.5)) for labels in ((1, 0.5), (0.5, 1))]
    assert values(make_group, (1, 0.5), ["ndcg@10"], (7, 7)) == [pytest.approx(sum(both) / 2)]


@pytest.mark.parametrize(
    ("labels", "scale"),
    [((0, 1), 1), ((0, 0.5, 1), 2), ((0, 1 / 3, 2 / 3, 1), 3), ((0.25, 0.2), 20), ((0.123, 1), 1000)],
)
def test_few_labels_are_graded_exactly(labels, scale):
    grades = choose_grades(labels)
    assert grades.scale == scale
    assert [grades.grade(label) for label in labels] == [round(label * scale) for label in labels]


@pytest.mark.parametrize("labels", [(0.1234, 1), (1 / 7, 1 / 11, 1 / 13)])
def test_other_labels_are_rounded_to_a_thousandth(labels):
    assert choose_grades(labels).scale == FINEST


def test_a_graded_set_says_how_many_grades_it_has_and_counts_from_one_half_on(tmp_path):
    documents = [{"docid": f"d{n}", "text": "t", "label": label} for n, label in enumerate((0, 0.25, 0.5, 1))]
    path = tmp_path / "eval.jsonl"
    path.write_text(json.dumps({"qid": "q", "query": "?", "documents": documents}) + "\n", encoding="utf-8")
    described = load_eval(path).describe()
    assert (described["relevant"], described["labels"]) == (
        2,
        {"grades": 4, "lowest": 0, "mean": 0.4375, "highest": 1},
    )


@pytest.mark.parametrize("label", [2, -0.1, "x", None, float("nan")])
def test_a_label_outside_0_to_1_is_refused_with_its_line(tmp_path, label):
    row = {"qid": "q", "query": "?", "documents": [{"docid": "d", "text": "t", "label": label}]}
    path = tmp_path / "eval.jsonl"
    path.write_text(json.dumps(row) + "\n", encoding="utf-8")
    with pytest.raises(RunFolderError, match="not a ranking group") as raised:
        load_eval(path)
    assert str(raised.value.problems[0].where).endswith("eval.jsonl:1")
