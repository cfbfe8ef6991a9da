"""Picks the rows that the page shows: a bar for each, what changed most, and negatives that look wrongly labelled."""

from __future__ import annotations

import heapq
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from orchestrator.data.rows.records import is_relevant
from orchestrator.evaluation.eval_rows import ChatRow, ChatScore, Group, Pair
from orchestrator.evaluation.eval_sets import ChatEval, PairEval, RankingEval, Rankings
from orchestrator.evaluation.measures import GROUP, TEACHER, TUNED, require_metric
from orchestrator.evaluation.metrics import Scored
from orchestrator.report.figures import build_bars_figure
from orchestrator.report.wording import counted, fewest_generations, headline_comparison

MOST_EXAMPLES = 5
MOST_CHATS = 4  # most improved, most worsened, and the first: 12 at most
_LONGEST_TEXT = 320  # characters of a document that the page shows
_LONGEST_ANSWER = 1_500
_MOST_TURNS = 8  # of a conversation: the system's and the latest

Values = Mapping[str, tuple[float, float]]  # {row: the headline metric's value before and after}
Example = dict[str, Any]
Changed = tuple[list[Example], list[Example]]  # the rows that improved most, and those that worsened most


def build_evidence(metrics: Mapping[str, Any], scored: Scored) -> dict[str, Any]:
    """Return what the rows of a run show; nothing of what was not compared, but chat answers are there to read.

    {"bars": as `build_bars_figure` says | null, "row_name": what one row's value is called,
     "sections": [{"title", "items": the examples of the evaluation set's kind}], "note": sentence | null}
    """
    metric = require_metric(metrics["headline"]["metric"])
    comparison = headline_comparison(metrics)
    values: dict[str, tuple[float, float]] = {}
    for row in metrics["rows"] if comparison else ():
        sides = row["values"][metrics["headline"]["baseline"]][metric.name], row["values"][TUNED][metric.name]
        if None not in sides:
            values[row["id"]] = sides
    names = scored.evaluation.row_texts() if scored.evaluation and values else {}
    bars = [(name, *values[row]) for row, name in names.items() if row in values]
    note, fewest = None, fewest_generations(metrics)
    if fewest is not None:
        of = f"{fewest:,} of {counted(metrics['eval']['units'], 'row')}"
        note = f"Answers were generated for {of}; these are of them."
    if fewest == 0:
        note = "No answers were generated: only the losses can be compared."
    return {
        "bars": build_bars_figure(bars, higher_is_better=metric.row_higher_is_better),
        "row_name": metric.row_display,
        "sections": _build_sections(metrics, scored, comparison, values),
        "note": note,
    }


def _build_sections(
    metrics: Mapping[str, Any], scored: Scored, comparison: Mapping[str, Any] | None, values: Values
) -> list[dict[str, Any]]:
    evaluation, unit = scored.evaluation, metrics["unit"]
    before, after = scored.scores.get(metrics["headline"]["baseline"], {}), scored.scores.get(TUNED, {})
    if isinstance(evaluation, ChatEval):
        better, worse, first = build_chat_examples(evaluation.rows, before, after) if after else ([], [], [])
        titles = ("Most improved", "Most worsened", "The first other rows" if better or worse else "The first rows")
        found = zip(titles, (better, worse, first), strict=True)
        return [{"title": title, "items": items} for title, items in found if items]
    if comparison is None or evaluation is None:
        return []
    if isinstance(evaluation, PairEval):
        better, worse = build_pair_examples(evaluation.pairs, values, before, after)
    else:
        better, worse = build_examples(evaluation.pool(scored.scores), values, before, after)
    down = "Most worsened" if comparison["losses"] > len(worse) else "All that worsened"
    return [
        {"title": "Most improved" if better else f"No {unit} improved", "items": better},
        {"title": down if worse else f"No {unit} worsened", "items": worse},
    ]


def _find_most_changed(
    values: Values, describe: Callable[[str], Example], *, most: int = MOST_EXAMPLES, higher_is_better: bool = False
) -> Changed:
    """Return the examples that improved and that worsened most, at most `most` each, with their values."""

    def example(row: str) -> Example:
        before, after = values[row]
        return {"id": row, "before_value": before, "after_value": after, "difference": after - before, **describe(row)}

    way = 1 if higher_is_better else -1
    gain = {row: way * (after - before) for row, (before, after) in values.items()}
    improved = heapq.nlargest(most, (row for row in gain if gain[row] > 0), key=gain.__getitem__)
    worsened = heapq.nsmallest(most, (row for row in gain if gain[row] < 0), key=gain.__getitem__)
    return list(map(example, improved)), list(map(example, worsened))


def build_examples(groups: Sequence[Group], values: Values, before: Rankings, after: Rankings) -> Changed:
    """Return (most improved, most worsened) queries, at most 5 each; `before` and `after` are {qid: {docid: score}}.

    Each is {"id", "before_value", "after_value", "difference", "query", "before", "after": as `find_top` says,
    "relevant": how many relevant documents it has, "relevant_text": the one of the highest label, given where neither
    ranking has one on top, "class_name": its class | null}.
    """
    by_qid = {group.qid: group for group in groups if group.qid in values}
    classes = {
        document.docid: clipped(group.class_name)
        for group in groups if group.class_name
        for document in group.documents if is_relevant(document.label)
    }  # fmt: skip

    def describe(qid: str) -> Example:
        group = by_qid[qid]
        tops = [find_top(group, scores.get(qid, {}), classes) for scores in (before, after)]
        text = None
        if group.relevant and not any(top is not None and top["relevant"] for top in tops):
            text = clipped(max(group.documents, key=lambda document: document.label).text)
        sides = {"before": tops[0], "after": tops[1], "relevant": group.relevant, "relevant_text": text}
        return {"query": clipped(group.query), "class_name": group.class_name and clipped(group.class_name), **sides}

    return _find_most_changed({qid: values[qid] for qid in by_qid}, describe, higher_is_better=True)


