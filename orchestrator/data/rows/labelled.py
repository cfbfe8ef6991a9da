"""The canonical labelled group: one query with documents, a label each, and its rows of the eval set."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from orchestrator.data.digests import query_key
from orchestrator.recipe.relevance import is_relevant


@dataclass(frozen=True)
class LabelledGroup:
    """One checked row: a query and its documents, no two the same, each with a label from 0 to 1.

    `scores` are the teacher's, for all documents or None. `source` is the file's name without its folder, `line` counts
    from 1. A group that was merged has the place of its first row.
    """

    query: str
    documents: tuple[str, ...]
    labels: tuple[float, ...]
    scores: tuple[float, ...] | None
    source: str
    line: int

    @property
    def split_text(self) -> str:
        """The query."""
        return self.query

    @property
    def identity(self) -> Iterator[str]:
        """Query, documents and labels."""
        yield self.query
        for text, label in zip(self.documents, self.labels, strict=True):
            yield text
            yield repr(label)

    @property
    def texts(self) -> tuple[str, ...]:
        """The query and every document."""
        return (self.query, *self.documents)

    @property
    def answers(self) -> tuple[str, ...]:
        """The relevant documents."""
        return tuple(text for text, label in zip(self.documents, self.labels, strict=True) if is_relevant(label))

    def pick(self, places: Sequence[int]) -> LabelledGroup:
        """Return the group with the documents of these places only."""
        return LabelledGroup(
            self.query,
            tuple(self.documents[place] for place in places),
            tuple(self.labels[place] for place in places),
            None if self.scores is None else tuple(self.scores[place] for place in places),
            self.source,
            self.line,
        )


def merge_groups(groups: Sequence[LabelledGroup]) -> LabelledGroup:
    """Return one group of all documents, at the first one's place; scores where all groups have them."""
    first = groups[0]
    if len(groups) == 1:
        return first
    scores = [group.scores for group in groups if group.scores is not None]
    return LabelledGroup(
        first.query,
        tuple(text for group in groups for text in group.documents),
        tuple(label for group in groups for label in group.labels),
        tuple(score for found in scores for score in found) if len(scores) == len(groups) else None,
        first.source,
        first.line,
    )


def draw_documents(group: LabelledGroup, size: int, seed: int) -> LabelledGroup:
    """Return a group of at most `size` (2 or more) documents: one of the highest label, one of the lowest, and others.

    What is drawn depends on the seed and the group only; the order stays.
    """
    count = len(group.documents)
    if count <= size:
        return group
    rng = random.Random(f"{seed}:{query_key(group.query)}")  # noqa: S311 - not for secrets
    places = list(range(count))
    rng.shuffle(places)
    highest = max(places, key=group.labels.__getitem__)
    places.remove(highest)
    lowest = min(places, key=group.labels.__getitem__)
    places.remove(lowest)
    return group.pick(sorted((highest, lowest, *places[: size - 2])))


def build_labelled_eval_row(group: LabelledGroup, number: int, seed: int) -> dict[str, Any]:
    """Return the canonical form of the `number`-th eval group: as of ranking groups, with labels from 0 to 1."""
    qid = f"q{number:06d}"
    labelled = list(zip(group.documents, map(_shorten, group.labels), strict=True))
    random.Random(f"{seed}:{query_key(group.query)}").shuffle(labelled)  # noqa: S311 - not for secrets
    return {
        "qid": qid,
        "query": group.query,
        "documents": [
            {"docid": f"{qid}.{place}", "text": text, "label": label} for place, (text, label) in enumerate(labelled)
        ],
        "source": group.source,
        "line": group.line,
    }


def _shorten(label: float) -> float:
    return int(label) if label in {0, 1} else label
