from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from orchestrator.evaluation.measures import require_metric
from orchestrator.evaluation.paired import (
    common_scale,
    compare,
    correlation,
    pair_columns,
    pair_correlations,
    pair_errors,
    pair_means,
    pair_ratios,
    perplexity,
)


def make_means(seed, count=40):
    draw = np.random.default_rng(seed)
    return pair_means, draw.uniform(size=count), draw.uniform(size=count), {}


def make_ratios(seed, count=40, *, exponent=False):
    draw = np.random.default_rng(seed)
    sizes = draw.integers(1, 90, count).astype(float)
    first, second = (np.stack((sizes * draw.gamma(4, 0.5, count), sizes)) for _ in range(2))
    return pair_ratios, first, second, {"exponent": exponent}


def make_correlations(seed, count=40, *, ranked=True):
    draw = np.random.default_rng(seed)
    gold = np.round(draw.uniform(0, 5, count), 1)
    first, second = gold + draw.normal(0, 2, count), np.round(gold / 9 + draw.normal(0, 0.1, count), 2)
    return pair_correlations, first, second, {"gold": gold, "ranked": ranked}


MAKERS = {
    "means": make_means,
    "ratios": make_ratios,
    "perplexities": lambda seed, count=40: make_ratios(seed, count, exponent=True),
    "spearman": make_correlations,
    "pearson": lambda seed, count=40: make_correlations(seed, count, ranked=False),
}


def build(name, seed=0, count=40):
    kind, first, second, rest = MAKERS[name](seed, count)
    return kind(first, second, **rest)


def swapped(name, seed=0, count=40):
    kind, first, second, rest = MAKERS[name](seed, count)
    return kind(second, first, **rest)


every_statistic = pytest.mark.parametrize("name", MAKERS)


@every_statistic
def test_the_rows_as_they_are_give_the_observed_difference(name):
    paired = build(name)
    rows = np.arange(40)[None, :]
    assert paired.resample(rows)[0] == pytest.approx(paired.difference)
    assert paired.difference == pytest.approx(paired.after - paired.before)


@every_statistic
@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_exchanging_every_row_turns_the_difference_around(name, seed):
    paired = build(name, seed)
    kept, turned = paired.exchange(np.array([[1.0], [0.0]]).repeat(int(paired.unlike.sum()), axis=1))
    assert kept == pytest.approx(paired.difference)
    assert turned == pytest.approx(-kept)


@every_statistic
@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_swapping_the_systems_turns_the_comparison_around(name, seed):
    one, other = compare(build(name, seed)), compare(swapped(name, seed))
    assert other.difference == pytest.approx(-one.difference)
    assert (other.low, other.high) == pytest.approx((-one.high, -one.low))
    assert (other.wins, other.losses, other.ties) == (one.losses, one.wins, one.ties)
    assert other.p == pytest.approx(one.p, abs=0.002)


@every_statistic
def test_an_exact_p_does_not_depend_on_which_system_comes_first(name):
    assert compare(build(name, count=9)).p == compare(swapped(name, count=9)).p


@every_statistic
def test_a_system_shows_no_difference_from_itself(name):
    kind, first, _, rest = MAKERS[name](3, 30)
    comparison = compare(kind(first, first.copy(), **rest))
    assert (comparison.difference, comparison.p, comparison.ties) == (0.0, 1.0, 30)


@every_statistic
def test_one_row_can_be_compared(name):
    comparison = compare(build(name, count=1))
    assert (comparison.low, comparison.high, comparison.units) == (None, None, 1)


def test_an_exchange_of_ratios_is_that_of_the_rows():
    paired = build("ratios", count=6)
    kept = np.array([[1, 0, 1, 1, 0, 0]])
    first, second = np.where(kept, paired.first, paired.second), np.where(kept, paired.second, paired.first)
    expected = second[0].sum() / second[1].sum() - first[0].sum() / first[1].sum()
    assert paired.exchange(kept)[0] == pytest.approx(expected)


@pytest.mark.parametrize("ranked", [True, False])
def test_an_exchange_of_correlations_is_that_of_the_pairs_on_the_common_scale(ranked):
    _, first, second, rest = make_correlations(4, 8, ranked=ranked)
    paired = pair_correlations(first, second, **rest)
    one, two = common_scale(first, ranked=ranked), common_scale(second, ranked=ranked)
    gold = common_scale(rest["gold"], ranked=ranked)
    kept = np.array([1, 0, 1, 0, 0, 1, 1, 0])
    unlike = np.abs(one - two) > 1e-12
    whole = np.ones(8)
    whole[unlike] = kept[: unlike.sum()]
    expected = (
        stats.pearsonr(np.where(whole, two, one), gold).statistic
        - stats.pearsonr(np.where(whole, one, two), gold).statistic
    )
    assert paired.exchange(kept[None, : unlike.sum()])[0] == pytest.approx(expected)


