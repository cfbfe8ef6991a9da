"""Scores by 16-byte digest in one flat table: at most 72 bytes each, where a dict of bytes needs about 200."""

from __future__ import annotations

from array import array
from struct import Struct

_HALVES = Struct("<QQ")


class ScoreTable:
    """A table for at most `capacity` digests; the first score of a digest counts."""

    def __init__(self, capacity: int) -> None:
        size = 16
        while size * 2 < capacity * 3:
            size *= 2
        self._mask = size - 1
        self._keys = array("Q", bytes(16 * size))
        self._scores = array("d", bytes(8 * size))

    def add(self, key: bytes, score: float) -> None:
        """Keep the score of `key` (16 bytes), unless it has one."""
        low, high = _HALVES.unpack(key)
        place = self._find(low, high or 1)
        if not self._keys[2 * place + 1]:
            self._keys[2 * place], self._keys[2 * place + 1] = low, high or 1  # a zero marks a free place
            self._scores[place] = score

    def get(self, key: bytes) -> float | None:
        """Return the score of `key`, or None."""
        low, high = _HALVES.unpack(key)
        place = self._find(low, high or 1)
        return self._scores[place] if self._keys[2 * place + 1] else None

    def _find(self, low: int, high: int) -> int:
        """Return the place of the pair (low, high), or the free one where it belongs."""
        keys, place = self._keys, low & self._mask
        while keys[2 * place + 1] and (keys[2 * place] != low or keys[2 * place + 1] != high):
            place = (place + 1) & self._mask
        return place
