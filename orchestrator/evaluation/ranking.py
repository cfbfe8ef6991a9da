"""Measures rankings query by query with ir_measures; ties favour nobody, and what is missing counts as zero."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from orchestrator.evaluation.grades import Grades, choose_grades
from orchestrator.evaluation.judged import Group
from orchestrator.evaluation.measures import Metric, require_metric
from orchestrator.evaluation.rows import require_finite
from orchestrator.evaluation.ties import LabelOrder, LabelOrders, build_label_orders

_BATCH_DOCUMENTS = 200_000  # per call of ir_measures: bounds its memory


@dataclass(frozen=True)
class Measurement:
    """One system's values: `values[metric][i]` belongs to query `qids[i]`.

    `tied` counts the queries in which documents with different labels share a score; of those, `sampled` were too
    many orders to enumerate. `missing` are the queries without any score; they count 0.
    """

    qids: tuple[str, ...]
    values: Mapping[str, tuple[float, ...]]
    tied: int
    sampled: int
    missing: tuple[str, ...]

    def mean(self, metric: str) -> float:
        """Return the mean over the queries. Raises ZeroDivisionError where there are none."""
        return math.fsum(self.values[metric]) / len(self.qids)


def measure(
    groups: Sequence[Group], scores: Mapping[str, Mapping[str, float]], metric_names: Sequence[str], *, seed: int = 42
) -> Measurement:
    """Measure `scores` ({qid: {docid: score}}, higher is better) on every query of `groups`.

    Where documents share a score the value is its expectation over random orders of the tied documents: exact while
    a query has at most `ties.EXACT_LIMIT` distinct label orders, else the mean of `ties.RANDOM_ORDERS` seeded ones.
    (McSherry and Najork, Computing Information Retrieval Performance Measures Efficiently in the Presence of Tied
    Scores, ECIR 2008.) A query without scores counts 0, a document without one as not retrieved.

    Labels are gains of nDCG; for the other measures a label of at least 0.5 is relevant. trec_eval wants whole
    grades: labels are scaled to them, exactly where that takes at most 1000, else to 1/1000.

    Raises StageFailedError for a score that is not finite, ValueError for a metric that `parse_metric` refuses.
    """
    metrics = [require_metric(name) for name in metric_names]
    require_finite({f"{qid}/{docid}": score for qid, row in scores.items() for docid, score in row.items()})
    orders: list[LabelOrders | None] = [
        build_label_orders(group, scores[group.qid], seed=seed) if scores.get(group.qid) else None for group in groups
    ]
    grades = choose_grades(document.label for group in groups for document in group.documents)
    measured = _measure_orders({order for one in orders if one for order in one.shares}, metrics, grades)
    return Measurement(
        qids=tuple(group.qid for group in groups),
        values={metric.name: tuple(_expectation(one, measured, metric) for one in orders) for metric in metrics},
        tied=sum(one is not None and len(one.shares) > 1 for one in orders),
        sampled=sum(one is not None and not one.exact for one in orders),
        missing=tuple(group.qid for group, one in zip(groups, orders, strict=True) if one is None),
    )


def _expectation(orders: LabelOrders | None, measured: Mapping[tuple[LabelOrder, str], float], metric: Metric) -> float:
    if orders is None:
        return 0.0
    return math.fsum(share * measured[order, metric.name] for order, share in orders.shares.items())


def _measure_orders(
    orders: set[LabelOrder], metrics: Sequence[Metric], grades: Grades
) -> dict[tuple[LabelOrder, str], float]:
    """Return the value of each (label order, metric), each order measured once however many queries share it."""
    import ir_measures

    names = {ir_measures.parse_measure(metric.ir_measures_name(grades.relevant)): metric.name for metric in metrics}
    measured: dict[tuple[LabelOrder, str], float] = {}
    for batch in _batches(sorted(orders, key=lambda order: (order.ranked, order.unranked))):
        qrels = {
            str(number): {str(rank): grades.grade(label) for rank, label in enumerate((*order.ranked, *order.unranked))}
            for number, order in enumerate(batch)
        }
        # Ranks as scores: distinct and exact, since trec_eval keeps scores in 32 bits and breaks ties by docid.
        run = {
            str(number): {str(rank): float(len(order.ranked) - rank) for rank in range(len(order.ranked))}
            for number, order in enumerate(batch)
        }
        for value in ir_measures.iter_calc(list(names), qrels, run):
            measured[batch[int(value.query_id)], names[value.measure]] = float(value.value)
    return measured


def _batches(orders: Sequence[LabelOrder]) -> Iterator[list[LabelOrder]]:
    """Yield the orders in lists of about `_BATCH_DOCUMENTS` documents."""
    batch: list[LabelOrder] = []
    documents = 0
    for order in orders:
        batch.append(order)
        documents += len(order.ranked) + len(order.unranked)
        if documents >= _BATCH_DOCUMENTS:
            yield batch
            batch, documents = [], 0
    if batch:
        yield batch
