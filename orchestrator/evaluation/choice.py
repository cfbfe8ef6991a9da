"""Many systems and several trainings: differences that hold for all of them at once, the best one, and what rows show.

One comparison is `paired.compare`. The best of twenty systems looks better than it is, and one training says nothing
of the next: both kinds of chance are counted here.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from orchestrator.errors import DataError
from orchestrator.evaluation import paired
from orchestrator.evaluation.measures import Metric
from orchestrator.evaluation.paired import CONFIDENCE, RESAMPLES, ROUNDING, Array, Columns, Comparison, Paired

POWER = 0.8
SMALL_GAIN = 0.01  # of a measure from 0 to 1: what papers and release notes call an improvement
FEWEST_TO_SPLIT = 40  # rows: with fewer than 20 in a half a difference of one standard deviation may stay unseen
_BATCH_NUMBERS = 1_000_000  # counts drawn at once: bounds the memory, and stays near the processor's cache
_LIKE = 0.5  # correlation of two models' values on a query, where only one model was measured

Trainings = Sequence[Paired]  # one system: each of its trainings paired with the same reference over the same n rows


def pair_systems(
    metric: Metric, reference: Columns, systems: Sequence[Sequence[Columns]], rows: Sequence[int] | None = None
) -> list[list[Paired]]:
    """Pair each training of each system with the reference, over the rows (all, or those of `rows`) that all measured.

    Raises DataError where there is none.
    """
    names = [columns[metric.name] for columns in (reference, *(one for system in systems for one in system))]
    asked = range(len(names[0])) if rows is None else rows
    shared = [row for row in asked if all(values[row] is not None for values in names)]

    def part(columns: Columns) -> Columns:
        return {name: [values[row] for row in shared] for name, values in columns.items()}

    first = part(reference)
    pairs = [[paired.pair_columns(metric, first, part(training)) for training in system] for system in systems]
    found = [[pair for pair in system if pair is not None] for system in pairs]
    if not shared:
        raise DataError(f"{metric.display}: no row has a value of every system", hint="compare another metric")
    return found


def compare_trainings(
    trainings: Trainings, *, higher_is_better: bool = True, seed: int = 42, resamples: int = RESAMPLES
) -> Comparison:
    """Compare several trainings of one recipe with a reference; the difference is the mean over the trainings.

    The interval counts both sources of chance. Rows are resampled as in `paired.compare`, the same rows for every
    training. The trainings, s of them, are too few to be resampled (a bootstrap of three values is a third too
    narrow): their part is drawn from the t distribution with s - 1 degrees of freedom, times the standard error of
    their mean (Student, The Probable Error of a Mean, 1908). One training is compared by `paired.compare`, which
    knows nothing of the next. `wins`, `losses` and `ties` count rows by the mean over the trainings.
    """
    if len(trainings) == 1:
        return paired.compare(trainings[0], higher_is_better=higher_is_better, seed=seed)
    whole = paired.summarise(trainings, higher_is_better=higher_is_better)
    draws = _draw([trainings], seed, resamples)[:, 0]
    tail = (1 - CONFIDENCE) / 2
    low, high = (float(bound) for bound in np.quantile(draws, (tail, 1 - tail))) if whole.units > 1 else (None, None)
    beyond = min(int((draws <= 0).sum()), int((draws >= 0).sum()))
    return replace(whole, low=low, high=high, p=min(1.0, 2 * (beyond + 1) / (resamples + 1)))


def compare_many(
    systems: Sequence[Trainings], *, higher_is_better: bool = True, seed: int = 42, resamples: int = RESAMPLES
) -> list[Comparison]:
    """Compare systems with one reference so that all intervals hold at once, with a probability of 95 %.

    Each difference d has a standard error e; c is the 95 % quantile of max |d* - d| / e over the systems, d* from
    resampled rows (the same for all systems, so that what they share is counted once); the intervals are d ± c·e and
    p is the share of maxima that reach |d| / e (Westfall and Young, Resampling-Based Multiple Testing, 1993; Romano and
    Wolf, Exact and Approximate Stepdown Methods for Multiple Hypothesis Testing, JASA 100, 2005, the single step). As e
    is itself an estimate from n rows, c is read as a quantile of the normal and widened to Student's of n - 1 degrees.
    Several trainings of a system count as in `compare_trainings`. Takes at least one system.
    """
    found = [paired.summarise(trainings, higher_is_better=higher_is_better) for trainings in systems]
    if len(systems) == 1:
        return [compare_trainings(systems[0], higher_is_better=higher_is_better, seed=seed, resamples=resamples)]
    draws = _draw(systems, seed, resamples)
    differences = np.array([one.difference for one in found])
    errors = _spread(draws)
    largest = _scaled(np.abs(draws - differences), errors).max(axis=1)
    bound = _widen(float(np.quantile(largest, CONFIDENCE)), found[0].units)
    return [_bounded(one, float(error), largest, bound) for one, error in zip(found, errors, strict=True)]


@dataclass(frozen=True)
class Choice:
    """The best of several systems.

    `best` is its place; `comparisons` are those of `compare_many`; `not_worse` are the places of the others that the
    rows cannot tell from it. `confirmed` compares the best with the reference on rows that did not choose it: None
    where the correction stands for that.
    """

    best: int
    comparisons: tuple[Comparison, ...]
    not_worse: tuple[int, ...]
    confirmed: Comparison | None = None

    @property
    def result(self) -> Comparison:
        """What may be said of the best system: the confirmed comparison, else the corrected one."""
        return self.confirmed or self.comparisons[self.best]


def choose_best(
    metric: Metric,
    reference: Columns,
    systems: Sequence[Sequence[Columns]],
    *,
    split: bool = True,
    seed: int = 42,
    resamples: int = RESAMPLES,
) -> Choice:
    """Return the best system under a metric, and what holds of it although it was chosen among many.

    `reference` has the columns of the system that all are compared with, and a system those of each of its trainings,
    row for row. With `split` the best is chosen on half of the rows, drawn by `seed`, and `confirmed` on the other
    half, which did not choose it: its difference is free of the choice, on half as many rows. Without, it is chosen on
    all rows, and its interval is corrected for the number of systems; its difference itself is then too high by what
    luck the winner had. Raises DataError for fewer than 40 rows with `split`, and where a metric is on no row.
    """
    rows = len(reference[metric.name])
    chosen, others = split_rows(rows, seed) if split else (None, None)
    settings: dict[str, Any] = {"higher_is_better": metric.higher_is_better, "seed": seed, "resamples": resamples}
    comparisons = compare_many(pair_systems(metric, reference, systems, chosen), **settings)
    way = 1 if metric.higher_is_better else -1
    best = max(range(len(systems)), key=lambda place: way * comparisons[place].difference)
    confirmed = None
    if split:
        confirmed = compare_trainings(pair_systems(metric, reference, [systems[best]], others)[0], **settings)
    not_worse = find_not_worse(pair_systems(metric, reference, systems), best, seed, resamples=resamples)
    return Choice(best, tuple(comparisons), not_worse, confirmed)


def find_not_worse(
    systems: Sequence[Trainings], best: int, seed: int = 42, *, resamples: int = RESAMPLES
) -> tuple[int, ...]:
    """Return the places of the systems whose difference from the best one chance explains.

    The interval holds for all pairs of systems at once, with a probability of 95 %, so that it stays true although the
    best was chosen by the same rows (Tukey's method of all pairs; Hsu, Multiple Comparisons, 1996, ch. 5).
    """
    if len(systems) == 1:
        return ()
    draws = _draw(systems, seed, resamples)
    differences = np.array([paired.summarise(trainings, higher_is_better=True).difference for trainings in systems])
    largest = np.zeros(len(draws))
    errors = np.zeros((len(systems), len(systems)))
    for place in range(len(systems) - 1):
        gaps = draws[:, place + 1 :] - draws[:, place, None]
        centred = np.abs(gaps - (differences[place + 1 :] - differences[place]))
        errors[place, place + 1 :] = errors[place + 1 :, place] = _spread(gaps)
        largest = np.maximum(largest, _scaled(centred, errors[place, place + 1 :]).max(axis=1))
    bound = _widen(float(np.quantile(largest, CONFIDENCE)), len(systems[0][0].gains))
    gap = np.abs(differences - differences[best])
    return tuple(
        place for place in range(len(systems)) if place != best and gap[place] <= bound * errors[best, place] + ROUNDING
    )


def split_rows(count: int, seed: int) -> tuple[list[int], list[int]]:
    """Return the rows that choose and the rows that confirm, each in order. Raises DataError for too few rows."""
    if count < FEWEST_TO_SPLIT:
        raise DataError(
            f"{count} rows are too few to choose the best system on one half and to confirm it on the other",
            hint=f"measure on at least {FEWEST_TO_SPLIT} rows, or correct the comparison for the number of systems",
        )
    order = np.random.default_rng(seed).permutation(count)
    return sorted(map(int, order[: count // 2])), sorted(map(int, order[count // 2 :]))


@dataclass(frozen=True)
class Power:
    """What differences an evaluation set can show: `smallest` is found in 80 % of all trainings that have it.

    `spread` is the standard deviation of a row's difference; `assumed` says that it was worked out from one model's
    values. `rows_for_small_gain` rows would show a difference of 0.01 as often.
    """

    metric: str
    rows: int
    spread: float
    assumed: bool
    smallest: float
    rows_for_small_gain: int


def find_power(metric: Metric, before: Columns, after: Columns | None = None) -> Power | None:
    """Return what differences the rows can show under a metric; None where it is no mean of rows, or has under 2.

    A two-sided test at 5 % finds a difference of (z(0.975) + z(0.8))·σ/√n, 2.8·σ/√n, in 80 % of the cases, σ being
    the standard deviation of a row's difference (Cohen, Statistical Power Analysis for the Behavioral Sciences, 2nd
    ed., 1988; for evaluation sets: Card et al., With Little Power Comes Great Responsibility, EMNLP 2020). With one
    model's values alone, of standard deviation τ, σ is taken to be τ·√(2·(1 - ρ)) with ρ = 0.5: two models find the
    same queries hard.
    """
    if metric.statistic != "mean":
        return None
    pair = paired.pair_columns(metric, before, after if after is not None else before)
    if pair is None or len(pair.gains) < 2:  # noqa: PLR2004
        return None
    if after is None:
        values = np.array([value for value in before[metric.name] if value is not None], dtype=float)
        spread = float(values.std(ddof=1)) * math.sqrt(2 * (1 - _LIKE))
    else:
        spread = float(pair.gains.std(ddof=1))
    rows = len(pair.gains)
    normal = statistics.NormalDist()
    reach = (normal.inv_cdf(1 - (1 - CONFIDENCE) / 2) + normal.inv_cdf(POWER)) * spread
    return Power(
        metric.name, rows, spread, after is None, reach / math.sqrt(rows), math.ceil((reach / SMALL_GAIN) ** 2)
    )


def _draw(systems: Sequence[Trainings], seed: int, resamples: int) -> Array:
    """Return (resamples, k) differences of k systems, over rows that are drawn anew for all of them at once.

    All systems must be paired over the same n rows.
    """
    pairs = [pair for trainings in systems for pair in trainings]
    count = len(pairs[0].gains)
    summed = [np.concatenate((pair.first, pair.second)) for pair in pairs if pair.adds_up]
    amounts = np.concatenate(summed) if summed else np.zeros((0, count))
    draw = np.random.default_rng(seed)
    found = np.empty((resamples, len(pairs)))
    batch = max(1, _BATCH_NUMBERS // count)
    for start in range(0, resamples, batch):
        rows = draw.integers(0, count, size=(min(batch, resamples - start), count), dtype=np.int32)
        # how often each row was drawn: one product of matrices gives the sums of all systems, at a tenth of the time
        counts = np.stack([np.bincount(row, minlength=count) for row in rows]).astype(float)
        sums = amounts @ counts.T
        first = 0
        for place, pair in enumerate(pairs):
            if pair.adds_up:
                middle, last = first + len(pair.first), first + 2 * len(pair.first)
                value = pair.of_sums(sums[middle:last]) - pair.of_sums(sums[first:middle])
                first = last
            else:
                value = pair.resample(rows)
            found[start : start + len(rows), place] = value
    ends = np.cumsum([len(trainings) for trainings in systems])
    draws = np.stack([part.mean(axis=1) for part in np.split(found, ends[:-1], axis=1)], axis=1)
    for place, trainings in enumerate(systems):
        if len(trainings) > 1:  # of one training nothing is known
            error = float(np.std([pair.difference for pair in trainings], ddof=1)) / math.sqrt(len(trainings))
            draws[:, place] += draw.standard_t(len(trainings) - 1, size=resamples) * error if error else 0.0
    return draws


def _spread(draws: Array) -> Array:
    """Return (k,) half the width of the middle 68.27 % of the draws, which is the deviation of a normal."""
    low, high = np.quantile(draws, (0.158655, 0.841345), axis=0)
    return (high - low) / 2


def _scaled(distances: Array, errors: Array) -> Array:
    """Return distances over errors, 0 where there is no error: systems that do not differ in any row."""
    return np.where(errors > ROUNDING, distances / np.where(errors > ROUNDING, errors, 1.0), 0.0)


def _widen(bound: float, rows: int) -> float:
    """Return the quantile of Student's distribution, for a mean of `rows`, that stands where `bound` does in a normal.

    With the correction of the deviation for one degree, which resampling does not make.
    """
    from scipy import stats

    degrees = max(1, rows - 1)
    return float(stats.t.isf(stats.norm.sf(bound), degrees)) * math.sqrt(rows / degrees)


def _bounded(one: Comparison, error: float, largest: Array, bound: float) -> Comparison:
    """Return a comparison with the interval and p that hold for all systems at once.

    `bound` is the widened quantile of `largest`: p is narrowed as it was widened.
    """
    from scipy import stats

    if one.units < 2:  # noqa: PLR2004
        return one
    if error <= ROUNDING:
        return replace(one, low=one.difference, high=one.difference)
    degrees = one.units - 1
    scaled = abs(one.difference) / error / math.sqrt(one.units / degrees)
    reached = int((largest >= stats.norm.isf(stats.t.sf(scaled, degrees)) - ROUNDING).sum())
    p = (reached + 1) / (len(largest) + 1)
    return replace(one, low=one.difference - bound * error, high=one.difference + bound * error, p=min(1.0, p))
