"""How the labels of one side lie, what a query's documents are, and what a teacher thinks of both."""

from __future__ import annotations

import heapq
import math
from array import array
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from orchestrator.data.digests import DigestMap, digest, query_key
from orchestrator.data.rows.groups import RankingGroup
from orchestrator.data.rows.labelled import LabelledGroup
from orchestrator.recipe.relevance import is_relevant

_DISTINCT = 20
_BINS = 10
_EXAMPLES = 10


class _Range:
    """The lowest, mean and highest of numbers."""

    def __init__(self) -> None:
        self._low, self._high, self._sum, self._count = math.inf, -math.inf, 0.0, 0

    def add(self, numbers: Iterable[float]) -> None:
        for number in numbers:
            self._low = min(self._low, number)
            self._high = max(self._high, number)
            self._sum += number
            self._count += 1

    def to_json(self) -> dict[str, float]:
        if not self._count:
            return {"lowest": 0.0, "mean": 0.0, "highest": 0.0}
        mean = self._sum / self._count
        if not math.isfinite(mean):  # the sum is beyond floats, and JSON has no infinity
            mean = self._low / 2 + self._high / 2
        return {"lowest": self._low, "mean": round(mean, 4), "highest": self._high}


class LabelCounts:
    """The distribution of labels from 0 to 1: each of them with its count, or ten bins where there are more than 20."""

    def __init__(self) -> None:
        self._range = _Range()
        self._distinct: Counter[float] = Counter()
        self._many = False
        self._bins = [0] * _BINS

    def add(self, labels: Sequence[float]) -> None:
        """Count the labels of one record."""
        self._range.add(labels)
        for label in labels:
            self._bins[min(int(label * _BINS), _BINS - 1)] += 1
            if label in self._distinct or len(self._distinct) < _DISTINCT:
                self._distinct[label] += 1
            else:
                self._many = True

    def to_json(self) -> dict[str, Any]:
        """Return stats.json's `labels`."""
        found: dict[str, Any] = self._range.to_json()
        if self._many:
            edges = [place / _BINS for place in range(_BINS + 1)]
            bins = zip(edges, edges[1:], self._bins, strict=False)
            return found | {"bins": [{"from": low, "to": high, "count": count} for low, high, count in bins]}
        counts = [{"label": label, "count": count} for label, count in sorted(self._distinct.items())]
        return found | {"counts": counts}


class QueryGroups:
    """How many documents each query has over all rows, and whether their labels differ; some 80 bytes a query."""

    def __init__(self) -> None:
        self._queries = DigestMap()
        self._documents = array("L")
        self._low, self._high = array("d"), array("d")

    def __len__(self) -> int:
        return len(self._documents)

    def add(self, group: LabelledGroup) -> None:
        """Count one record."""
        number = self._queries.put(digest((query_key(group.query),)), len(self._documents))
        low, high = min(group.labels), max(group.labels)
        if number == len(self._documents):
            self._documents.append(0)
            self._low.append(low)
            self._high.append(high)
        self._documents[number] += len(group.documents)
        self._low[number] = min(self._low[number], low)
        self._high[number] = max(self._high[number], high)

    def to_json(self, left_out: Counter[str]) -> dict[str, Any]:
        """Return stats.json's `groups`; `left_out` holds those that are not kept, by their reason."""
        documents = _Range()
        documents.add(self._documents)
        found = documents.to_json()
        small = sum(count == 1 for count in self._documents)
        ranges = zip(self._documents, self._low, self._high, strict=True)
        one_label = sum(count > 1 and low == high for count, low, high in ranges)
        return {
            "count": len(self),
            "documents": {"lowest": int(found["lowest"]), "mean": found["mean"], "highest": int(found["highest"])},
            "one_label": one_label + left_out["one-label"],
            "too_small": small + left_out["one-document"],
        }


class TeacherAudit:
    """How a teacher's scores lie, and which negatives it puts above a positive of their row."""

    def __init__(self) -> None:
        self._range = _Range()
        self._rows = self._negatives = self._of_negatives = self._met = 0
        # The widest gaps so far, the narrowest of them first; of equal gaps the earlier row stays.
        self._widest: list[tuple[float, int, dict[str, Any]]] = []

    @property
    def empty(self) -> bool:
        """Whether no record had scores."""
        return not self._met

    def add(self, record: RankingGroup | LabelledGroup) -> None:
        """Look at one record, if it has scores."""
        if isinstance(record, RankingGroup):
            if record.positive_scores is None:
                return
            positives = list(zip(record.positive_scores, record.positives, strict=True))
            negatives = list(zip(record.negative_scores or (), record.negatives, strict=True))
        else:
            if record.scores is None:
                return
            scored = list(zip(record.labels, record.scores, record.documents, strict=True))
            positives = [(score, text) for label, score, text in scored if is_relevant(label)]
            negatives = [(score, text) for label, score, text in scored if not is_relevant(label)]
        self._met += 1
        self._range.add(score for score, _ in (*positives, *negatives))
        if positives and negatives:
            self._compare(record, positives, negatives)

    def _compare(
        self,
        record: RankingGroup | LabelledGroup,
        positives: list[tuple[float, str]],
        negatives: list[tuple[float, str]],
    ) -> None:
        self._of_negatives += len(negatives)
        lowest, positive = min(positives, key=lambda found: found[0])
        above = sum(score > lowest for score, _ in negatives)
        if not above:
            return
        self._rows += 1
        self._negatives += above
        highest, negative = max(negatives, key=lambda found: found[0])
        example = {
            "query": record.query,
            "positive": positive,
            "positive_score": lowest,
            "negative": negative,
            "negative_score": highest,
            "source": record.source,
            "line": record.line,
        }
        entry = (highest - lowest, -self._met, example)
        if len(self._widest) < _EXAMPLES:
            heapq.heappush(self._widest, entry)
        else:
            heapq.heappushpop(self._widest, entry)

    def to_json(self) -> dict[str, Any]:
        """Return stats.json's `teacher`; the examples are at most ten, one a row, the widest gap first."""
        found: dict[str, Any] = self._range.to_json()
        found["false_negatives"] = {
            "rows": self._rows,
            "negatives": self._negatives,
            "of_negatives": self._of_negatives,
            "examples": [example for _, _, example in sorted(self._widest, key=lambda entry: entry[:2], reverse=True)],
        }
        return found
