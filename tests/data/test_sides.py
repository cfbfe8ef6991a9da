from __future__ import annotations

import pytest

from orchestrator.data.sides import SplitDraw, find_threshold, hash_query
from orchestrator.errors import DataError


def test_a_query_is_drawn_the_same_way_for_ever():
    assert hash_query("what is it?", 42) == 5934071745042124931  # printf "42\nwhat is it?" | b2sum -l 64


def test_equal_queries_share_their_draw():
    assert hash_query("What  is it?", 42) == hash_query("what is it? ", 42)


def test_another_seed_draws_otherwise():
    assert hash_query("what is it?", 42) != hash_query("what is it?", 43)


def test_about_the_ratio_of_queries_lies_below_the_cut():
    cut = find_threshold(0.1)
    below = sum(hash_query(f"question {number}", 42) < cut for number in range(5000))
    assert 420 < below < 580


@pytest.mark.parametrize("ratio", [0, 1, -0.1, 1.5, float("nan"), float("inf")])
def test_a_ratio_outside_of_0_to_1_is_refused(ratio):
    with pytest.raises(DataError):
        find_threshold(ratio)


_QUERIES = ("where", "when", "why")
_LOW, _MIDDLE, _HIGH = sorted(hash_query(query, 42) for query in _QUERIES)


def _cut(threshold, queries=_QUERIES):
    found = SplitDraw(threshold, 42)
    for query in queries:
        found.takes(query)
    return found


@pytest.mark.parametrize(
    ("threshold", "adjusted"),
    [
        (_LOW, _LOW + 1),
        (_LOW - 1, _LOW + 1),
        (_LOW + 1, None),
        (_MIDDLE, None),
        (_HIGH, None),
        (_HIGH + 1, _HIGH),
        (_HIGH + 99, _HIGH),
    ],
)
def test_a_cut_that_leaves_a_side_empty_moves_to_the_nearest_that_does_not(threshold, adjusted):
    assert _cut(threshold).adjusted == adjusted


def test_one_query_cannot_be_split():
    assert _cut(5, ["where", "where"]).has_one_query
    assert _cut(5, ["where", "where"]).adjusted is None
    assert not _cut(5).has_one_query
    assert not _cut(5, []).has_one_query
