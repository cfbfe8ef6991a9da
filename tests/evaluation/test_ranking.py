from __future__ import annotations

import math
from fractions import Fraction

import pytest

from orchestrator.errors import StageFailedError
from orchestrator.evaluation.eval_sets import measure_ranking
from orchestrator.evaluation.ranking import RANDOM_ORDERS

ALL = ("ndcg@10", "mrr@10", "map", "hit@1", "precision@5", "recall@5")


def one_query(make_group, labels, scores, *metrics):
    measured = measure_ranking(
        [make_group("q", *labels)], {"q": {f"q.{n}": score for n, score in enumerate(scores)}}, metrics
    )
    return [measured.columns[metric][0] for metric in metrics]


def test_a_relevant_document_at_rank_two_has_the_textbook_values(make_group):
    values = one_query(make_group, (0, 1, 0, 0, 0), (0.9, 0.8, 0.1, 0.0, -1.0), *ALL)
    assert values == pytest.approx([1 / math.log2(3), 0.5, 0.5, 0.0, 0.2, 1.0])


def test_ndcg_uses_the_graded_label_as_a_linear_gain(make_group):
    (value,) = one_query(make_group, (1, 3), (0.9, 0.1), "ndcg@10")
    assert value == pytest.approx((1 + 3 / math.log2(3)) / (3 + 1 / math.log2(3)))


def test_a_cutoff_ignores_what_comes_after_it(make_group):
    assert one_query(make_group, (0, 0, 1), (3, 2, 1), "mrr@2", "ndcg@2", "hit@2") == [0, 0, 0]


def test_a_constant_scorer_gets_the_expected_value_of_a_random_order(make_group):
    labels = (0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0)
    count = len(labels)
    ranks = range(1, 11)
    expected = {
        "ndcg@10": sum(1 / math.log2(rank + 1) for rank in ranks) / count,
        "mrr@10": sum(1 / rank for rank in ranks) / count,
        "map": sum(1 / rank for rank in range(1, count + 1)) / count,
        "hit@1": 1 / count,
        "precision@5": 5 / count / 5,
        "recall@5": 5 / count,
    }
    assert one_query(make_group, labels, [0.5] * count, *ALL) == pytest.approx([expected[name] for name in ALL])


def test_a_constant_scorer_with_several_relevant_documents_gets_the_hypergeometric_hit_rate(make_group):
    (value,) = one_query(make_group, (1, 1, 1, 0, 0, 0, 0, 0), [0.0] * 8, "hit@3")
    assert value == pytest.approx(float(1 - Fraction(math.comb(5, 3), math.comb(8, 3))))


@pytest.mark.parametrize("labels", [(1, 0, 0), (0, 1, 0), (0, 0, 1)])
def test_the_place_in_the_file_does_not_decide_a_tie(make_group, labels):
    assert one_query(make_group, labels, [7.0] * 3, "mrr@10") == pytest.approx([(1 + 1 / 2 + 1 / 3) / 3])


def test_a_tie_below_the_relevant_document_changes_nothing(make_group):
    assert one_query(make_group, (1, 0, 0), (1.0, 0.5, 0.5), "mrr@10", "map") == [1.0, 1.0]


def test_scores_that_differ_by_less_than_single_precision_are_not_a_tie(make_group):
    assert one_query(make_group, (0, 1), (1.0, 1.0 + 1e-12), "mrr@10") == [1.0]


def test_too_many_orders_are_estimated_close_to_the_true_expectation(make_group):
    group = make_group("q", *[1] * 10, *[0] * 30)
    measured = measure_ranking([group], {"q": {f"q.{n}": 1.0 for n in range(40)}}, ["precision@10"])
    assert measured.facts["sampled_queries"] == 1
    assert measured.columns["precision@10"][0] == pytest.approx(0.25, abs=4 * math.sqrt(0.0144 / RANDOM_ORDERS))


def test_an_estimate_is_the_same_every_time(make_group):
    group, scores = make_group("q", *[1] * 10, *[0] * 30), {"q": {f"q.{n}": 1.0 for n in range(40)}}
    assert measure_ranking([group], scores, ["map"]) == measure_ranking([group], scores, ["map"])


def test_few_orders_are_enumerated_and_not_counted_as_estimated(make_group):
    measured = measure_ranking([make_group("q", 1, 0)], {"q": {"q.0": 1.0, "q.1": 1.0}}, ["map"])
    assert (measured.facts["tied_queries"], measured.facts["sampled_queries"]) == (1, 0)


def test_a_tie_among_equal_labels_is_not_counted_as_a_tie(make_group):
    measured = measure_ranking([make_group("q", 1, 0, 0)], {"q": {"q.0": 2.0, "q.1": 1.0, "q.2": 1.0}}, ["map"])
    assert measured.facts["tied_queries"] == 0


def test_a_query_without_scores_counts_zero_and_is_named(make_group):
    groups = [make_group("q1", 1, 0), make_group("q2", 1, 0)]
    measured = measure_ranking(groups, {"q1": {"q1.0": 1.0, "q1.1": 0.0}}, ["ndcg@10"])
    assert (measured.columns["ndcg@10"], measured.facts["missing_queries"], measured.means["ndcg@10"]) == (
        (1.0, 0.0),
        ["q2"],
        0.5,
    )


def test_a_relevant_document_without_a_score_counts_as_not_retrieved(make_group):
    measured = measure_ranking([make_group("q", 1, 1)], {"q": {"q.0": 1.0}}, ["recall@5", "map"])
    assert (measured.columns["recall@5"], measured.columns["map"]) == ((0.5,), (0.5,))


def test_a_query_without_a_relevant_document_counts_zero(make_group):
    assert one_query(make_group, (0, 0), (1.0, 0.0), *ALL) == [0.0] * 6


def test_values_keep_the_order_of_the_groups_when_label_orders_are_shared(make_group):
    groups = [make_group("b", 1, 0), make_group("a", 0, 1), make_group("c", 1, 0)]
    scores = {qid: {f"{qid}.0": 2.0, f"{qid}.1": 1.0} for qid in "abc"}
    assert measure_ranking(groups, scores, ["mrr@10"]).columns["mrr@10"] == (1.0, 0.5, 1.0)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_score_that_is_not_finite_is_an_error_that_names_the_pair(make_group, bad):
    with pytest.raises(StageFailedError, match=r"q/q\.1"):
        measure_ranking([make_group("q", 1, 0)], {"q": {"q.0": 1.0, "q.1": bad}}, ["map"])
