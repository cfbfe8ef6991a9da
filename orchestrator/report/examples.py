"""Picks the queries that changed most, with the document that came first before and after."""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from orchestrator.evaluation.eval_rows import Group
from orchestrator.recipe.relevance import is_relevant

MOST_EXAMPLES = 5
_LONGEST_TEXT = 320  # characters of a document that the page shows


@dataclass(frozen=True)
class Top:
    """The first document of a ranking (one of `tied` that share the top score), and where the first relevant one is.

    `relevant_rank` is a number, or a range such as `2–4` where a tie leaves it open; None where none was ranked, which
    `missed` says of a query that has relevant documents.
    """

    text: str
    relevant: bool
    tied: int
    relevant_rank: str | None
    missed: bool = False


@dataclass(frozen=True)
class Example:
    """One query's change. `relevant_text` is its relevant document, given where neither ranking has one on top."""

    qid: str
    query: str
    before_value: float
    after_value: float
    before: Top | None
    after: Top | None
    relevant_text: str | None

    @property
    def difference(self) -> float:
        """How much the value changed."""
        return self.after_value - self.before_value


def build_examples(
    groups: Sequence[Group],
    values: Mapping[str, tuple[float, float]],
    before: Mapping[str, Mapping[str, float]],
    after: Mapping[str, Mapping[str, float]],
) -> tuple[tuple[Example, ...], tuple[Example, ...]]:
    """Return (most improved, most worsened), at most 5 each.

    `values` is {qid: (before, after)} of the headline metric, `before` and `after` are {qid: {docid: score}}.
    """
    by_qid = {group.qid: group for group in groups if group.qid in values}
    improved, worsened = most_changed({qid: values[qid] for qid in by_qid}, most=MOST_EXAMPLES)

    def example(qid: str) -> Example:
        group = by_qid[qid]
        tops = find_top(group, before.get(qid, {})), find_top(group, after.get(qid, {}))
        relevant = max(group.documents, key=lambda document: document.label, default=None)
        shown = any(top is not None and top.relevant for top in tops)
        text = None if shown or relevant is None or not is_relevant(relevant.label) else clipped(relevant.text)
        return Example(qid, clipped(group.query), *values[qid], *tops, text)

    return tuple(example(qid) for qid in improved), tuple(example(qid) for qid in worsened)


def most_changed(
    values: Mapping[str, tuple[float, float]], *, most: int, higher_is_better: bool = True
) -> tuple[list[str], list[str]]:
    """Return the rows of {row: (before, after)} that improved and that worsened most, at most `most` each."""
    way = 1 if higher_is_better else -1
    gain = {row: way * (after - before) for row, (before, after) in values.items()}
    improved = heapq.nlargest(most, (row for row in gain if gain[row] > 0), key=lambda row: gain[row])
    worsened = heapq.nsmallest(most, (row for row in gain if gain[row] < 0), key=lambda row: gain[row])
    return improved, worsened


def find_top(group: Group, scores: Mapping[str, float]) -> Top | None:
    """Return the first document of one ranking; None where nothing was scored.

    Of several with the top score the first in the file stands for all: the file's order carries no label.
    """
    ranked = [document for document in group.documents if document.docid in scores]
    if not ranked:
        return None
    best = max(scores[document.docid] for document in ranked)
    first = [document for document in ranked if scores[document.docid] == best]
    rank = _first_relevant_rank(group, scores)
    missed = rank is None and group.relevant > 0
    return Top(clipped(first[0].text), is_relevant(first[0].label), len(first), rank, missed)


def _first_relevant_rank(group: Group, scores: Mapping[str, float]) -> str | None:
    relevant = [scores[item.docid] for item in group.documents if is_relevant(item.label) and item.docid in scores]
    if not relevant:
        return None
    best = max(relevant)
    above = sum(score > best for score in scores.values())
    wrong_beside = sum(score == best for score in scores.values()) - relevant.count(best)
    return f"{above + 1}–{above + 1 + wrong_beside}" if wrong_beside else str(above + 1)


def clipped(text: str) -> str:
    """Return the text's beginning on one line."""
    line = " ".join(text[: 4 * _LONGEST_TEXT].split())
    return line if len(line) <= _LONGEST_TEXT else line[: _LONGEST_TEXT - 1].rstrip() + "…"
