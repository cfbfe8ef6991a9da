"""Finds negatives that a system prefers to every relevant document of their query: often their label is wrong."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from orchestrator.evaluation.eval_rows import Group
from orchestrator.recipe.relevance import is_relevant

SHOWN = 10


@dataclass(frozen=True)
class FalseNegative:
    """A negative beside the relevant document of its query that the system scores highest, with both scores."""

    qid: str
    query: str
    positive: str
    positive_score: float
    negative: str
    negative_score: float

    @property
    def gap(self) -> float:
        """How far the negative lies above, in the system's own unit."""
        return self.negative_score - self.positive_score


@dataclass(frozen=True)
class Audit:
    """`negatives` of `of_negatives` (labels below 0.5) lie above, in `queries` of `of_queries`; the widest gaps first.

    Counted are queries with a scored relevant document and a scored negative. `examples` holds at most one of a query.
    """

    queries: int
    of_queries: int
    negatives: int
    of_negatives: int
    examples: tuple[FalseNegative, ...]

    def to_json(self) -> dict[str, Any]:
        """Return the audit for programs."""
        return asdict(self)


def find_false_negatives(
    groups: Sequence[Group], scores: Mapping[str, Mapping[str, float]], *, shown: int = SHOWN
) -> Audit:
    """Return the negatives that `scores` ({qid: {docid: score}}) puts above the highest relevant document.

    An equal score is not above. Documents without a score take no part.
    """
    of_queries = negatives = of_negatives = 0
    widest: list[FalseNegative] = []
    for group in groups:
        given = scores.get(group.qid, {})
        scored = [(given[document.docid], document) for document in group.documents if document.docid in given]
        relevant = [pair for pair in scored if is_relevant(pair[1].label)]
        others = [pair for pair in scored if not is_relevant(pair[1].label)]
        if not relevant or not others:
            continue
        best, positive = max(relevant, key=lambda pair: pair[0])
        above = [pair for pair in others if pair[0] > best]
        of_queries, of_negatives, negatives = of_queries + 1, of_negatives + len(others), negatives + len(above)
        if above:
            score, negative = max(above, key=lambda pair: pair[0])
            widest.append(FalseNegative(group.qid, group.query, positive.text, best, negative.text, score))
    examples = sorted(widest, key=lambda found: -found.gap)[:shown]
    return Audit(len(widest), of_queries, negatives, of_negatives, tuple(examples))
