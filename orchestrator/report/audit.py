"""Gathers negatives that a model scores above the positive of their query: often their label is wrong."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from orchestrator.evaluation.eval_rows import Group
from orchestrator.evaluation.eval_sets import RankingEval
from orchestrator.evaluation.measures import GROUP
from orchestrator.evaluation.metrics import TEACHER, TUNED, Scored
from orchestrator.recipe.relevance import is_relevant
from orchestrator.report.wording import counted

SHOWN = 5


@dataclass(frozen=True)
class FalseNegative:
    """A negative that lies above a positive of its query, both scores, and where it is: FILE:LINE, or the qid."""

    query: str
    positive: str
    positive_score: float
    negative: str
    negative_score: float
    where: str


@dataclass(frozen=True)
class Suspects:
    """What one judge found on one side of the data, `train` or `eval`."""

    judge: str
    side: str
    sentence: str
    examples: tuple[FalseNegative, ...]


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


def build_audit(metrics: Mapping[str, Any], scored: Scored, stats: Mapping[str, Any]) -> list[Suspects]:
    """Return what the teacher says of the training rows, and base and teacher of the evaluation set.

    The tuned model is no judge: it was trained to agree with these labels. Nor is a head that ranks at random.
    """
    return [*_judge_training(stats), *_judge_evaluation(metrics, scored)]


def _judge_training(stats: Mapping[str, Any]) -> Iterator[Suspects]:
    found = ((stats.get("train") or {}).get("teacher") or {}).get("false_negatives")
    if not found:
        return
    sentence = (
        f"{counted(found['negatives'], 'negative')} of {found['of_negatives']:,} in the training data "
        f"({counted(found['rows'], 'row')}) have a higher teacher score than a positive of their row."
    )
    keys = ("query", "positive", "positive_score", "negative", "negative_score")
    examples = tuple(
        FalseNegative(**{key: row[key] for key in keys}, where=f"{row['source']}:{row['line']}")
        for row in found["examples"][:SHOWN]
    )
    yield Suspects("the teacher", "train", sentence, examples)


def _judge_evaluation(metrics: Mapping[str, Any], scored: Scored) -> Iterator[Suspects]:
    if not isinstance(scored.evaluation, RankingEval) or scored.evaluation.kind != GROUP:
        return
    for system in _choose_judges(metrics):
        found = find_false_negatives(scored.evaluation.groups, scored.scores[system["id"]])
        if found.of_queries:
            sentence = (
                f"{counted(found.negatives, 'negative')} of {found.of_negatives:,} in the evaluation set "
                f"({found.queries:,} of {counted(found.of_queries, 'query')}) lie above every relevant document."
            )
            yield Suspects(system["label"], "eval", sentence, found.examples)


def _choose_judges(metrics: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return the way of using the base model that ranks best, and the teacher."""
    able = [
        system
        for system in metrics["systems"]
        if system["id"] != TUNED and system["head"] != "new" and not system["constant"]
    ]
    headline = metrics["headline"]["metric"]
    bases = (system for system in able if system["id"] != TEACHER)
    base = max(bases, key=lambda system: system["means"][headline] or 0.0, default=None)
    return [*([base] if base else []), *(system for system in able if system["id"] == TEACHER)]


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
            widest.append(FalseNegative(group.query, positive.text, best, negative.text, score, group.qid))
    widest.sort(key=lambda found: found.positive_score - found.negative_score)
    return Audit(len(widest), of_queries, negatives, of_negatives, tuple(widest[:shown]))
