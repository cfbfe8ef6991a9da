"""Chooses the statistic of a metric, and pairs two systems' columns under it."""

from __future__ import annotations

from orchestrator.evaluation.correlations import PairedCorrelations
from orchestrator.evaluation.measured import GOLD, Columns
from orchestrator.evaluation.measures import Metric
from orchestrator.evaluation.paired import Array, Paired, PairedMeans
from orchestrator.evaluation.ratios import PairedRatios


def pair_up(metric: Metric, before: Columns, after: Columns) -> Paired | None:
    """Pair two systems under a metric, over the rows in which both have a value; None where there is none.

    Both hold the columns of `measured.Measured`, row for row: the metric's own, and what its statistic is made of
    (`nll` and `tokens`, or `score` and `gold`).
    """
    import numpy as np

    name = metric.name
    shared = [row for row, values in enumerate(zip(before[name], after[name], strict=True)) if None not in values]
    if not shared:
        return None

    def column(columns: Columns, key: str) -> Array:
        return np.asarray([columns[key][row] for row in shared], dtype=float)

    if metric.family in {"loss", "perplexity"}:
        first, second = (np.stack((column(side, "nll"), column(side, "tokens"))) for side in (before, after))
        return PairedRatios(first, second, exponent=metric.family == "perplexity")
    if metric.family in {"spearman", "pearson"}:
        first, second, gold = column(before, "score"), column(after, "score"), column(before, GOLD)
        return PairedCorrelations(first, second, gold, ranked=metric.family == "spearman")
    return PairedMeans(column(before, name), column(after, name), metric.higher_is_better)
