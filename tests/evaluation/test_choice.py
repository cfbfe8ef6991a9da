from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from orchestrator.errors import DataError
from orchestrator.evaluation.choice import (
    choose_best,
    compare_many,
    compare_trainings,
    find_not_worse,
    find_power,
    pair_systems,
    split_rows,
)
from orchestrator.evaluation.measures import require_metric
from orchestrator.evaluation.paired import BETTER, NO_DIFFERENCE, WORSE, compare, pair_means

NDCG = require_metric("ndcg@10")
SIMULATED, RESAMPLES = 1000, 200


def columns(values):
    return {NDCG.name: [float(value) for value in values]}


@pytest.fixture(scope="module")
def noisy_sweeps():
    """The share of sweeps whose best of 20 systems, chance alone, is called better: uncorrected, corrected, confirmed.

    The reference is known exactly, so that each system is wrong on its own account.
    """
    said = {"naive": [], "corrected": [], "confirmed": []}
    for seed in range(SIMULATED):
        values, reference = np.random.default_rng(seed).uniform(size=(20, 40)), np.full(40, 0.5)
        pairs = [[pair_means(reference, row)] for row in values]
        best = values[values.mean(axis=1).argmax()]
        said["naive"].append(best.mean() > 0.5 and stats.ttest_1samp(best, 0.5).pvalue < 0.05)
        found = compare_many(pairs, seed=seed, resamples=RESAMPLES)
        said["corrected"].append(max(found, key=lambda one: one.difference).verdict == BETTER)
        if seed % 10 == 0:
            choice = choose_best(NDCG, columns(reference), [[columns(row)] for row in values], seed=seed, resamples=100)
            said["confirmed"].append(choice.result.verdict == BETTER)
    return {name: float(np.mean(found)) for name, found in said.items()}


def test_the_best_of_twenty_is_called_better_by_chance_in_two_of_five_sweeps(noisy_sweeps):
    assert 0.33 < noisy_sweeps["naive"] < 0.47  # 1 - 0.975 ** 20 = 0.40


def test_a_corrected_or_confirmed_winner_is_called_better_by_chance_in_at_most_one_of_twenty(noisy_sweeps):
    assert noisy_sweeps["corrected"] <= 0.05
    assert noisy_sweeps["confirmed"] <= 0.05


@pytest.mark.parametrize("split", [True, False])
def test_a_winner_that_is_better_is_found(split):
    draw = np.random.default_rng(7)
    base = draw.uniform(0.2, 0.6, 120)
    systems = [[columns(base + draw.normal(gain, 0.1, 120))] for gain in (0.0, 0.02, 0.2)]
    choice = choose_best(NDCG, columns(base), systems, split=split)
    assert (choice.best, choice.result.verdict, choice.not_worse) == (2, BETTER, ())
    assert (choice.confirmed is not None) is split
    assert choice.result.units == (60 if split else 120)


def test_the_confirming_half_did_not_choose():
    chosen, others = split_rows(101, seed=3)
    assert sorted(chosen + others) == list(range(101))
    assert (chosen, others) == split_rows(101, seed=3) != split_rows(101, seed=4)


def test_a_metric_that_is_better_when_lower_is_won_by_the_lowest():
    metric = require_metric("loss")
    draw = np.random.default_rng(1)
    sizes = np.full(60, 10.0)

    def losses(shift):
        return {
            "loss": list(draw.normal(2, 0.1, 60) + shift),
            "nll": list(10 * (draw.normal(2, 0.1, 60) + shift)),
            "tokens": list(sizes),
        }

    choice = choose_best(metric, losses(0.0), [[losses(0.4)], [losses(-0.4)]], split=False)
    assert (choice.best, choice.result.verdict, choice.comparisons[0].verdict) == (1, BETTER, WORSE)


def test_systems_that_chance_tells_apart_are_not_worse():
    draw = np.random.default_rng(5)
    base, hard = draw.uniform(0.2, 0.6, 100), draw.normal(0, 0.1, 100)
    systems = [base + hard + draw.normal(gain, 0.05, 100) for gain in (0.2, 0.195, 0.05)]
    pairs = pair_systems(NDCG, columns(base), [[columns(values)] for values in systems])
    assert find_not_worse(pairs, 0) == (1,)


def test_one_system_is_compared_as_it_always_was():
    draw = np.random.default_rng(2)
    pair = pair_means(draw.uniform(size=50), draw.uniform(size=50))
    assert compare_many([[pair]]) == [compare_trainings([pair])] == [compare(pair)]
    assert find_not_worse([[pair]], 0) == ()


