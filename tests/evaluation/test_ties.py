from __future__ import annotations

import math

import pytest

from orchestrator.evaluation.ranking import EXACT_LIMIT, RANDOM_ORDERS, LabelOrder, build_label_orders


def test_without_ties_there_is_one_order(make_group):
    orders = build_label_orders(make_group("q", 0, 2, 1), {"q.0": 1.0, "q.1": 3.0, "q.2": 2.0}, seed=1)
    assert orders.shares == {LabelOrder((2, 1, 0)): 1.0}


def test_a_tie_of_different_labels_gives_each_arrangement_the_same_share(make_group):
    orders = build_label_orders(make_group("q", 1, 0, 0), dict.fromkeys(("q.0", "q.1", "q.2"), 5.0), seed=1)
    assert orders.shares == pytest.approx(
        {LabelOrder((1, 0, 0)): 1 / 3, LabelOrder((0, 1, 0)): 1 / 3, LabelOrder((0, 0, 1)): 1 / 3}
    )


def test_two_ties_combine(make_group):
    group = make_group("q", 1, 0, 1, 0)
    orders = build_label_orders(group, {"q.0": 2.0, "q.1": 2.0, "q.2": 1.0, "q.3": 1.0}, seed=1)
    assert set(orders.shares) == {
        LabelOrder(ranked) for ranked in ((1, 0, 1, 0), (1, 0, 0, 1), (0, 1, 1, 0), (0, 1, 0, 1))
    }


def test_unscored_documents_are_kept_apart(make_group):
    orders = build_label_orders(make_group("q", 1, 0, 1), {"q.1": 0.0}, seed=1)
    assert orders.shares == {LabelOrder((0,), (1, 1)): 1.0}


@pytest.mark.parametrize(("wrong", "exact"), [(61, True), (62, False)])
def test_orders_are_enumerated_up_to_the_limit(make_group, wrong, exact):
    assert (math.comb(wrong + 2, 2) <= EXACT_LIMIT) is exact
    group = make_group("q", 1, 1, *[0] * wrong)
    orders = build_label_orders(group, {document.docid: 0.0 for document in group.documents}, seed=1)
    assert orders.exact is exact


def test_the_shares_of_a_sample_add_up_to_one(make_group):
    group = make_group("q", *[1] * 20, *[0] * 20)
    orders = build_label_orders(group, {document.docid: 0.0 for document in group.documents}, seed=1)
    assert (math.fsum(orders.shares.values()), len(orders.shares) <= RANDOM_ORDERS) == (pytest.approx(1.0), True)
