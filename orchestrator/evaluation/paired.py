"""Compares two systems row by row: the difference of a statistic, how sure it is, and the word for it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from orchestrator.evaluation.measures import BETTER, NO_DIFFERENCE, WORSE, Metric

Columns = Mapping[str, Sequence[float | None]]  # {name: a value each row, None where the row takes no part}
Array = Any  # numpy's; numpy is of the extra `report`: what only speaks of comparisons imports measures.py

CONFIDENCE = 0.95
RESAMPLES = 10_000
PERMUTATIONS = 20_000
EXACT_ROWS = 14  # up to 2**14 exchanges are enumerated
FEWEST_DIFFERING = 6  # 2 / 2**5 > 0.05: with fewer, even unanimous rows cannot reach significance at 5 %
ROUNDING = 1e-12  # below this a difference comes from adding up expectations over ties
_BATCH_NUMBERS = 4_000_000  # random numbers drawn at once: bounds the memory
_SAME = 1e-14  # differences of statistics this close are one number added up in another order
_HIGHEST_EXPONENT = 300.0  # the loss of a diverged model can be far above; squares of exp(300) are still finite


@dataclass(frozen=True)
class Paired:
    """Two systems over the same n rows: all that a paired comparison needs to know of a statistic.

    `gains` (n,) has one number a row, above 0 where the row got better. `resample` takes (…, n) row numbers and gives
    (…,) differences of the statistic over them. `first` and `second` (k, n) are the amounts of each row that an
    exchange of both systems swaps; `of_sums` makes the statistic (m,) of their sums (k, m). Exchanging the systems in
    a row where `unlike` (n,) is False changes nothing. `adds_up` says that the sums over resampled rows make their
    statistic too: ranks and standardised scores do not, which depend on the other rows.
    """

    before: float
    after: float
    difference: float
    gains: Array
    resample: Callable[[Array], Array]
    first: Array
    second: Array
    of_sums: Callable[[Array], Array]
    unlike: Array
    adds_up: bool = True

    def exchange(self, kept: Array) -> Array:
        """Return (m,) differences after exchanging the systems in the differing rows where `kept` (m, d) is 0.

        What leaves one system's sums enters the other's.
        """
        moved = (self.first - self.second)[:, self.unlike] @ (1.0 - kept).T
        after = self.second.sum(axis=-1)[:, None] + moved
        return self.of_sums(after) - self.of_sums(self.first.sum(axis=-1)[:, None] - moved)


def pair_means(first: Array, second: Array, *, higher_is_better: bool = True) -> Paired:
    """Pair the means of one value (n,) a row. The difference of means is the mean of the differences."""
    differences = row_differences(first, second)
    return Paired(
        before=float(first.mean()),
        after=float(second.mean()),
        difference=float(differences.mean()),
        gains=differences if higher_is_better else -differences,
        resample=lambda rows: differences[rows].mean(axis=-1),
        first=0.0 * differences[None],
        second=differences[None],
        of_sums=lambda sums: sums[0] / len(differences),
        unlike=differences != 0,
    )


def pair_ratios(first: Array, second: Array, *, exponent: bool = False) -> Paired:
    """Pair ratios of sums, Σ amounts / Σ sizes of (2, n), such as a loss a token: a long row weighs more than a short.

    The ratio estimator's interval comes from resampling whole rows, numerator and denominator together (Cochran,
    Sampling Techniques, 3rd ed., 1977, ch. 6; Davison and Hinkley, Bootstrap Methods and their Application, 1997,
    § 2.7): tokens of one row are not independent of each other. With `exponent` the statistic is exp(ratio), the
    perplexity. Lower is better.
    """

    def of_sums(sums: Array) -> Array:
        ratio = sums[0] / sums[1]
        return np.exp(np.minimum(ratio, _HIGHEST_EXPONENT)) if exponent else ratio

    before, after = (float(of_sums(rows.sum(axis=-1))) for rows in (first, second))
    return Paired(
        before=before,
        after=after,
        difference=after - before,
        gains=-row_differences(first[0] / first[1], second[0] / second[1]),
        resample=lambda rows: of_sums(second[:, rows].sum(axis=-1)) - of_sums(first[:, rows].sum(axis=-1)),
        first=first,
        second=second,
        of_sums=of_sums,
        unlike=(first != second).any(axis=0),
    )


def pair_correlations(first: Array, second: Array, gold: Array, *, ranked: bool) -> Paired:
    """Pair the correlations of each system's scores with the same gold scores; with `ranked`, of the ranks (Spearman).

    Bootstrap resamples take whole pairs, and rank them anew. The randomisation test exchanges the two systems' ranks
    (Spearman) or standardised scores (Pearson) pair by pair: two systems' scores have scales of their own, and only
    on a common scale are they exchangeable under the hypothesis that both are equally good (Deutsch, Dror and Roth, A
    Statistical Analysis of Summarization Evaluation Metrics using Resampling Methods, TACL 9, 2021).
    """
    from scipy import stats

    one, two, goal = (common_scale(values, ranked=ranked) for values in (first, second, gold))
    count, spread = len(goal), float(goal.std())

    def resample(rows: Array) -> Array:
        chosen = [values[rows] for values in (first, second, gold)]
        before, after, target = (stats.rankdata(values, axis=-1) for values in chosen) if ranked else chosen
        return _pearson(after, target) - _pearson(before, target)

    def of_sums(sums: Array) -> Array:  # of the rows Σx, Σx² and Σx·(y - mean y)
        total, squares, products = sums
        return _quotient(products / count, squares / count - (total / count) ** 2, spread**2)

    before, after = (correlation(scores, gold, ranked=ranked) for scores in (first, second))
    return Paired(
        before=before,
        after=after,
        difference=after - before,
        gains=-row_differences(*(pair_errors(scores, gold, ranked=ranked) for scores in (first, second))),
        resample=resample,
        first=np.stack((one, one**2, one * (goal - goal.mean()))),
        second=np.stack((two, two**2, two * (goal - goal.mean()))),
        of_sums=of_sums,
        unlike=row_differences(one, two) != 0,
        adds_up=False,
    )


def row_differences(first: Array, second: Array) -> Array:
    """Return (n,) second minus first, 0 where only rounding tells them apart."""
    differences = second - first
    differences[np.abs(differences) < ROUNDING] = 0.0
    return differences


def perplexity(loss: float) -> float:
    """Return exp(loss), capped at exp(300): no JSON holds infinity."""
    return math.exp(min(loss, _HIGHEST_EXPONENT))


def correlation(scores: Array, gold: Array, *, ranked: bool) -> float:
    """Return Spearman's (`ranked`) or Pearson's correlation; 0.0 where a constant side leaves it undefined."""
    from scipy import stats

    if _is_constant(scores) or _is_constant(gold):
        return 0.0
    return float((stats.spearmanr if ranked else stats.pearsonr)(scores, gold).statistic)


def pair_errors(scores: Array, gold: Array, *, ranked: bool) -> Array:
    """Return (n,) how far each score is from its gold score on the common scale.

    `ranked`: the difference of ranks as a share of the longest possible, from 0 to 1; else the difference of
    standardised scores.
    """
    errors = np.abs(common_scale(scores, ranked=ranked) - common_scale(gold, ranked=ranked))
    return errors / max(1, len(errors) - 1) if ranked else errors


def common_scale(values: Array, *, ranked: bool) -> Array:
    """Return midranks, or scores with mean 0 and standard deviation 1 (all 0 where they are constant)."""
    from scipy import stats

    if ranked:
        return stats.rankdata(values)
    centred = values - values.mean()
    return centred * 0.0 if _is_constant(values) else centred / values.std()


def _is_constant(values: Array) -> bool:
    return bool((values == values[0]).all())


def _pearson(first: Array, second: Array) -> Array:
    """Return the correlations along the last axis, 0 where a side is constant."""
    one, two = (values - values.mean(axis=-1, keepdims=True) for values in (first, second))
    return _quotient((one * two).mean(axis=-1), (one**2).mean(axis=-1), (two**2).mean(axis=-1))


def _quotient(covariance: Array, first: Array, second: Array) -> Array:
    """Return covariance over the root of the variances; 0 where a variance is 0 but for rounding."""
    product = first * second
    defined = (first > ROUNDING) & (product > 0)
    return np.where(defined, covariance / np.sqrt(np.where(defined, product, 1.0)), 0.0)


@dataclass(frozen=True)
class Comparison:
    """One statistic of two systems over the same rows, `difference = after - before`, and what is known about it.

    `low` and `high` bound the 95 % interval; None with a single row. `exact` says that `p` was enumerated. `units`
    counts the rows (queries, pairs); `wins` of them got better, whichever way is better.
    """

    before: float
    after: float
    difference: float
    low: float | None
    high: float | None
    p: float
    exact: bool
    units: int
    wins: int
    losses: int
    ties: int
    higher_is_better: bool = True

    @property
    def verdict(self) -> str:
        """`better` or `worse` when the interval excludes 0 and at least 6 rows differ, else no difference.

        A percentile interval over a handful of rows that all agree excludes 0 although chance explains it.
        """
        if self.low is None or self.high is None or self.wins + self.losses < FEWEST_DIFFERING:
            return NO_DIFFERENCE
        if self.low > 0:
            return BETTER if self.higher_is_better else WORSE
        if self.high < 0:
            return WORSE if self.higher_is_better else BETTER
        return NO_DIFFERENCE


def pair_columns(metric: Metric, before: Columns, after: Columns) -> Paired | None:
    """Pair two systems under a metric, over the rows in which both have a value; None where there is none.

    Both hold the columns of `eval_sets.Measured`, row for row: the metric's own, and what its statistic is made of
    (`nll` and `tokens`, or `score` and `gold`).
    """
    name = metric.name
    shared = [row for row, values in enumerate(zip(before[name], after[name], strict=True)) if None not in values]
    if not shared:
        return None

    def column(columns: Columns, key: str) -> Array:
        return np.asarray([columns[key][row] for row in shared], dtype=float)

    if metric.statistic in {"ratio", "exponential"}:
        first, second = (np.stack((column(side, "nll"), column(side, "tokens"))) for side in (before, after))
        return pair_ratios(first, second, exponent=metric.statistic == "exponential")
    if metric.statistic in {"correlation", "rank correlation"}:
        first, second, gold = column(before, "score"), column(after, "score"), column(before, "gold")
        return pair_correlations(first, second, gold, ranked=metric.statistic == "rank correlation")
    return pair_means(column(before, name), column(after, name), higher_is_better=metric.higher_is_better)


def compare(paired: Paired, *, higher_is_better: bool = True, seed: int = 42) -> Comparison:
    """Compare two systems that are paired by row; at least one row.

    The interval is the percentile interval of 10,000 paired bootstrap resamples of the rows (Sakai, Evaluating
    Evaluation Metrics based on the Bootstrap, SIGIR 2006). `p` is two-sided, from the paired randomisation test,
    which Smucker, Allan and Carterette (A Comparison of Statistical Significance Tests for Information Retrieval
    Evaluation, CIKM 2007) recommend: exact while at most 14 rows differ, else from 20,000 seeded exchanges with the
    +1 correction of Phipson and Smyth (2010), so that it is never 0.
    """
    low, high = _bootstrap_interval(paired, seed)
    p, exact = _randomisation_p(paired, seed)
    return replace(summarise([paired], higher_is_better=higher_is_better), low=low, high=high, p=p, exact=exact)


def summarise(trainings: Sequence[Paired], *, higher_is_better: bool) -> Comparison:
    """Return the comparison of the mean over trainings that share a reference and rows, without interval and p."""
    gains = np.mean([pair.gains for pair in trainings], axis=0)
    wins, losses = int((gains > ROUNDING).sum()), int((gains < -ROUNDING).sum())
    return Comparison(
        before=trainings[0].before,
        after=sum(pair.after for pair in trainings) / len(trainings),
        difference=sum(pair.difference for pair in trainings) / len(trainings),
        low=None,
        high=None,
        p=1.0,
        exact=False,
        units=len(gains),
        wins=wins,
        losses=losses,
        ties=len(gains) - wins - losses,
        higher_is_better=higher_is_better,
    )


def _bootstrap_interval(paired: Paired, seed: int) -> tuple[float | None, float | None]:
    """Return the percentile interval of the difference, (None, None) where one row has none."""
    from scipy import stats

    count = len(paired.gains)
    if count < 2:  # noqa: PLR2004
        return None, None

    def difference(rows: Array, axis: int = -1) -> Array:  # noqa: ARG001  # scipy resamples along the last axis
        return paired.resample(rows.astype(np.intp))

    interval = stats.bootstrap(
        (np.arange(count),),
        difference,
        n_resamples=RESAMPLES,
        confidence_level=CONFIDENCE,
        method="percentile",
        vectorized=True,
        batch=max(1, _BATCH_NUMBERS // count),
        random_state=np.random.default_rng(seed),
    ).confidence_interval
    return float(interval.low), float(interval.high)


def _randomisation_p(paired: Paired, seed: int) -> tuple[float, bool]:
    """Return (two-sided p, whether it is exact); rows that do not differ stay: exchanging them changes nothing.

    scipy.stats.permutation_test does the same for means, and is what the tests compare with; for 5,000 queries it
    takes 10 times as long.
    """
    count = int(paired.unlike.sum())
    observed = abs(paired.exchange(np.ones((1, count)))[0])
    enough = observed * (1 - ROUNDING) - _SAME  # equal differences must count as equal whatever the order of addition
    if count <= EXACT_ROWS:
        patterns = np.arange(2**count)[:, None] >> np.arange(count) & 1
        return float((np.abs(paired.exchange(patterns)) >= enough).mean()), True
    draw = np.random.default_rng(seed)
    batch = max(1, _BATCH_NUMBERS // count)
    reached = 0
    for start in range(0, PERMUTATIONS, batch):
        kept = draw.integers(0, 2, size=(min(batch, PERMUTATIONS - start), count), dtype=np.int8)
        reached += int((np.abs(paired.exchange(kept)) >= enough).sum())
    return (reached + 1) / (PERMUTATIONS + 1), False
