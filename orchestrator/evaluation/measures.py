"""Measures rankings query by query with ir_measures; ties favour nobody, and what is missing counts as zero."""

from __future__ import annotations

import difflib
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from orchestrator.errors import Problem, StageFailedError
from orchestrator.evaluation.ties import LabelOrder, LabelOrders, build_label_orders

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from orchestrator.evaluation.judged import Group

DEFAULT_METRICS = ("ndcg@10", "mrr@10", "map", "hit@1")
_BATCH_DOCUMENTS = 200_000  # per call of ir_measures: bounds its memory

# name: (as people write it, as ir_measures writes it, takes a cutoff)
_FAMILIES = {
    "ndcg": ("nDCG", "nDCG", True),
    "mrr": ("MRR", "RR", True),
    "map": ("MAP", "AP", False),
    "hit": ("Hit", "Success", True),
    "precision": ("Precision", "P", True),
    "recall": ("Recall", "R", True),
}
_OTHER_NAMES = {
    "rr": "mrr",
    "ap": "map",
    "success": "hit",
    "hits": "hit",
    "p": "precision",
    "r": "recall",
    "dcg": "ndcg",
}


@dataclass(frozen=True)
class Metric:
    """One measure of a ranking. `name` is the recipe's spelling, such as `ndcg@10`."""

    name: str
    family: str
    cutoff: int | None

    @property
    def display(self) -> str:
        """The name as the field prints it, such as `nDCG@10`."""
        return _FAMILIES[self.family][0] + ("" if self.cutoff is None else f"@{self.cutoff}")

    @property
    def ir_measures_name(self) -> str:
        """The name in ir_measures' syntax, such as `RR@10`."""
        return _FAMILIES[self.family][1] + ("" if self.cutoff is None else f"@{self.cutoff}")


def parse_metric(name: str) -> Metric | Problem:
    """Return the metric of that name, or what is wrong with the name. Imports nothing heavy.

    Known: ndcg@k (linear gain, log2 discount), mrr@k, map, hit@k (1 when a relevant document is in the first k),
    precision@k, recall@k; k is a whole number from 1.
    """
    family, at, cutoff = name.partition("@")
    if family not in _FAMILIES:
        return Problem(f"unknown metric {name!r}", hint=_nearest(family.lower(), cutoff))
    takes_cutoff = _FAMILIES[family][2]
    if not takes_cutoff:
        return Metric(name, family, None) if not at else Problem(f"{family} takes no cutoff", hint=f"write {family!r}")
    if not at:
        return Problem(f"the metric {family!r} needs a cutoff", hint=f"write '{family}@10'")
    if not (cutoff.isascii() and cutoff.isdigit() and not cutoff.startswith("0")):
        return Problem(f"{cutoff!r} is not a cutoff", hint=f"write a whole number from 1, as in '{family}@10'")
    return Metric(name, family, int(cutoff))


def _nearest(family: str, cutoff: str) -> str:
    """Return the hint for a metric name that does not exist."""
    matches = difflib.get_close_matches(family, _FAMILIES, n=1)
    found = family if family in _FAMILIES else _OTHER_NAMES.get(family) or next(iter(matches), None)
    if found is None:
        return "known: " + ", ".join(f"{name}@k" if known[2] else name for name, known in _FAMILIES.items())
    return f"did you mean '{found}@{cutoff or 10}'?" if _FAMILIES[found][2] else f"did you mean {found!r}?"


def display_name(name: str) -> str:
    """Return a metric's name as the field prints it; an unknown one as it is."""
    metric = parse_metric(name)
    return metric.display if isinstance(metric, Metric) else name


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

    Raises StageFailedError for a score that is not finite, ValueError for a metric that `parse_metric` refuses.
    """
    metrics = [_require_metric(name) for name in metric_names]
    _require_finite(scores)
    orders: list[LabelOrders | None] = [
        build_label_orders(group, scores[group.qid], seed=seed) if scores.get(group.qid) else None for group in groups
    ]
    measured = _measure_orders({order for one in orders if one for order in one.shares}, metrics)
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


def _require_metric(name: str) -> Metric:
    metric = parse_metric(name)
    if isinstance(metric, Problem):
        raise ValueError(metric.message)  # noqa: TRY004  # a name, not a type
    return metric


def _require_finite(scores: Mapping[str, Mapping[str, float]]) -> None:
    bad = [(qid, docid) for qid, row in scores.items() for docid, score in row.items() if not math.isfinite(score)]
    if bad:
        qid, docid = bad[0]
        raise StageFailedError(
            f"{len(bad)} scores are not finite numbers (the first: {scores[qid][docid]} for {qid}/{docid})",
            hint="the model computes NaN or infinity: its training diverged, or its dtype overflows; try float32",
        )


def _measure_orders(orders: set[LabelOrder], metrics: Sequence[Metric]) -> dict[tuple[LabelOrder, str], float]:
    """Return the value of each (label order, metric), each order measured once however many queries share it."""
    import ir_measures

    names = {ir_measures.parse_measure(metric.ir_measures_name): metric.name for metric in metrics}
    measured: dict[tuple[LabelOrder, str], float] = {}
    for batch in _batches(sorted(orders, key=lambda order: (order.ranked, order.unranked))):
        qrels = {
            str(number): {str(rank): label for rank, label in enumerate((*order.ranked, *order.unranked))}
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
