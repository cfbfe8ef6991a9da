"""Turns a ranking with ties into the label orders it stands for, so that no tie favours anyone."""

from __future__ import annotations

import itertools
import math
import random
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from orchestrator.evaluation.judged import Group

EXACT_LIMIT = 2_000  # distinct label orders of one query up to which every one is measured
RANDOM_ORDERS = 500  # seeded random orders measured where there are more


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
    count = math.prod(_arrangement_count(labels) for labels in tied)
    if count <= EXACT_LIMIT:
        orders = itertools.product(*(_orders(labels) for labels in tied))
        exact = {LabelOrder(tuple(itertools.chain.from_iterable(order)), unranked): 1 / count for order in orders}
        return LabelOrders(exact, exact=True)
    draw = random.Random(f"{seed}:{group.qid}")  # noqa: S311  # statistics, not secrets
    sample = Counter(
        tuple(itertools.chain.from_iterable(draw.sample(labels, len(labels)) for labels in tied))
        for _ in range(RANDOM_ORDERS)
    )
    shares = {LabelOrder(ranked_labels, unranked): hits / RANDOM_ORDERS for ranked_labels, hits in sample.items()}
    return LabelOrders(shares, exact=False)


def _orders(labels: list[float]) -> list[tuple[float, ...]]:
    """Return each distinct way to line up sorted labels."""
    return [tuple(labels)] if labels[0] == labels[-1] else list(_arrangements(Counter(labels)))


def _arrangement_count(labels: list[float]) -> int:
    """Return the multinomial coefficient: in how many distinct ways these labels can be lined up."""
    if labels[0] == labels[-1]:  # sorted: all alike; most ties are of one document
        return 1
    return math.factorial(len(labels)) // math.prod(math.factorial(n) for n in Counter(labels).values())


def _arrangements(labels: Counter[float]) -> Iterator[tuple[float, ...]]:
    """Yield each distinct way to line up a multiset of labels, once."""
    if not labels:
        yield ()
        return
    for label in sorted(labels):
        for rest in _arrangements(labels - Counter([label])):
            yield (label, *rest)
