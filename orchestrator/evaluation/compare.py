"""Compares two systems query by query: the difference, how sure it is, and the word for it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

CONFIDENCE = 0.95
RESAMPLES = 10_000
PERMUTATIONS = 20_000
EXACT_QUERIES = 14  # up to 2**14 sign patterns are enumerated
FEWEST_DIFFERING = 6  # 2 / 2**5 > 0.05: with fewer, even unanimous queries cannot reach significance at 5 %
_ROUNDING = 1e-12  # below this a difference comes from adding up expectations over ties
_BATCH_NUMBERS = 4_000_000  # random numbers drawn at once: bounds the memory

BETTER = "better"
WORSE = "worse"
NO_DIFFERENCE = "no measurable difference"
NOT_COMPARED = "not compared"


@dataclass(frozen=True)
class Comparison:
    """Means of two systems over the same queries, `difference = after - before`, and what is known about it.

    `low` and `high` bound the 95 % interval; None with a single query. `exact` says that `p` was enumerated.
    """

    before: float
    after: float
    difference: float
    low: float | None
    high: float | None
    p: float
    exact: bool
    queries: int
    wins: int
    losses: int
    ties: int

    @property
    def verdict(self) -> str:
        """`better` or `worse` when the interval excludes 0 and at least 6 queries differ, else no difference.

        A percentile interval over a handful of queries that all agree excludes 0 although chance explains it.
        """
        if self.low is None or self.high is None or self.wins + self.losses < FEWEST_DIFFERING:
            return NO_DIFFERENCE
        if self.low > 0:
            return BETTER
        return WORSE if self.high < 0 else NO_DIFFERENCE


def compare(before: Sequence[float], after: Sequence[float], *, seed: int = 42) -> Comparison:
    """Compare two systems' values, paired by position (one query each); at least one query.

    The interval is the percentile interval of 10,000 paired bootstrap resamples of the queries (Sakai, Evaluating
    Evaluation Metrics based on the Bootstrap, SIGIR 2006). `p` is two-sided, from the paired randomisation
    (sign-flip) test, which Smucker, Allan and Carterette (A Comparison of Statistical Significance Tests for
    Information Retrieval Evaluation, CIKM 2007) recommend: exact while at most 14 queries differ, else from 20,000
    seeded permutations with the +1 correction of Phipson and Smyth (2010), so that it is never 0.
    """
    import numpy as np

    if len(before) != len(after) or not before:
        raise ValueError("a paired comparison needs the same queries on both sides, and at least one")
    first, second = np.asarray(before, dtype=float), np.asarray(after, dtype=float)
    differences = second - first
    differences[np.abs(differences) < _ROUNDING] = 0.0
    low, high = _bootstrap_interval(differences, seed)
    p, exact = _randomisation_p(differences[differences != 0], seed)
    wins, losses = int((differences > 0).sum()), int((differences < 0).sum())
    return Comparison(
        before=float(first.mean()),
        after=float(second.mean()),
        difference=float(differences.mean()),
        low=low,
        high=high,
        p=p,
        exact=exact,
        queries=len(differences),
        wins=wins,
        losses=losses,
        ties=len(differences) - wins - losses,
    )


def _bootstrap_interval(differences: Any, seed: int) -> tuple[float | None, float | None]:
    """Return the percentile interval of the mean difference, (None, None) where one query has none."""
    import numpy as np
    from scipy import stats

    if len(differences) < 2:  # noqa: PLR2004
        return None, None
    interval = stats.bootstrap(
        (differences,),
        np.mean,
        n_resamples=RESAMPLES,
        confidence_level=CONFIDENCE,
        method="percentile",
        vectorized=True,
        batch=max(1, _BATCH_NUMBERS // len(differences)),
        random_state=np.random.default_rng(seed),
    ).confidence_interval
    return float(interval.low), float(interval.high)


def _randomisation_p(differences: Any, seed: int) -> tuple[float, bool]:
    """Return (two-sided p, whether it is exact) for differences without zeros: flipping a zero changes nothing.

    scipy.stats.permutation_test does the same, and is the oracle in the tests; for 5,000 queries it takes 10 times
    as long.
    """
    import numpy as np

    count = len(differences)
    observed = abs(differences.sum())
    enough = observed * (1 - _ROUNDING)  # equal sums must count as equal whatever the order of addition
    if count <= EXACT_QUERIES:
        patterns = np.arange(2**count)[:, None] >> np.arange(count) & 1
        return float((np.abs((2 * patterns - 1) @ differences) >= enough).mean()), True
    draw = np.random.default_rng(seed)
    batch = max(1, _BATCH_NUMBERS // count)
    reached = 0
    for start in range(0, PERMUTATIONS, batch):
        flips = draw.integers(0, 2, size=(min(batch, PERMUTATIONS - start), count), dtype=np.int8)
        reached += int((np.abs((2.0 * flips - 1.0) @ differences) >= enough).sum())
    return (reached + 1) / (PERMUTATIONS + 1), False
