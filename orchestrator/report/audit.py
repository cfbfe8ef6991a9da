"""Gathers negatives that a model scores above the positive of their query: often they are no negatives."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from orchestrator.evaluation.eval_sets import GroupEval
from orchestrator.evaluation.metrics import TUNED, Scored
from orchestrator.report.false_negatives import find_false_negatives
from orchestrator.report.notes import TEACHER
from orchestrator.report.wording import counted

_SHOWN = 5


@dataclass(frozen=True)
class Suspect:
    """One negative that lies above a positive of its query, and both scores."""

    query: str
    positive: str
    positive_score: float
    negative: str
    negative_score: float
    where: str


@dataclass(frozen=True)
class Suspects:
    """What one judge found on one side of the data; `rows` of `of_rows` have such a negative."""

    judge: str
    side: str
    sentence: str
    examples: tuple[Suspect, ...]


def build_audit(metrics: Mapping[str, Any], scored: Scored, stats: Mapping[str, Any]) -> list[Suspects]:
    """Return what the teacher says of the training rows, and base and teacher of the evaluation set.

    The tuned model is no judge: it was trained to agree with these labels. Nor is a head that ranks at random.
    """
    return [*_by_teacher(stats), *_by_systems(metrics, scored)]


def summarise(audit: Sequence[Suspects]) -> list[dict[str, Any]]:
    """Return the audit for report.json: {"judge", "side", "sentence"}."""
    return [{"judge": found.judge, "side": found.side, "sentence": found.sentence} for found in audit]


def _by_teacher(stats: Mapping[str, Any]) -> Iterator[Suspects]:
    found = ((stats.get("train") or {}).get("teacher") or {}).get("false_negatives")
    if not found:
        return
    sentence = (
        f"{counted(found['negatives'], 'negative')} of {found['of_negatives']:,} in the training data "
        f"({counted(found['rows'], 'row')}) have a higher teacher score than a positive of their row."
    )
    examples = tuple(
        Suspect(
            row["query"],
            row["positive"],
            row["positive_score"],
            row["negative"],
            row["negative_score"],
            f"{row['source']}:{row['line']}",
        )
        for row in found["examples"][:_SHOWN]
    )
    yield Suspects("the teacher", "train", sentence, examples)


def _by_systems(metrics: Mapping[str, Any], scored: Scored) -> Iterator[Suspects]:
    if not isinstance(scored.evaluation, GroupEval):
        return
    groups = scored.evaluation.groups
    for system in _choose_judges(metrics):
        found = find_false_negatives(groups, scored.scores[system["id"]], shown=_SHOWN)
        if not found.of_queries:
            continue
        sentence = (
            f"{counted(found.negatives, 'negative')} of {found.of_negatives:,} in the evaluation set "
            f"({found.queries:,} of {counted(found.of_queries, 'query')}) lie above every relevant document."
        )
        examples = tuple(
            Suspect(item.query, item.positive, item.positive_score, item.negative, item.negative_score, item.qid)
            for item in found.examples
        )
        yield Suspects(system["label"], "eval", sentence, examples)


def _choose_judges(metrics: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return the way of using the base model that ranks best, and the teacher."""
    able = [
        system
        for system in metrics["systems"]
        if system["id"] != TUNED and system["head"] != "new" and not system["constant"]
    ]
    headline = metrics["headline"]["metric"]
    base = max(
        (system for system in able if system["id"] != TEACHER),
        key=lambda system: system["means"][headline] or 0.0,
        default=None,
    )
    return [*([base] if base else []), *(system for system in able if system["id"] == TEACHER)]
