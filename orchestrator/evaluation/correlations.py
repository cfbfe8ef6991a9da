"""Correlates scores with gold scores, and pairs two systems under their correlations."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from orchestrator.evaluation.paired import ROUNDING, Array, row_differences


@dataclass(frozen=True)
class PairedCorrelations:
    """The correlation of each system's scores with the same gold scores; with `ranked`, of the ranks (Spearman).

    Bootstrap resamples take whole pairs, and rank them anew. The randomisation test exchanges the two systems' ranks
    (Spearman) or standardised scores (Pearson) pair by pair: two systems' scores have scales of their own, and only
    on a common scale are they exchangeable under the hypothesis that both are equally good (Deutsch, Dror and Roth, A
    Statistical Analysis of Summarization Evaluation Metrics using Resampling Methods, TACL 9, 2021).
    """

    first: Array
    second: Array
    gold: Array
    ranked: bool

    @property
    def before(self) -> float:
        """The first system's correlation."""
        return correlation(self.first, self.gold, ranked=self.ranked)

    @property
    def after(self) -> float:
        """The second system's correlation."""
        return correlation(self.second, self.gold, ranked=self.ranked)

    @property
    def difference(self) -> float:
        """After minus before."""
        return self.after - self.before

    @property
    def gains(self) -> Array:
        """(n,) how much each pair's error fell."""
        errors = (pair_errors(scores, self.gold, ranked=self.ranked) for scores in (self.first, self.second))
        return -row_differences(*errors)

    @cached_property
    def _exchangeable(self) -> tuple[Array, Array]:
        return common_scale(self.first, ranked=self.ranked), common_scale(self.second, ranked=self.ranked)

    @cached_property
    def _unlike(self) -> Array:
        return row_differences(*self._exchangeable) != 0

    @property
    def differing(self) -> int:
        """How many pairs differ in rank, or in standardised score."""
        return int(self._unlike.sum())

    def resampled(self, rows: Array) -> Array:
        """Return the difference of the correlations over each choice of pairs."""
        from scipy import stats

        first, second, gold = self.first[rows], self.second[rows], self.gold[rows]
        if self.ranked:
            first, second, gold = (stats.rankdata(values, axis=-1) for values in (first, second, gold))
        return _pearson(second, gold) - _pearson(first, gold)

    def exchanged(self, kept: Array) -> Array:
        """Return the difference of the correlations with exchanged pairs, from the sums that an exchange moves."""
        import numpy as np

        gold = common_scale(self.gold, ranked=self.ranked)
        sums = [np.stack((scores, scores**2, scores * (gold - gold.mean()))) for scores in self._exchangeable]
        moved = (sums[0] - sums[1])[:, self._unlike] @ (1.0 - kept).T
        count, spread = len(gold), float(gold.std())
        after, before = sums[1].sum(axis=1)[:, None] + moved, sums[0].sum(axis=1)[:, None] - moved
        return _from_sums(after, count, spread) - _from_sums(before, count, spread)


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
    import numpy as np

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


def _from_sums(sums: Array, count: int, spread: float) -> Array:
    """Return correlations from the rows Σx, Σx² and Σx·(y - mean y); `spread` is the standard deviation of y."""
    total, squares, products = sums
    return _quotient(products / count, squares / count - (total / count) ** 2, spread**2)


def _quotient(covariance: Array, first: Array, second: Array) -> Array:
    """Return covariance over the root of the variances; 0 where a variance is 0 but for rounding."""
    import numpy as np

    product = first * second
    defined = (first > ROUNDING) & (product > 0)
    return np.where(defined, covariance / np.sqrt(np.where(defined, product, 1.0)), 0.0)
