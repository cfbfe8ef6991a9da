"""Measures rankings query by query with ir_measures; ties favour nobody, and what is missing counts as zero."""

from __future__ import annotations

import itertools
import math
import random
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

from orchestrator.data.rows.records import RELEVANT, is_relevant
from orchestrator.evaluation.eval_rows import Group
from orchestrator.evaluation.measures import Metric

EXACT_LIMIT = 2_000  # distinct label orders of one query up to which every one is measured
RANDOM_ORDERS = 500  # seeded random orders measured where there are more
FINEST = 1000  # grades a unit; trec_eval keeps one count a grade
_SAME = 1e-9  # labels were divided by a range: 2 / 3 is meant by every float this close to it
_BATCH_DOCUMENTS = 200_000  # about so many per call of ir_measures: bounds its memory


@dataclass(frozen=True)
class LabelOrder:
    """Labels from rank 1 downwards, and the labels of the documents that were not ranked at all."""

    ranked: tuple[float, ...]
    unranked: tuple[float, ...] = ()


@dataclass(frozen=True)
class LabelOrders:
    """The label orders that one ranking stands for, each with its share; the shares add up to 1."""

    shares: Mapping[LabelOrder, float]
    exact: bool


@dataclass(frozen=True)
class Grades:
    """The whole numbers that trec_eval grades with: `scale` times a label, exact where the labels are few."""

    scale: int

    @property
    def relevant(self) -> int:
        """The lowest grade of a relevant document (a label of at least 0.5)."""
        return math.ceil(self.scale * RELEVANT)

    def grade(self, label: float) -> int:
        """Return a label's grade; rounding carries none over the border of what is relevant."""
        nearest = round(label * self.scale)
        return max(nearest, self.relevant) if is_relevant(label) else min(nearest, self.relevant - 1)


def measure_rankings(
    groups: Sequence[Group], scores: Mapping[str, Mapping[str, float]], metrics: Sequence[Metric], *, seed: int
) -> tuple[dict[str, tuple[float, ...]], list[LabelOrders | None]]:
    """Return {metric: each query's value}, and the label orders of each query, None where it has no scores.

    Where documents share a score the value is its expectation over random orders of the tied documents: exact while
    a query has at most `EXACT_LIMIT` distinct label orders, else the mean of `RANDOM_ORDERS` seeded ones.
    (McSherry and Najork, Computing Information Retrieval Performance Measures Efficiently in the Presence of Tied
    Scores, ECIR 2008.) A query without scores counts 0, a document without one as not retrieved.

    Labels are gains of nDCG; for the other measures a label of at least 0.5 is relevant. trec_eval wants whole
    grades: labels are scaled to them, exactly where that takes at most 1000, else to 1/1000.
    """
    orders = [
        build_label_orders(group, scores[group.qid], seed=seed) if scores.get(group.qid) else None for group in groups
    ]
    grades = choose_grades(document.label for group in groups for document in group.documents)
    measured = _measure_orders({order for one in orders if one for order in one.shares}, metrics, grades)

    def expectation(one: LabelOrders | None, metric: Metric) -> float:
        return math.fsum(share * measured[order, metric.name] for order, share in one.shares.items()) if one else 0.0

    return {metric.name: tuple(expectation(one, metric) for one in orders) for metric in metrics}, orders


def choose_grades(labels: Iterable[float]) -> Grades:
    """Return the coarsest grades that hold every label exactly, else the finest ones. Labels 0 and 1 stay 0 and 1."""
    scale = 1
    for label in set(labels):
        fraction = Fraction(label).limit_denominator(FINEST)
        scale = math.lcm(scale, fraction.denominator)
        if scale > FINEST or abs(float(fraction) - label) > _SAME:
            return Grades(FINEST)
    return Grades(scale)


def build_label_orders(group: Group, scores: Mapping[str, float], *, seed: int) -> LabelOrders:
    """Return every label order that breaking the ties at random can give, or a seeded sample of them.

    A measure sees only labels, so two orders of tied documents with the same labels are one. Within a tie the
    distinct arrangements of the labels are equally likely; so are their combinations over the ties.
    """
    ranked = sorted(
        (document for document in group.documents if document.docid in scores), key=lambda d: -scores[d.docid]
    )
    unranked = tuple(sorted(document.label for document in group.documents if document.docid not in scores))
    tied = [
        sorted(document.label for document in documents)
        for _, documents in itertools.groupby(ranked, key=lambda document: scores[document.docid])
    ]
    count = math.prod(map(_count_arrangements, tied))
    if count <= EXACT_LIMIT:
        combined = itertools.product(*(list(_arrangements(Counter(labels))) for labels in tied))
        exact = {LabelOrder(tuple(itertools.chain.from_iterable(order)), unranked): 1 / count for order in combined}
        return LabelOrders(exact, exact=True)
    draw = random.Random(f"{seed}:{group.qid}")  # noqa: S311  # statistics, not secrets
    sample = Counter(
        tuple(itertools.chain.from_iterable(draw.sample(labels, len(labels)) for labels in tied))
        for _ in range(RANDOM_ORDERS)
    )
    shares = {LabelOrder(ranked_labels, unranked): hits / RANDOM_ORDERS for ranked_labels, hits in sample.items()}
    return LabelOrders(shares, exact=False)


def _count_arrangements(labels: list[float]) -> int:
    """Return the multinomial coefficient: in how many distinct ways sorted labels can be lined up."""
    if labels[0] == labels[-1]:  # most ties are of one document
        return 1
    return math.factorial(len(labels)) // math.prod(math.factorial(n) for n in Counter(labels).values())


def _arrangements(labels: Counter[float]) -> Iterator[tuple[float, ...]]:
    """Yield each distinct way to line up a multiset of labels, once."""
    if len(labels) <= 1:
        yield tuple(labels.elements())
        return
    for label in sorted(labels):
        for rest in _arrangements(labels - Counter([label])):
            yield (label, *rest)


def _measure_orders(
    orders: set[LabelOrder], metrics: Sequence[Metric], grades: Grades
) -> dict[tuple[LabelOrder, str], float]:
    """Return the value of each (label order, metric), each order measured once however many queries share it."""
    import ir_measures

    names = {ir_measures.parse_measure(metric.ir_measures_name(grades.relevant)): metric.name for metric in metrics}
    measured: dict[tuple[LabelOrder, str], float] = {}
    ordered = sorted(orders, key=lambda order: (order.ranked, order.unranked))
    documents = itertools.accumulate(len(order.ranked) + len(order.unranked) for order in ordered)
    numbered = zip((total // _BATCH_DOCUMENTS for total in documents), ordered, strict=True)
    for _, group in itertools.groupby(numbered, key=lambda item: item[0]):
        batch = [order for _, order in group]
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
