"""The canonical ranking group: one query with its documents, and its row of the eval set."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from orchestrator.data.digests import query_key


@dataclass(frozen=True)
class RankingGroup:
    """One checked row: a query, at least one positive, negatives, and teacher scores for all or none of them.

    `source` is the file's name without its folder, `line` counts from 1. Rerankers need at least one negative.
    """

    query: str
    positives: tuple[str, ...]
    negatives: tuple[str, ...]
    source: str
    line: int
    positive_scores: tuple[float, ...] | None = None
    negative_scores: tuple[float, ...] | None = None
    prompt: str | None = None

    @property
    def split_text(self) -> str:
        """The query."""
        return self.query

    @property
    def identity(self) -> Iterator[str]:
        """Query, documents by their role, and prompt."""
        yield self.query
        yield f"{len(self.positives)} {self.prompt is not None}"
        yield from self.positives
        yield from self.negatives
        if self.prompt is not None:
            yield self.prompt

    @property
    def texts(self) -> tuple[str, ...]:
        """The query and every document."""
        return (self.query, *self.positives, *self.negatives)

    @property
    def answers(self) -> tuple[str, ...]:
        """The positives."""
        return self.positives


def build_eval_row(group: RankingGroup, number: int, seed: int) -> dict[str, Any]:
    """Return the canonical form of the `number`-th eval group, documents shuffled.

    Order and docids carry no label: measures break ties by docid, so that numbering positives first would give a
    constant scorer a perfect rank. The order depends on the seed and the query only, not on the row's place.
    """
    qid = f"q{number:06d}"
    labelled = [(text, 1) for text in group.positives] + [(text, 0) for text in group.negatives]
    random.Random(f"{seed}:{query_key(group.query)}").shuffle(labelled)  # noqa: S311 - not for secrets
    row: dict[str, Any] = {
        "qid": qid,
        "query": group.query,
        "documents": [
            {"docid": f"{qid}.{place}", "text": text, "label": label} for place, (text, label) in enumerate(labelled)
        ],
    }
    if group.prompt is not None:
        row["prompt"] = group.prompt
    return row | {"source": group.source, "line": group.line}
