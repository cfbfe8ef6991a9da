"""Statistics of the kept rows: counts, exact percentiles of lengths, scripts; bounded memory however many rows."""

from __future__ import annotations

import re
import unicodedata
from bisect import bisect_left
from collections import Counter
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING, Any

from orchestrator.data.digests import DigestSet, digest, query_key

if TYPE_CHECKING:
    from collections.abc import Iterable

    from orchestrator.data.groups import RankingGroup
    from orchestrator.data.tokens import TokenCounter

_SCRIPT_SAMPLE_CHARS = 32
_ASCII_LETTER = re.compile("[A-Za-z]")
_SCRIPT_NAMES = {"cjk": "han", "hiragana": "kana", "katakana": "kana", "halfwidth": "kana", "fullwidth": "latin"}


@dataclass(frozen=True)
class Percentiles:
    """Nearest-rank percentiles of whole numbers: each is a value that occurred."""

    low: int
    p50: int
    p95: int
    p99: int
    high: int


def find_percentiles(histogram: Counter[int]) -> Percentiles:
    """Return the percentiles of a histogram (value → how often); all are 0 when it is empty."""
    total = histogram.total()
    if not total:
        return Percentiles(0, 0, 0, 0, 0)
    ordered = sorted(histogram.items())
    reached = list(accumulate(count for _, count in ordered))
    p50, p95, p99 = (ordered[bisect_left(reached, -(-share * total // 100))][0] for share in (50, 95, 99))
    return Percentiles(ordered[0][0], p50, p95, p99, ordered[-1][0])


class _ScriptOf(dict[str, str]):
    """Character → script ("" when it is no letter), filled as characters are met."""

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
    counts = Counter(map(_SCRIPT_OF.__getitem__, sample))
    del counts[""]
    return max(sorted(counts), key=counts.__getitem__) if counts else "none"


class SideStatistics:
    """Gathers the statistics of one side's kept groups."""

    def __init__(self, tokens: TokenCounter | None = None) -> None:
        """Start empty; `tokens`, where a tokenizer is given, counts this side's tokens."""
        self.rows = 0
        self._queries = DigestSet()
        self._positives: Counter[int] = Counter()
        self._negatives: Counter[int] = Counter()
        self._query_chars: Counter[int] = Counter()
        self._document_chars: Counter[int] = Counter()
        self._scripts: Counter[str] = Counter()
        self._tokens = tokens

    def add(self, group: RankingGroup) -> None:
        """Count one kept group."""
        self.rows += 1
        self._queries.add(digest((query_key(group.query),)))
        self._positives[len(group.positives)] += 1
        self._negatives[len(group.negatives)] += 1
        self._query_chars[len(group.query)] += 1
        documents = group.positives + group.negatives
        self._document_chars.update(map(len, documents))
        self._scripts[find_script(group.query)] += 1
        self._scripts.update(map(find_script, documents))
        if self._tokens:
            self._tokens.add(group)

    def to_json(self) -> dict[str, Any]:
        """Return one side of stats.json; `scripts` counts texts (queries and documents) by their main script."""
        found = {
            "rows": self.rows,
            "queries": len(self._queries),
            "positives": _total(self._positives.items()),
            "negatives": _total(self._negatives.items()),
            "positives_per_row": self._per_row(self._positives),
            "negatives_per_row": self._per_row(self._negatives),
            "query_chars": _spread(self._query_chars),
            "document_chars": _spread(self._document_chars),
            "scripts": dict(sorted(self._scripts.items(), key=lambda item: (-item[1], item[0]))),
        }
        return found | ({"tokens": self._tokens.to_json()} if self._tokens else {})

    def _per_row(self, histogram: Counter[int]) -> dict[str, float]:
        if not self.rows:
            return {"min": 0, "mean": 0.0, "max": 0}
        mean = round(_total(histogram.items()) / self.rows, 4)
        return {"min": min(histogram), "mean": mean, "max": max(histogram)}


def _total(items: Iterable[tuple[int, int]]) -> int:
    return sum(value * count for value, count in items)


def _spread(histogram: Counter[int]) -> dict[str, int]:
    found = find_percentiles(histogram)
    return {"min": found.low, "p50": found.p50, "p95": found.p95, "p99": found.p99, "max": found.high}
