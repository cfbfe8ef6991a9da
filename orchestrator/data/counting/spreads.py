"""Exact percentiles of whole numbers, and the script of a text: what statistics are made of."""

from __future__ import annotations

import re
import unicodedata
from bisect import bisect_left
from collections import Counter
from dataclasses import dataclass
from itertools import accumulate

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
