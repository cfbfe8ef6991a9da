"""Compares two systems row by row: the difference, how sure it is, and the word for it."""

from __future__ import annotations

from dataclasses import dataclass

from orchestrator.evaluation.paired import ROUNDING, Array, Paired

CONFIDENCE = 0.95
RESAMPLES = 10_000
PERMUTATIONS = 20_000
EXACT_ROWS = 14  # up to 2**14 exchanges are enumerated
FEWEST_DIFFERING = 6  # 2 / 2**5 > 0.05: with fewer, even unanimous rows cannot reach significance at 5 %
_BATCH_NUMBERS = 4_000_000  # random numbers drawn at once: bounds the memory
_SAME = 1e-14  # differences of statistics this close are one number added up in another order

BETTER = "better"
WORSE = "worse"
NO_DIFFERENCE = "no measurable difference"
NOT_COMPARED = "not compared"


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


def compare(paired: Paired, *, higher_is_better: bool = True, seed: int = 42) -> Comparison:
    """Compare two systems that are paired by row; at least one row.

    The interval is the percentile interval of 10,000 paired bootstrap resamples of the rows (Sakai, Evaluating
    Evaluation Metrics based on the Bootstrap, SIGIR 2006). `p` is two-sided, from the paired randomisation test,
    which Smucker, Allan and Carterette (A Comparison of Statistical Significance Tests for Information Retrieval
    Evaluation, CIKM 2007) recommend: exact while at most 14 rows differ, else from 20,000 seeded exchanges with the
    +1 correction of Phipson and Smyth (2010), so that it is never 0.
    """
    gains = paired.gains
    low, high = _bootstrap_interval(paired, len(gains), seed)
    p, exact = _randomisation_p(paired, seed)
    wins, losses = int((gains > 0).sum()), int((gains < 0).sum())
    return Comparison(
        before=paired.before,
        after=paired.after,
        difference=paired.difference,
        low=low,
        high=high,
        p=p,
        exact=exact,
        units=len(gains),
        wins=wins,
        losses=losses,
        ties=len(gains) - wins - losses,
        higher_is_better=higher_is_better,
    )


def _bootstrap_interval(paired: Paired, count: int, seed: int) -> tuple[float | None, float | None]:
    """Return the percentile interval of the difference, (None, None) where one row has none."""
    import numpy as np
    from scipy import stats

    if count < 2:  # noqa: PLR2004
        return None, None

    def difference(rows: Array, axis: int = -1) -> Array:  # noqa: ARG001  # scipy resamples along the last axis
        return paired.resampled(rows.astype(np.intp))

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

    scipy.stats.permutation_test does the same for means, and is the oracle in the tests; for 5,000 queries it takes
    10 times as long.
    """
    import numpy as np

    count = paired.differing
    observed = abs(paired.exchanged(np.ones((1, count)))[0])
    enough = observed * (1 - ROUNDING) - _SAME  # equal differences must count as equal whatever the order of addition
    if count <= EXACT_ROWS:
        patterns = np.arange(2**count)[:, None] >> np.arange(count) & 1
        return float((np.abs(paired.exchanged(patterns)) >= enough).mean()), True
    draw = np.random.default_rng(seed)
    batch = max(1, _BATCH_NUMBERS // count)
    reached = 0
    for start in range(0, PERMUTATIONS, batch):
        kept = draw.integers(0, 2, size=(min(batch, PERMUTATIONS - start), count), dtype=np.int8)
        reached += int((np.abs(paired.exchanged(kept)) >= enough).sum())
    return (reached + 1) / (PERMUTATIONS + 1), False
