"""Statistics of the kept rows of one side: lengths, labels, scores, groups; bounded memory however many rows."""

from __future__ import annotations

import heapq
import math
import re
import unicodedata
from array import array
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

from orchestrator.data.digests import DigestMap, DigestSet, digest, query_key
from orchestrator.data.reading.readers import show_path
from orchestrator.data.rows import records
from orchestrator.data.rows.records import Chat, Kind, LabelledGroup, RankingGroup, Record, ScoredPair, is_relevant
from orchestrator.data.tokens import LengthRule, Measured

_DISTINCT = 20
_BINS = 10
_EXAMPLES = 10

# What is counted once a row: written as a total, and as lowest, mean and highest of a row.
_PER_ROW: dict[Kind, dict[str, Callable[[Any], int]]] = {
    "group": {"positives": lambda row: len(row.positives), "negatives": lambda row: len(row.negatives)},
    "chat": {"turns": lambda row: sum(message.role == "assistant" for message in row.messages)},
}
_RANKED: dict[str, Callable[[Any], Iterable[int]]] = {
    "query": lambda row: (len(row.query),),
    "document": lambda row: map(len, row.documents),
}
# Whose characters are counted: written as percentiles.
_CHARS: dict[Kind, dict[str, Callable[[Any], Iterable[int]]]] = {
    "group": _RANKED,
    "labelled": _RANKED,
    "pair": {"text": lambda row: (len(row.text1), len(row.text2))},
    "class": {"text": lambda row: (len(row.text),)},
    "chat": {
        "prompt": lambda row: (sum(len(message.content) for message in row.messages[:-1]),),
        "answer": lambda row: (len(row.messages[-1].content),),
    },
}


class SideStatistics:
    """Gathers the statistics of one side's kept records."""

    def __init__(self, kind: Kind = "group", tokens: TokenStatistics | None = None) -> None:
        """Start empty; `tokens`, where a tokenizer is given, holds this side's tokens."""
        self.rows = 0
        self.tokens = tokens
        self._kind = kind
        self._per_row: dict[str, Counter[int]] = {name: Counter() for name in _PER_ROW.get(kind, {})}
        self._chars: dict[str, Counter[int]] = {name: Counter() for name in _CHARS[kind]}
        self._scripts: Counter[str] = Counter()
        self._queries = DigestSet(exact=False)
        self._groups = QueryGroups()
        self._left_out: Counter[str] = Counter()
        self._labels = Numbers()
        self._scores = Numbers()
        self._teacher = TeacherAudit()
        self._systems = 0
        self._classes = set[str]()

    def add(self, record: Record, measured: Measured | None = None) -> None:
        """Count one kept record, and its tokens where they were counted."""
        self.rows += 1
        for name, count in _PER_ROW.get(self._kind, {}).items():
            self._per_row[name][count(record)] += 1
        for name, lengths in _CHARS[self._kind].items():
            chars = self._chars[name]
            for length in lengths(record):  # three times as fast as Counter.update
                chars[length] += 1
        if isinstance(record, LabelledGroup):
            self._groups.add(record)
            self._labels.add_labels(record.labels)
        else:
            self._queries.add(digest((query_key(record.split_text),)))
        if isinstance(record, RankingGroup | LabelledGroup):
            self._teacher.add(record)
        elif isinstance(record, ScoredPair):
            self._scores.add((record.score,))
        elif isinstance(record, records.ClassText):
            self._classes.add(record.label)
        elif isinstance(record, Chat):
            self._systems += record.messages[0].role == "system"
        self._count_scripts(record.texts)
        if self.tokens and measured:
            self.tokens.add(measured)

    def _count_scripts(self, texts: Sequence[str]) -> None:
        if "".join([text[:_SCRIPT_SAMPLE_CHARS] for text in texts]).isascii():
            first = "".join([text[:1] for text in texts])
            if first.isalpha() and len(first) == len(texts):  # as most English rows are
                self._scripts["latin"] += len(texts)
                return
        self._scripts.update(map(find_script, texts))

    def leave_out(self, code: str) -> None:
        """Count one group that is not kept because nothing can be learnt from it."""
        self._left_out[code] += 1

    def to_json(self) -> dict[str, Any]:
        """Return one side of stats.json; `scripts` counts texts by their main script."""
        found: dict[str, Any] = {"rows": self.rows, "queries": len(self._queries) or len(self._groups)}
        if self._kind == "chat":
            found["with_system"] = self._systems
        elif self._kind == "pair":
            distinct = self._scores.distinct
            listed = None if distinct is None else [{"score": s, "rows": n} for s, n in sorted(distinct.items())]
            found["scores"] = self._scores.describe("min", "mean", "max") | {"distinct": listed}
        elif self._kind == "class":
            found["classes"] = len(self._classes)
        elif self._kind == "labelled":
            found["documents"] = self._chars["document"].total()
            found |= {"labels": self._labels.describe_labels(), "groups": self._groups.to_json(self._left_out)}
        found |= {name: _total(histogram) for name, histogram in self._per_row.items()}
        found |= {f"{name}_per_row": _describe_per_row(histogram) for name, histogram in self._per_row.items()}
        found |= {f"{name}_chars": find_percentiles(histogram) for name, histogram in self._chars.items()}
        if not self._teacher.empty:
            found["teacher"] = self._teacher.to_json()
        found["scripts"] = dict(sorted(self._scripts.items(), key=lambda item: (-item[1], item[0])))
        return found | ({"tokens": self.tokens.to_json()} if self.tokens else {})