def test_equal_systems_do_not_differ_whatever_stands_beside_them():
    draw = np.random.default_rng(2)
    base = draw.uniform(size=50)
    same, other = compare_many([[pair_means(base, base.copy())], [pair_means(base, base + draw.normal(0.3, 0.1, 50))]])
    assert (same.verdict, same.p, same.low, same.high) == (NO_DIFFERENCE, 1.0, 0.0, 0.0)
    assert other.verdict == BETTER


def test_intervals_are_wider_among_many():
    draw = np.random.default_rng(9)
    base = draw.uniform(size=80)
    pairs = [[pair_means(base, base + draw.normal(0, 0.2, 80))] for _ in range(20)]
    alone, among = compare(pairs[0][0]), compare_many(pairs)[0]
    assert among.high - among.low > 1.3 * (alone.high - alone.low)
    assert among.difference == alone.difference


def trainings(draw, count, spread, rows=100):
    """Trainings whose true gain over the reference is 0.05, and whose own luck has a deviation of `spread`."""
    base, queries = draw.uniform(size=rows), draw.normal(0, 0.1, rows)
    return [
        pair_means(base, base + 0.05 + queries + draw.normal(0, spread) + draw.normal(0, 0.1, rows))
        for _ in range(count)
    ]


@pytest.mark.parametrize("count", [2, 3, 5])
def test_the_interval_over_trainings_holds_the_true_gain_as_often_as_it_says(count):
    covered = queries_alone = 0
    for seed in range(300):
        group = trainings(np.random.default_rng(seed), count, spread=0.05)
        found = compare_trainings(group, seed=seed, resamples=RESAMPLES)
        covered += found.low <= 0.05 <= found.high
        mean = np.mean([pair.gains for pair in group], axis=0)
        queries_alone += abs(mean.mean() - 0.05) < 1.96 * mean.std(ddof=1) / np.sqrt(len(mean))
    assert covered >= 0.92 * 300
    assert queries_alone < 0.75 * 300  # what is said where trainings are not counted


def test_rows_are_counted_by_their_mean_over_the_trainings():
    base = np.zeros(10)
    up, down = np.r_[np.full(6, 0.4), np.full(4, -0.1)], np.r_[np.full(6, -0.2), np.full(4, 0.1)]
    found = compare_trainings([pair_means(base, up), pair_means(base, down)])
    assert (found.wins, found.losses, found.ties) == (6, 0, 4)
    assert found.difference == pytest.approx(up.mean() / 2 + down.mean() / 2)


def test_a_statistic_that_does_not_add_up_is_measured_anew_on_every_resample():
    draw = np.random.default_rng(3)
    metric = require_metric("spearman")
    gold = draw.uniform(0, 5, 60)

    def scored(spread):
        return {"spearman": [0.0] * 60, "score": list(gold + draw.normal(0, spread, 60)), "gold": list(gold)}

    choice = choose_best(metric, scored(4.0), [[scored(3.0)], [scored(0.1)]], split=False, resamples=500)
    assert (choice.best, choice.result.verdict) == (1, BETTER)


def test_too_few_rows_are_not_split():
    with pytest.raises(DataError, match="39 rows are too few"):
        choose_best(NDCG, columns(np.zeros(39)), [[columns(np.ones(39))]])


def test_rows_without_a_value_of_every_system_take_no_part():
    base, other = columns(np.zeros(50)), columns(np.ones(50))
    holes = {NDCG.name: [None, *other[NDCG.name][1:]]}
    assert [len(pair.gains) for (pair,) in pair_systems(NDCG, base, [[other], [holes]])] == [49, 49]
    with pytest.raises(DataError, match="no row has a value"):
        pair_systems(NDCG, base, [[{NDCG.name: [None] * 50}]])


def test_a_difference_as_large_as_the_power_says_is_found_in_four_of_five_trainings():
    draw = np.random.default_rng(0)
    base = draw.uniform(size=100)
    gains = draw.normal(0, 0.3, 100)
    power = find_power(NDCG, columns(base), columns(base + gains))
    found = sum(
        stats.ttest_1samp(np.random.default_rng(seed).normal(power.smallest, power.spread, 100), 0).pvalue < 0.05
        for seed in range(500)
    )
    assert 0.74 < found / 500 < 0.86
    assert power.rows_for_small_gain == pytest.approx(100 * (power.smallest / 0.01) ** 2, rel=0.01)
    assert not power.assumed


def test_one_models_values_say_what_may_be_found_by_an_assumption():
    values = np.random.default_rng(0).uniform(size=100)
    power = find_power(NDCG, columns(values))
    assert power.assumed
    assert power.spread == pytest.approx(values.std(ddof=1))


def test_what_is_no_mean_of_rows_has_no_power():
    assert find_power(require_metric("spearman"), {"spearman": [0.0], "score": [1.0], "gold": [1.0]}) is None
    assert find_power(NDCG, columns([0.5])) is None
