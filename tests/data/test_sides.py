from __future__ import annotations

import pytest

from orchestrator.data.sides import HashRange, find_threshold, hash_query
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


def _range(*places):
    found = HashRange()
    for place in places:
        found.add(place)
    return found


@pytest.mark.parametrize(("cut", "adjusted"), [(10, 11), (5, 11), (11, None), (20, None), (21, 20), (99, 20)])
def test_a_cut_that_leaves_a_side_empty_moves_to_the_nearest_that_does_not(cut, adjusted):
    assert _range(10, 15, 20).adjust(cut) == adjusted


def test_one_query_cannot_be_split():
    assert not _range(10, 10).can_split
    assert _range(10, 10).adjust(5) is None
