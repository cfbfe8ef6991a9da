"""Pairs two systems row by row: what a comparison needs of a statistic, and the simplest one, a mean."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

Array = Any  # numpy's array; numpy is imported inside functions, so that checking a recipe stays quick
ROUNDING = 1e-12  # below this a difference comes from adding up expectations over ties


class Paired(Protocol):
    """Two systems over the same n rows: all that a paired comparison needs to know of a statistic.

    `gains` has one number a row, above 0 where the row got better. `differing` counts the rows in which the systems
    are not the same: exchanging them in any other row changes nothing.
    """

    @property
    def before(self) -> float:
        """The first system's statistic."""

    @property
    def after(self) -> float:
        """The second system's statistic."""

    @property
    def difference(self) -> float:
        """After minus before."""

    @property
    def gains(self) -> Array:
        """(n,) how much each row got better."""

    @property
    def differing(self) -> int:
        """How many rows differ."""

    def resampled(self, rows: Array) -> Array:
        """Return (…,) differences of the statistic over `rows`, (…, n) row numbers."""

    def exchanged(self, kept: Array) -> Array:
        """Return (m,) differences after exchanging the systems in the differing rows where `kept` (m, d) is 0."""


@dataclass(frozen=True)
class PairedMeans:
    """The mean of one value a row. The difference of means is the mean of the differences."""

    first: Array
    second: Array
    higher_is_better: bool = True

    @property
    def before(self) -> float:
        """The first system's mean."""
        return float(self.first.mean())

    @property
    def after(self) -> float:
        """The second system's mean."""
        return float(self.second.mean())

    @cached_property
    def differences(self) -> Array:
        """(n,) each row's difference, 0 where only rounding tells the systems apart."""
        return row_differences(self.first, self.second)

    @property
    def difference(self) -> float:
        """After minus before."""
        return float(self.differences.mean())

    @property
    def gains(self) -> Array:
        """(n,) how much each row got better."""
        return self.differences if self.higher_is_better else -self.differences

    @property
    def differing(self) -> int:
        """How many rows differ."""
        return int((self.differences != 0).sum())

    def resampled(self, rows: Array) -> Array:
        """Return the mean difference over each choice of rows."""
        return self.differences[rows].mean(axis=-1)

    def exchanged(self, kept: Array) -> Array:
        """Return the mean difference with exchanged rows: an exchange turns a row's sign."""
        return (2.0 * kept - 1.0) @ self.differences[self.differences != 0] / len(self.differences)


def row_differences(first: Array, second: Array) -> Array:
    """Return (n,) second minus first, 0 where only rounding tells them apart."""
    import numpy as np

    differences = second - first
    differences[np.abs(differences) < ROUNDING] = 0.0
    return differences
