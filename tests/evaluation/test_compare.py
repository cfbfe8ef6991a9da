from __future__ import annotations

import time

import numpy as np
import pytest
from scipy import stats

from orchestrator.evaluation.measures import require_metric
from orchestrator.evaluation.paired import (
    BETTER,
    NO_DIFFERENCE,
    PERMUTATIONS,
    WORSE,
    Comparison,
    pair_columns,
    pair_means,
)
from orchestrator.evaluation.paired import compare as compare_paired

# as computed when only means could be compared
KNOWN = (0.06702668646853686, 0.015218433225256383, 0.11837343629568384, 0.012449377531123443)


def compare(before, after, **direction) -> Comparison:
    return compare_paired(pair_means(np.asarray(before), np.asarray(after), **direction), **direction)


def noisy(count: int, shift: float, seed: int = 0) -> tuple[list[float], list[float]]:
    draw = np.random.default_rng(seed)
    before = draw.uniform(0, 1, count)
    return list(before), list(before + draw.normal(shift, 0.2, count))


def test_wins_losses_and_ties_are_counted_by_query():
    comparison = compare([0.5, 0.5, 0.5, 0.5], [0.9, 0.6, 0.5, 0.1])
    assert (comparison.wins, comparison.losses, comparison.ties, comparison.units) == (2, 1, 1, 4)


def test_the_difference_is_after_minus_before():
    comparison = compare([0.25, 0.75], [0.5, 1.0])
    assert (comparison.before, comparison.after, comparison.difference) == (0.5, 0.75, 0.25)


def test_rounding_noise_is_a_tie_and_not_a_win():
    assert compare([0.3], [0.1 + 0.2]).ties == 1


def test_p_is_exact_for_few_differing_queries():
    # All five agree: of 2^5 sign patterns, this one and its mirror are as far out.
    comparison = compare([0.0] * 5, [0.5, 0.4, 0.3, 0.2, 0.1])
    assert (comparison.p, comparison.exact) == (2 / 32, True)


def test_unchanged_queries_do_not_end_the_exact_test():
    comparison = compare([0.0] * 105, [0.5] * 5 + [0.0] * 100)
    assert (comparison.p, comparison.exact) == (2 / 32, True)


def test_p_agrees_with_scipy_where_it_is_sampled():
    before, after = noisy(60, 0.05)
    reference = stats.permutation_test(
        (np.subtract(after, before),),
        lambda x, axis: np.mean(x, axis=axis),
        permutation_type="samples",
        n_resamples=20_000,
        rng=np.random.default_rng(7),
    )
    assert compare(before, after).p == pytest.approx(reference.pvalue, abs=0.012)


def test_p_agrees_with_scipy_where_it_is_exact():
    before, after = noisy(12, 0.05)
    reference = stats.permutation_test(
        (np.subtract(after, before),), lambda x, axis: np.mean(x, axis=axis), permutation_type="samples"
    )
    assert compare(before, after).p == pytest.approx(reference.pvalue)


def test_a_sampled_p_is_never_zero():
    comparison = compare([0.0] * 100, [1.0] * 100)
    assert comparison.p == 1 / (PERMUTATIONS + 1)


def test_p_is_one_when_nothing_differs():
    assert compare([0.5] * 20, [0.5] * 20).p == 1.0


def test_the_interval_is_close_to_the_normal_one_for_many_queries():
    before, after = noisy(400, 0.1)
    differences = np.subtract(after, before)
    half = 1.96 * differences.std() / 20
    comparison = compare(before, after)
    assert (comparison.low, comparison.high) == pytest.approx(
        (differences.mean() - half, differences.mean() + half), abs=0.1 * half
    )


def test_a_comparison_is_the_same_every_time():
    assert compare(*noisy(60, 0.05)) == compare(*noisy(60, 0.05))


def test_one_query_has_no_interval_and_no_verdict():
    comparison = compare([0.0], [1.0])
    assert (comparison.low, comparison.high, comparison.verdict) == (None, None, NO_DIFFERENCE)


@pytest.mark.parametrize(("shift", "verdict"), [(0.3, BETTER), (-0.3, WORSE), (0.0, NO_DIFFERENCE)])
def test_the_verdict_follows_the_interval(shift, verdict):
    assert compare(*noisy(60, shift, seed=5)).verdict == verdict


@pytest.mark.parametrize(("shift", "verdict"), [(0.3, WORSE), (-0.3, BETTER), (0.0, NO_DIFFERENCE)])
def test_the_verdict_turns_where_lower_is_better(shift, verdict):
    assert compare(*noisy(60, shift, seed=5), higher_is_better=False).verdict == verdict


def test_only_wins_losses_and_the_verdict_depend_on_the_direction():
    higher, lower = (compare(*noisy(60, 0.1), higher_is_better=way) for way in (True, False))
    assert (higher.wins, higher.losses) == (lower.losses, lower.wins)
    assert (higher.difference, higher.low, higher.high, higher.p) == (lower.difference, lower.low, lower.high, lower.p)


def test_the_numbers_of_a_known_comparison_stay_the_same_to_the_last_bit():
    comparison = compare(*noisy(60, 0.05))
    assert (comparison.difference, comparison.low, comparison.high, comparison.p) == KNOWN


def test_five_unanimous_queries_are_no_evidence():
    comparison = compare([0.0] * 5, [0.5, 0.4, 0.3, 0.2, 0.1])
    assert comparison.low is not None
    assert comparison.low > 0
    assert comparison.verdict == NO_DIFFERENCE


def test_different_numbers_of_queries_are_refused():
    with pytest.raises(ValueError, match="shorter"):
        pair_columns(require_metric("map"), {"map": [0.1, 0.2]}, {"map": [0.1]})


def test_five_thousand_queries_are_compared_within_seconds():
    started = time.monotonic()
    compare(*noisy(5000, 0.01))
    assert time.monotonic() - started < 10