@pytest.mark.parametrize(("ranked", "reference"), [(True, stats.spearmanr), (False, stats.pearsonr)])
def test_a_resample_is_correlated_as_scipy_does(ranked, reference):
    _, first, second, rest = make_correlations(2, 30, ranked=ranked)
    rows = np.random.default_rng(1).integers(0, 30, size=(20, 30))
    gold = rest["gold"]
    expected = [
        reference(second[row], gold[row]).statistic - reference(first[row], gold[row]).statistic for row in rows
    ]
    assert pair_correlations(first, second, **rest).resample(rows) == pytest.approx(expected)


@pytest.mark.parametrize("ranked", [True, False])
def test_p_of_a_correlation_agrees_with_scipys_permutation_test(ranked):
    _, first, second, rest = make_correlations(6, 40, ranked=ranked)
    gold = common_scale(rest["gold"], ranked=ranked)

    def statistic(one, two):
        return stats.pearsonr(two, gold).statistic - stats.pearsonr(one, gold).statistic

    reference = stats.permutation_test(
        (common_scale(first, ranked=ranked), common_scale(second, ranked=ranked)), statistic, permutation_type="samples",
        n_resamples=4_000, rng=np.random.default_rng(3),
    )  # fmt: skip
    assert compare(pair_correlations(first, second, **rest)).p == pytest.approx(reference.pvalue, abs=0.03)


def test_the_interval_of_a_ratio_agrees_with_the_linearised_one():
    _, first, second, _ = make_ratios(5, 500)
    comparison = compare(pair_ratios(first, second))
    sizes = first[1]
    residuals = ((second[0] - first[0]) - comparison.difference * sizes) / sizes.mean()
    half = 1.96 * residuals.std() / np.sqrt(500)
    expected = comparison.difference - half, comparison.difference + half
    assert (comparison.low, comparison.high) == pytest.approx(expected, abs=0.1 * half)


def test_a_long_row_weighs_more_than_a_short_one_in_a_ratio():
    paired = pair_ratios(np.array([[10.0, 90.0], [10, 90]]), np.array([[0.0, 180.0], [10, 90]]))
    assert (paired.before, paired.after) == (1.0, 1.8)
    assert list(paired.gains) == [1.0, -1.0]


def test_a_row_whose_loss_fell_is_a_win():
    comparison = compare(
        pair_ratios(np.array([[4.0] * 9, [2] * 9]), np.array([[2.0] * 9, [2] * 9])), higher_is_better=False
    )
    assert (comparison.wins, comparison.difference, comparison.verdict) == (9, -1.0, "better")


def test_perplexity_is_the_exponential_of_the_loss():
    paired = pair_ratios(np.array([[4.0], [2.0]]), np.array([[2.0], [2.0]]), exponent=True)
    assert (paired.before, paired.after) == pytest.approx((np.exp(2), np.exp(1)))


def test_the_perplexity_of_a_diverged_model_is_still_a_number():
    assert np.isfinite(perplexity(1e11))
    assert np.isfinite(
        compare(pair_ratios(*(np.array([[loss] * 8, [1.0] * 8]) for loss in (1.0, 1e11)), exponent=True)).high
    )


@pytest.mark.parametrize("ranked", [True, False])
def test_constant_scores_have_no_correlation_which_counts_zero(ranked):
    gold = np.arange(10.0)
    assert correlation(np.full(10, 0.3), gold, ranked=ranked) == 0.0
    comparison = compare(pair_correlations(np.full(10, 0.3), gold, gold, ranked=ranked))
    assert (comparison.before, comparison.after) == pytest.approx((0.0, 1.0))
    assert comparison.p < 0.05


@pytest.mark.parametrize("ranked", [True, False])
def test_constant_gold_scores_leave_nothing_to_correlate(ranked):
    scores = np.arange(10.0)
    comparison = compare(pair_correlations(scores[::-1].copy(), scores, np.full(10, 2.0), ranked=ranked))
    assert (comparison.before, comparison.after, comparison.difference, comparison.p) == (0.0, 0.0, 0.0, 1.0)


def test_the_errors_of_a_perfect_order_are_zero_and_of_a_turned_one_at_most_one():
    gold = np.arange(5.0)
    assert list(pair_errors(gold * 7 - 3, gold, ranked=True)) == [0.0] * 5
    assert list(pair_errors(-gold, gold, ranked=True)) == [1.0, 0.5, 0.0, 0.5, 1.0]


def test_an_error_under_pearson_does_not_depend_on_the_scale_of_the_scores():
    gold = np.array([0.0, 1.0, 2.0, 5.0])
    assert pair_errors(gold / 100 + 0.4, gold, ranked=False) == pytest.approx([0.0] * 4)


def test_only_the_rows_that_both_systems_have_are_compared():
    before = {"rouge_l": [0.5, None, 0.25, None]}
    after = {"rouge_l": [0.75, 0.5, None, None]}
    paired = pair_columns(require_metric("rouge_l"), before, after)
    assert paired is not None
    assert (paired.before, paired.after, len(paired.gains)) == (0.5, 0.75, 1)


def test_without_a_common_row_there_is_nothing_to_compare():
    assert pair_columns(require_metric("exact_match"), {"exact_match": [None]}, {"exact_match": [1.0]}) is None
