"""Texts become keys and 16-byte digests: what counts as the same query, document or row."""

from __future__ import annotations

import unicodedata
from array import array
from hashlib import blake2b
from struct import Struct
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

DIGEST_BYTES = 16
_HALVES = Struct("<QQ")
_LENGTH = Struct("<Q")


def document_key(text: str) -> str:
    """Return what makes two documents the same: the text in NFC with white space collapsed."""
    if not text.isascii():
        text = unicodedata.normalize("NFC", text)
    return " ".join(text.split())


def query_key(text: str) -> str:
    """Return what makes two queries the same: NFC, white space collapsed, case folded."""
    folded = document_key(text).casefold()
    return folded if folded.isascii() else unicodedata.normalize("NFC", folded)


def digest(parts: Iterable[str]) -> bytes:
    """Return the 16-byte BLAKE2b digest of a sequence of texts; ("ab", "c") and ("a", "bc") differ."""
    state = blake2b(digest_size=DIGEST_BYTES)
    for part in parts:
        data = part.encode()
        state.update(_LENGTH.pack(len(data)))
        state.update(data)
    return state.digest()


class DigestSet:
    """A set of 16-byte digests in one flat table: 24 to 48 bytes each, where a set of `bytes` needs about 130."""

    def __init__(self) -> None:
        self._count = 0
        self._mask = 1023
        self._table = array("Q", bytes(16 * (self._mask + 1)))

    def __len__(self) -> int:
        return self._count

    def __contains__(self, key: bytes) -> bool:
        low, high = _HALVES.unpack(key)
        return self._table[self._slot(low, high or 1) + 1] != 0

    def add(self, key: bytes) -> bool:
        """Add `key` (16 bytes); return False if it was in the set already."""
        low, high = _HALVES.unpack(key)
        high = high or 1  # a zero marks a free slot
        slot = self._slot(low, high)
        if self._table[slot + 1]:
            return False
        self._table[slot], self._table[slot + 1] = low, high
        self._count += 1
        if self._count * 3 > self._mask * 2:
            self._grow()
        return True

    def _slot(self, low: int, high: int) -> int:
        """Return the index of the pair (low, high) in the table, or of the free place where it belongs."""
        table, mask = self._table, self._mask
        place = low & mask
        while True:
            slot = 2 * place
            found = table[slot + 1]
            if not found or (found == high and table[slot] == low):
                return slot
            place = (place + 1) & mask

    def _grow(self) -> None:
        old = self._table
        self._mask = 2 * self._mask + 1
        self._table = array("Q", bytes(16 * (self._mask + 1)))
        for index in range(0, len(old), 2):
            low, high = old[index], old[index + 1]
            if high:
                slot = self._slot(low, high)
                self._table[slot], self._table[slot + 1] = low, high


def short_digest(parts: Iterable[str]) -> int:
    """Return 8 bytes of `digest` as a number: among a hundred million texts two agree once in four thousand times."""
    low: int = _HALVES.unpack(digest(parts))[0]
    return low


class DigestMap:
    """Short digests → numbers below 2**64, in one flat table: 24 to 48 bytes each."""

    def __init__(self) -> None:
        self._count = 0
        self._mask = 1023
        self._table = array("Q", bytes(16 * (self._mask + 1)))

    def __len__(self) -> int:
        return self._count

    def get(self, key: int) -> int | None:
        """Return the number of `key`, or None."""
        slot = self._slot(key or 1)
        return self._table[slot + 1] if self._table[slot] else None

    def put(self, key: int, number: int) -> int:
        """Return the number of `key`, which is `number` where it had none."""
        key = key or 1  # a zero marks a free slot
        slot = self._slot(key)
        if self._table[slot]:
            return self._table[slot + 1]
        self._table[slot], self._table[slot + 1] = key, number
        self._count += 1
        if self._count * 3 > self._mask * 2:
            self._grow()
        return number

    def _slot(self, key: int) -> int:
        """Return the index of `key` in the table, or of the free place where it belongs."""
        table, mask = self._table, self._mask
        place = key & mask
        while table[2 * place] not in (0, key):
            place = (place + 1) & mask
        return 2 * place

    def _grow(self) -> None:
        old = self._table
        self._mask = 2 * self._mask + 1
        self._table = array("Q", bytes(16 * (self._mask + 1)))
        for index in range(0, len(old), 2):
            if old[index]:
                slot = self._slot(old[index])
                self._table[slot], self._table[slot + 1] = old[index], old[index + 1]