def _total(histogram: Counter[int]) -> int:
    return sum(value * count for value, count in histogram.items())


def _describe_per_row(histogram: Counter[int]) -> dict[str, float]:
    if not histogram:
        return {"min": 0, "mean": 0.0, "max": 0}
    mean = round(_total(histogram) / histogram.total(), 4)
    return {"min": min(histogram), "mean": mean, "max": max(histogram)}


def find_percentiles(histogram: Counter[int]) -> dict[str, int]:
    """Return min, p50, p95, p99 and max of a histogram (value → how often), by nearest rank: values that occurred.

    All are 0 when it is empty.
    """
    if not histogram:
        return dict.fromkeys(("min", "p50", "p95", "p99", "max"), 0)
    ordered = sorted(histogram.items())
    reached = list(accumulate(count for _, count in ordered))
    ranks = {f"p{share}": ordered[bisect_left(reached, -(-share * reached[-1] // 100))][0] for share in (50, 95, 99)}
    return {"min": ordered[0][0], **ranks, "max": ordered[-1][0]}


class Numbers:
    """The lowest, mean and highest of numbers, and how often each came while there are at most 20 of them.

    Labels from 0 to 1 are counted in ten bins as well, for where there are more of them.
    """

    def __init__(self) -> None:
        self.distinct: Counter[float] | None = Counter()
        self.count = 0
        self._low, self._high, self._sum = math.inf, -math.inf, 0.0
        self._bins = [0] * _BINS

    def add(self, numbers: Iterable[float]) -> None:
        """Count numbers."""
        for number in numbers:
            self._low = min(self._low, number)
            self._high = max(self._high, number)
            self._sum += number
            self.count += 1
            if self.distinct is not None:
                self.distinct[number] += 1
                if len(self.distinct) > _DISTINCT:  # the first met would say nothing of the others
                    self.distinct = None

    def add_labels(self, labels: Sequence[float]) -> None:
        """Count the labels of one record."""
        self.add(labels)
        for label in labels:
            self._bins[min(int(label * _BINS), _BINS - 1)] += 1

    def describe(self, *names: str) -> dict[str, Any]:
        """Return lowest, mean and highest under these names; zeros of none."""
        mean = self._sum / (self.count or 1)
        if not math.isfinite(mean):  # the sum is beyond floats, and JSON has no infinity
            mean = self._low / 2 + self._high / 2
        low, high = (self._low, self._high) if self.count else (0.0, 0.0)
        return dict(zip(names or ("lowest", "mean", "highest"), (low, round(mean, 4), high), strict=True))

    def describe_labels(self) -> dict[str, Any]:
        """Return stats.json's `labels`: each of them with its count, or ten bins where there are more than 20."""
        if self.distinct is not None:
            counts = [{"label": label, "count": count} for label, count in sorted(self.distinct.items())]
            return self.describe() | {"counts": counts}
        bins = enumerate(self._bins)
        bars = [{"from": n / _BINS, "to": (n + 1) / _BINS, "count": count} for n, count in bins]
        return self.describe() | {"bins": bars}


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
        sizes = _describe_per_row(Counter(self._documents))
        ranges = zip(self._documents, self._low, self._high, strict=True)
        one_label = sum(count > 1 and low == high for count, low, high in ranges)
        return {
            "count": len(self),
            "documents": {"lowest": sizes["min"], "mean": sizes["mean"], "highest": sizes["max"]},
            "one_label": one_label + left_out["one-label"],
            "too_small": sum(count == 1 for count in self._documents) + left_out["one-document"],
        }


class TeacherAudit:
    """How a teacher's scores lie, and which negatives it puts above a positive of their row.

    Each contradicts the row's labels. `evaluation.false_negatives` finds fewer for a system: those above every relevant
    document of their query.
    """

    def __init__(self) -> None:
        self._range = Numbers()
        self._rows = self._negatives = self._of_negatives = self._met = 0
        # The widest gaps so far, the narrowest of them first; of equal gaps the earlier row stays.
        self._widest: list[tuple[float, int, dict[str, Any]]] = []

    @property
    def empty(self) -> bool:
        """Whether no record had scores."""
        return not self._met

    def add(self, record: RankingGroup | LabelledGroup) -> None:
        """Look at one record, if it has scores."""
        if record.scores is None:
            return
        self._met += 1
        self._range.add(record.scores)
        scored = list(zip(record.labels, record.scores, record.documents, strict=True))
        positives = [(score, text) for label, score, text in scored if is_relevant(label)]
        negatives = [(score, text) for label, score, text in scored if not is_relevant(label)]
        if not (positives and negatives):
            return
        self._of_negatives += len(negatives)
        lowest, positive = min(positives, key=lambda found: found[0])
        above = sum(score > lowest for score, _ in negatives)
        if not above:
            return
        self._rows += 1
        self._negatives += above
        highest, negative = max(negatives, key=lambda found: found[0])
        example = {
            "query": record.split_text,
            "positive": positive,
            "positive_score": lowest,
            "negative": negative,
            "negative_score": highest,
            "source": record.source,
            "line": record.line,
        }
        heapq.heappush(self._widest, (highest - lowest, -self._met, example))
        if len(self._widest) > _EXAMPLES:
            heapq.heappop(self._widest)

    def to_json(self) -> dict[str, Any]:
        """Return stats.json's `teacher`; the examples are at most ten, one a row, the widest gap first."""
        return self._range.describe() | {
            "false_negatives": {
                "rows": self._rows,
                "negatives": self._negatives,
                "of_negatives": self._of_negatives,
                "examples": [example for _, _, example in sorted(self._widest, reverse=True)],
            }
        }


class TokenStatistics:
    """Sums up the tokens of one side's kept records."""

    def __init__(self, rule: LengthRule, path: Path | None) -> None:
        """Start empty; `path` is the tokenizer's, None where tokens are estimated."""
        self.cut: Counter[str] = Counter()
        self.tokens_cut = self._paired = 0
        self._rule = rule
        self._path = path
        self._lengths: dict[str, Counter[int]] = {part: Counter() for part in rule.parts}

    def add(self, measured: Measured) -> None:
        """Count one record."""
        for part, lengths in measured.lengths.items():
            self._lengths[part].update(lengths)
        self.cut.update(measured.cut)
        self.tokens_cut += measured.tokens_cut
        self._paired += measured.paired

    def describe_cut(self) -> str:
        """Return what is cut, for the warning."""
        parts = ", ".join(f"{self.cut[part]} {_plural(part)}" for part in self._rule.parts)
        return f"{parts}, {self.tokens_cut} tokens in all"

    def to_json(self) -> dict[str, Any]:
        """Return stats.json's `tokens` of one side: the lengths of each part, and what is cut, if known.

        Means are of what is read: of a text up to its limit, of a `pair` where query and document are one sequence.
        """
        found: dict[str, Any] = {}
        for name, histogram in self._lengths.items():
            spread, most = find_percentiles(histogram), self._rule.most.get(name, math.inf)
            read = sum(min(length, most) * count for length, count in histogram.items())
            found[name] = {key: spread[key] for key in ("p50", "p95", "max")}
            found[name]["mean"] = round(read / (histogram.total() or 1), 1)
        if self._rule.frame:
            found["pair_mean"] = round(self._paired / (self._lengths["document"].total() or 1), 1)
        if self._rule.find_cut:
            found |= {f"{_plural(part)}_cut": self.cut[part] for part in self._rule.parts}
            found["tokens_cut"] = self.tokens_cut
        return found | {"tokenizer": show_path(self._path) if self._path else None}


def _plural(part: str) -> str:
    return {"query": "queries"}.get(part, f"{part}s")


_SCRIPT_SAMPLE_CHARS = 32
_ASCII_LETTER = re.compile("[A-Za-z]")
_HAN = re.compile("[\u4e00-\u9fef]+")
_SCRIPT_NAMES = {"cjk": "han", "hiragana": "kana", "katakana": "kana", "halfwidth": "kana", "fullwidth": "latin"}


class _ScriptOf(dict[str, str]):
    """Character → script ("" when it is not a letter), filled as characters are met."""

    def __missing__(self, character: str) -> str:
        script = ""
        if character.isalpha():
            first = unicodedata.name(character, "OTHER").split()[0].lower()
            script = _SCRIPT_NAMES.get(first, first)
        self[character] = script
        return script


_SCRIPT_OF = _ScriptOf()


def find_script(text: str) -> str:
    """Return the script of most letters in the first 32 characters, such as "latin" or "han", else "none"."""
    sample = text[:_SCRIPT_SAMPLE_CHARS]
    if sample.isascii():
        return "latin" if _ASCII_LETTER.search(sample) else "none"
    if 2 * sum(map(len, _HAN.findall(sample))) > len(sample):
        return "han"
    counts = Counter(map(_SCRIPT_OF.__getitem__, sample))
    del counts[""]
    return max(sorted(counts), key=counts.__getitem__) if counts else "none"