def find_top(group: Group, scores: Mapping[str, float], classes: Mapping[str, str]) -> dict[str, Any] | None:
    """Return the first document of one ranking, {"text", "relevant", …}; None where nothing was scored.

    It is one of "tied" that share the top score: the first in the file stands for all, since the file's order carries
    no label. "relevant_rank" is the rank of the first relevant document: a number, or a range such as `2–4` where a
    tie leaves it open; None where none was ranked, which "missed" says of a query that has relevant documents. Where
    the query is a text with a class, "class_name" is the document's: one of `classes` {docid: class}, else a rare one.
    """
    ranked = [(scores[document.docid], document) for document in group.documents if document.docid in scores]
    if not ranked:
        return None
    best = max(score for score, _ in ranked)
    first = [document for score, document in ranked if score == best]
    rank, relevant = None, [score for score, document in ranked if is_relevant(document.label)]
    if relevant:
        highest = max(relevant)
        above = sum(score > highest for score in scores.values())
        wrong_beside = sum(score == highest for score in scores.values()) - relevant.count(highest)
        rank = f"{above + 1}–{above + 1 + wrong_beside}" if wrong_beside else str(above + 1)
    return {
        "text": clipped(first[0].text),
        "class_name": group.class_name and classes.get(first[0].docid, "another class"),
        "relevant": is_relevant(first[0].label),
        "tied": len(first),
        "relevant_rank": rank,
        "missed": rank is None and group.relevant > 0,
    }


def build_pair_examples(
    pairs: Sequence[Pair], values: Values, before: Mapping[str, float], after: Mapping[str, float]
) -> Changed:
    """Return (most improved, most worsened) pairs, at most 5 each; `values` are their errors, lower is better.

    Each is {"id", "before_value", "after_value", "difference", "text1", "text2", "pairs": how many there are, and
    "gold", "before", "after": {"score", "rank"}; 1 is the most alike, equal scores share the best rank of theirs}.
    """
    by_pid = {pair.pid: pair for pair in pairs}
    sides = {"gold": {pair.pid: pair.gold for pair in pairs}, "before": before, "after": after}
    ascending = {side: sorted(scores.values()) for side, scores in sides.items()}

    def describe(pid: str) -> Example:
        places = {
            side: {"score": scores[pid], "rank": len(scores) - bisect_right(ascending[side], scores[pid]) + 1}
            for side, scores in sides.items()
        }
        pair = by_pid[pid]
        return {"text1": clipped(pair.text1), "text2": clipped(pair.text2), "pairs": len(pairs), **places}

    return _find_most_changed(values, describe)


def build_chat_examples(
    rows: Sequence[ChatRow], before: Mapping[str, ChatScore], after: Mapping[str, ChatScore]
) -> tuple[list[Example], list[Example], list[Example]]:
    """Return (most improved, most worsened, the first rows): at most 4 each, no row twice.

    Where some rows have both models' answers, only those are looked at: a loss alone is nothing to read. Without a
    baseline (`before` is empty) only the first rows are shown.

    Each is {"id", "turns": [{"role", "text"}], "left_out": how many turns are not shown, "reference", "before",
    "after": the answers, null where none was generated, "before_loss", "after_loss": nats a token, "difference"}.
    """
    by_row = {row.row: row for row in rows}

    def is_answered(row: str) -> bool:
        return all(row in side and side[row].generation is not None for side in (before, after) if side)

    losses = {
        row: tuple(side[row].loss if row in side else None for side in (before, after))
        for row in [row for row in by_row if is_answered(row)] or by_row
    }
    values = {row: (one, two) for row, (one, two) in losses.items() if one is not None and two is not None}

    def describe(name: str) -> Example:
        row, one, two = by_row[name], before.get(name), after.get(name)
        earliest = len(row.messages) - _MOST_TURNS
        turns = [
            {"role": message.role, "text": shortened(message.content)}
            for place, message in enumerate(row.messages)
            if message.role == "system" or place >= earliest
        ]
        return {
            "id": name,
            "turns": turns,
            "left_out": len(row.messages) - len(turns),
            "reference": shortened(row.reference),
            "before": _answer(one),
            "after": _answer(two),
            "before_loss": one and one.loss,
            "after_loss": two and two.loss,
            "difference": values[name][1] - values[name][0] if name in values else None,
        }

    improved, worsened = _find_most_changed(values, describe, most=MOST_CHATS)
    chosen = {shown["id"] for shown in (*improved, *worsened)}
    first = [row for row in losses if row not in chosen][:MOST_CHATS]
    return improved, worsened, list(map(describe, first))


def _answer(score: ChatScore | None) -> str | None:
    return None if score is None or score.generation is None else shortened(score.generation)


def clipped(text: str) -> str:
    """Return the text's beginning on one line."""
    line = " ".join(text[: 4 * _LONGEST_TEXT].split())
    return line if len(line) <= _LONGEST_TEXT else line[: _LONGEST_TEXT - 1].rstrip() + "…"


def shortened(text: str) -> str:
    """Return the text's beginning with its lines: an answer's form is part of it."""
    clean = text.strip()
    return clean if len(clean) <= _LONGEST_ANSWER else clean[: _LONGEST_ANSWER - 1].rstrip() + "…"


# Negatives that a model scores above the positive of their query: often their label is wrong.


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
        for row in found["examples"][:MOST_EXAMPLES]
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


def find_false_negatives(groups: Sequence[Group], scores: Rankings, *, shown: int = MOST_EXAMPLES) -> Audit:
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
