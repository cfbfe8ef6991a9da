"""The canonical ranking group: one query with its documents, whatever format it came from."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

from orchestrator.data.digests import query_key


@dataclass(frozen=True)
class RankingGroup:
    """One checked row: a query, at least one positive and one negative, and teacher scores for all or none of them.

    `source` is the file's name without its folder, `line` counts from 1.
    """

    query: str
    positives: tuple[str, ...]
    negatives: tuple[str, ...]
    source: str
    line: int
    positive_scores: tuple[float, ...] | None = None
    negative_scores: tuple[float, ...] | None = None
    prompt: str | None = None


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
