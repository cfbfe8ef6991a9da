"""Statistics of the kept rows of each kind; bounded memory however many rows."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

from orchestrator.data.counting.label_statistics import LabelCounts, QueryGroups, TeacherAudit
from orchestrator.data.counting.spreads import find_percentiles, find_script
from orchestrator.data.counting.tokens import Measured, TokenStatistics
from orchestrator.data.digests import DigestSet, digest, query_key
from orchestrator.data.rows.groups import RankingGroup
from orchestrator.data.rows.labelled import LabelledGroup
from orchestrator.data.rows.records import Chat, Kind, Record, ScoredPair

_SCORES_LISTED = 20


class _GroupPart:
    """What only ranking groups have."""

    def __init__(self) -> None:
        self._rows = 0
        self._queries = DigestSet()
        self._positives: Counter[int] = Counter()
        self._negatives: Counter[int] = Counter()
        self._query_chars: Counter[int] = Counter()
        self._document_chars: Counter[int] = Counter()
        self._teacher = TeacherAudit()

    def add(self, record: Record) -> None:
        if not isinstance(record, RankingGroup):
            raise TypeError(record)
        self._rows += 1
        self._queries.add(digest((query_key(record.query),)))
        self._positives[len(record.positives)] += 1
        self._negatives[len(record.negatives)] += 1
        self._query_chars[len(record.query)] += 1
        self._document_chars.update(map(len, record.positives + record.negatives))
        if record.positive_scores is not None:
            self._teacher.add(record)

    def to_json(self) -> dict[str, Any]:
        found = {
            "queries": len(self._queries),
            "positives": _total(self._positives.items()),
            "negatives": _total(self._negatives.items()),
            "positives_per_row": _per_row(self._positives, self._rows),
            "negatives_per_row": _per_row(self._negatives, self._rows),
            "query_chars": _spread(self._query_chars),
            "document_chars": _spread(self._document_chars),
        }
        return found if self._teacher.empty else found | {"teacher": self._teacher.to_json()}


class _LabelledPart:
    """What only labelled groups have."""

    def __init__(self) -> None:
        self.left_out: Counter[str] = Counter()
        self._groups = QueryGroups()
        self._labels = LabelCounts()
        self._teacher = TeacherAudit()
        self._documents = 0
        self._query_chars: Counter[int] = Counter()
        self._document_chars: Counter[int] = Counter()

    def add(self, record: Record) -> None:
        if not isinstance(record, LabelledGroup):
            raise TypeError(record)
        self._groups.add(record)
        self._labels.add(record.labels)
        self._teacher.add(record)
        self._documents += len(record.documents)
        self._query_chars[len(record.query)] += 1
        self._document_chars.update(map(len, record.documents))

    def to_json(self) -> dict[str, Any]:
        found = {
            "queries": len(self._groups),
            "documents": self._documents,
            "labels": self._labels.to_json(),
            "groups": self._groups.to_json(self.left_out),
            "query_chars": _spread(self._query_chars),
            "document_chars": _spread(self._document_chars),
        }
        return found if self._teacher.empty else found | {"teacher": self._teacher.to_json()}


class _PairPart:
    """What only scored pairs have."""

    def __init__(self) -> None:
        self._queries = DigestSet()
        self._chars: Counter[int] = Counter()
        self._scores: Counter[float] = Counter()  # of the first distinct ones, for the histogram
        self._many_scores = False
        self._sum = 0.0
        self._low, self._high, self._rows = math.inf, -math.inf, 0

    def add(self, record: Record) -> None:
        if not isinstance(record, ScoredPair):
            raise TypeError(record)
        self._rows += 1
        self._queries.add(digest((query_key(record.text1),)))
        self._chars.update((len(record.text1), len(record.text2)))
        score = record.score
        self._sum += score
        self._low, self._high = min(self._low, score), max(self._high, score)
        if score in self._scores or len(self._scores) < _SCORES_LISTED:
            self._scores[score] += 1
        else:
            self._many_scores = True

    def to_json(self) -> dict[str, Any]:
        scores: dict[str, Any] = {"min": 0.0, "mean": 0.0, "max": 0.0, "distinct": []}
        if self._rows:
            scores = {"min": self._low, "mean": round(self._sum / self._rows, 4), "max": self._high}
            listed = sorted(self._scores.items())
            # With more scores than are listed, the first met would say nothing of the others.
            scores["distinct"] = None if self._many_scores else [{"score": s, "rows": n} for s, n in listed]
        return {"queries": len(self._queries), "scores": scores, "text_chars": _spread(self._chars)}


class _ChatPart:
    """What only conversations have."""

    def __init__(self) -> None:
        self._rows = 0
        self._queries = DigestSet()
        self._turns: Counter[int] = Counter()
        self._systems = 0
        self._prompt_chars: Counter[int] = Counter()
        self._answer_chars: Counter[int] = Counter()

    def add(self, record: Record) -> None:
        if not isinstance(record, Chat):
            raise TypeError(record)
        self._rows += 1
        self._queries.add(digest((query_key(record.split_text),)))
        self._turns[sum(message.role == "assistant" for message in record.messages)] += 1
        self._systems += record.messages[0].role == "system"
        self._prompt_chars[sum(len(message.content) for message in record.messages[:-1])] += 1
        self._answer_chars[len(record.messages[-1].content)] += 1

    def to_json(self) -> dict[str, Any]:
        return {
            "queries": len(self._queries),
            "with_system": self._systems,
            "turns": _total(self._turns.items()),
            "turns_per_row": _per_row(self._turns, self._rows),
            "prompt_chars": _spread(self._prompt_chars),
            "answer_chars": _spread(self._answer_chars),
        }


_PARTS: dict[Kind, Callable[[], _GroupPart | _LabelledPart | _PairPart | _ChatPart]] = {
    "group": _GroupPart,
    "labelled": _LabelledPart,
    "pair": _PairPart,
    "chat": _ChatPart,
}


class SideStatistics:
    """Gathers the statistics of one side's kept records."""

    def __init__(self, kind: Kind = "group", tokens: TokenStatistics | None = None) -> None:
        """Start empty; `tokens`, where a tokenizer is given, holds this side's tokens."""
        self.rows = 0
        self.tokens = tokens
        self._part = _PARTS[kind]()
        self._scripts: Counter[str] = Counter()

    def add(self, record: Record, measured: Measured | None = None) -> None:
        """Count one kept record, and its tokens where they were counted."""
        self.rows += 1
        self._part.add(record)
        self._scripts.update(map(find_script, record.texts))
        if self.tokens and measured:
            self.tokens.add(measured)

    def leave_out(self, code: str) -> None:
        """Count one group that is not kept because nothing can be learnt from it."""
        if isinstance(self._part, _LabelledPart):
            self._part.left_out[code] += 1

    def to_json(self) -> dict[str, Any]:
        """Return one side of stats.json; `scripts` counts texts by their main script."""
        found = {"rows": self.rows} | self._part.to_json()
        found["scripts"] = dict(sorted(self._scripts.items(), key=lambda item: (-item[1], item[0])))
        return found | ({"tokens": self.tokens.to_json()} if self.tokens else {})


def _per_row(histogram: Counter[int], rows: int) -> dict[str, float]:
    if not rows:
        return {"min": 0, "mean": 0.0, "max": 0}
    mean = round(_total(histogram.items()) / rows, 4)
    return {"min": min(histogram), "mean": mean, "max": max(histogram)}


def _total(items: Iterable[tuple[int, int]]) -> int:
    return sum(value * count for value, count in items)


def _spread(histogram: Counter[int]) -> dict[str, int]:
    found = find_percentiles(histogram)
    return {"min": found.low, "p50": found.p50, "p95": found.p95, "p99": found.p99, "max": found.high}
