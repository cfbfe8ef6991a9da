"""Pairs two systems under a ratio of sums, such as the loss a token, or its exponential, the perplexity."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

from orchestrator.evaluation.paired import Array, row_differences

_HIGHEST_EXPONENT = 300.0  # the loss of a diverged model can be far above; squares of exp(300) are still finite


@dataclass(frozen=True)
class PairedRatios:
    """A ratio of sums, Σ amounts / Σ sizes, such as a loss a token: a long row weighs more than a short one.

    The ratio estimator's interval comes from resampling whole rows, numerator and denominator together (Cochran,
    Sampling Techniques, 3rd ed., 1977, ch. 6; Davison and Hinkley, Bootstrap Methods and their Application, 1997,
    § 2.7): tokens of one row are not independent of each other. With `exponent` the statistic is exp(ratio), the
    perplexity. Lower is better.
    """

    first: Array  # (2, n): amounts, sizes
    second: Array
    exponent: bool = False

    @property
    def before(self) -> float:
        """The first system's ratio."""
        return float(self._ratio(*self.first.sum(axis=-1)))

    @property
    def after(self) -> float:
        """The second system's ratio."""
        return float(self._ratio(*self.second.sum(axis=-1)))

    @property
    def difference(self) -> float:
        """After minus before."""
        return self.after - self.before

    @property
    def gains(self) -> Array:
        """(n,) how much each row's own ratio fell."""
        return -row_differences(self.first[0] / self.first[1], self.second[0] / self.second[1])

    @cached_property
    def _unlike(self) -> Array:
        return (self.first != self.second).any(axis=0)

    @property
    def differing(self) -> int:
        """How many rows differ."""
        return int(self._unlike.sum())

    def resampled(self, rows: Array) -> Array:
        """Return the difference of the ratios over each choice of rows."""
        first, second = self.first[:, rows].sum(axis=-1), self.second[:, rows].sum(axis=-1)
        return self._ratio(*second) - self._ratio(*first)

    def exchanged(self, kept: Array) -> Array:
        """Return the difference of the ratios with exchanged rows: what leaves one system's sums enters the other's."""
        moved = (self.first - self.second)[:, self._unlike] @ (1.0 - kept).T
        first, second = self.first.sum(axis=-1)[:, None] - moved, self.second.sum(axis=-1)[:, None] + moved
        return self._ratio(*second) - self._ratio(*first)

    def _ratio(self, amounts: Array, sizes: Array) -> Array:
        import numpy as np

        ratio = amounts / sizes
        return np.exp(np.minimum(ratio, _HIGHEST_EXPONENT)) if self.exponent else ratio


def perplexity(loss: float) -> float:
    """Return exp(loss), capped at exp(300): no JSON holds infinity."""
    return math.exp(min(loss, _HIGHEST_EXPONENT))
