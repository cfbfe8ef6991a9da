"""Labelled groups become the rows that sentence-transformers' cross-encoder losses read.

Numbers are always written as floats: the reader infers a column's type from the first rows and refuses the other.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from typing import Any

from orchestrator.data.digests import query_key
from orchestrator.data.rows.labelled import LabelledGroup
from orchestrator.data.rows.records import Record
from orchestrator.data.writing.row_options import RowOptions
from orchestrator.recipe.relevance import is_relevant


def find_targets(group: LabelledGroup, target: str) -> Sequence[float]:
    """Return what is learnt of each document: its label, or with the target "teacher" its score."""
    if target == "label":
        return group.labels
    if group.scores is None:
        raise ValueError(f"{group.source}:{group.line} has no teacher scores")  # the row rules have let none through
    return group.scores


def find_sides(group: LabelledGroup) -> tuple[list[int], list[int]]:
    """Return the places of the relevant documents, and those of the others."""
    relevant = [place for place, label in enumerate(group.labels) if is_relevant(label)]
    return relevant, [place for place, label in enumerate(group.labels) if not is_relevant(label)]


def build_pairs(record: Record, options: RowOptions) -> Iterator[dict[str, Any]]:
    """Yield a row for each document, for pointwise losses."""
    group = _require_labelled(record)
    for text, target in zip(group.documents, find_targets(group, options.target), strict=True):
        yield {"query": group.query, "document": text, "label": float(target)}


def build_lists(record: Record, options: RowOptions) -> Iterator[dict[str, Any]]:
    """Yield the one row of a query, for pairwise and listwise losses.

    For list_mle, which learns the order of the row, the highest label comes first; equal ones in a seeded order.
    """
    group = _require_labelled(record)
    targets = find_targets(group, options.target)
    places = list(range(len(targets)))
    if options.loss == "list_mle":
        random.Random(f"{options.seed}:{query_key(group.query)}").shuffle(places)  # noqa: S311 - not for secrets
        places.sort(key=lambda place: -targets[place])
    yield {
        "query": group.query,
        "documents": [group.documents[place] for place in places],
        "labels": [float(targets[place]) for place in places],
    }


def build_margins(record: Record, options: RowOptions) -> Iterator[dict[str, Any]]:
    """Yield a row for each relevant document with each other one, for margin_mse."""
    group = _require_labelled(record)
    targets = find_targets(group, options.target)
    relevant, others = find_sides(group)
    for positive in relevant:
        for negative in others:
            yield {
                "query": group.query,
                "positive": group.documents[positive],
                "negative": group.documents[negative],
                "label": float(targets[positive] - targets[negative]),
            }


def _require_labelled(record: Record) -> LabelledGroup:
    if not isinstance(record, LabelledGroup):
        raise TypeError(record)
    return record
