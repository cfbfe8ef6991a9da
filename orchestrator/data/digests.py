"""Texts become keys and 16-byte digests: what counts as the same query, document or row."""

from __future__ import annotations

import re
import unicodedata
from array import array
from collections.abc import Iterable
from hashlib import blake2b
from struct import Struct

DIGEST_BYTES = 16
NORMALISED = "normalised: width, case and invisible characters set aside"  # how `loose_key` compares, for messages
_HALVES = Struct("<QQ")
_LENGTH = Struct("<Q")
# What shows nothing by itself: Unicode's Default_Ignorable_Code_Point (DerivedCoreProperties.txt, Unicode 15).
_INVISIBLE = re.compile(
    "[\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e\u2060-\u206f\u3164\ufe00-\ufe0f"
    "\ufeff\uffa0\ufff0-\ufff8\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff]"
)


# Chinese and Japanese texts are full of these, and the library takes fifty times as long over a text with one of them.
_OFTEN = tuple((wide, unicodedata.normalize("NFKC", wide)) for wide in "，：；？！（）～…\u3000")
_WIDE = {wide: wide - 0xFEE0 for wide in range(0xFF01, 0xFF5F)}


def document_key(text: str) -> str:
    """Return what makes two documents the same: the text in NFC with white space collapsed."""
    if not text.isascii():
        text = unicodedata.normalize("NFC", text)
    return " ".join(text.split())


def query_key(text: str) -> str:
    """Return what makes two queries the same: NFC, white space collapsed, case folded."""
    folded = document_key(text).casefold()
    return folded if folded.isascii() else unicodedata.normalize("NFC", folded)


def loose_key(text: str) -> str:
    """Return what leaks and contradictions go by: the text in NFKC, case folded, without what is invisible.

    Full-width letters are those of ASCII then, a zero-width space is nothing, and white space is collapsed.
    """
    if text.isascii():
        return " ".join(text.split()).lower()
    text = _INVISIBLE.sub("", text)
    for wide, narrow in _OFTEN:
        text = text.replace(wide, narrow)
    if not unicodedata.is_normalized("NFKC", text):
        text = unicodedata.normalize("NFKC", text.translate(_WIDE))
    return " ".join(unicodedata.normalize("NFKC", text.casefold()).split())


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


class DigestMap:
    """Digests → numbers below 2**64, in one flat table: 36 to 72 bytes each."""

    def __init__(self) -> None:
        self._count = 0
        self._mask = 1023
        self._table = array("Q", bytes(24 * (self._mask + 1)))

    def __len__(self) -> int:
        return self._count

    def get(self, key: bytes) -> int | None:
        """Return the number of `key` (16 bytes), or None."""
        low, high = _HALVES.unpack(key)
        slot = self._slot(low, high or 1)
        return self._table[slot + 2] if self._table[slot + 1] else None

    def put(self, key: bytes, number: int) -> int:
        """Return the number of `key`, which is `number` where it had none."""
        low, high = _HALVES.unpack(key)
        high = high or 1  # a zero marks a free slot
        table, slot = self._table, self._slot(low, high)
        if table[slot + 1]:
            return table[slot + 2]
        table[slot], table[slot + 1], table[slot + 2] = low, high, number
        self._count += 1
        if self._count * 3 > self._mask * 2:
            self._grow()
        return number

    def _slot(self, low: int, high: int) -> int:
        """Return the index of the pair (low, high) in the table, or of the free place where it belongs."""
        table, mask = self._table, self._mask
        place = low & mask
        while True:
            slot = 3 * place
            found = table[slot + 1]
            if not found or (found == high and table[slot] == low):
                return slot
            place = (place + 1) & mask

    def _grow(self) -> None:
        old = self._table
        self._mask = 2 * self._mask + 1
        self._table = array("Q", bytes(24 * (self._mask + 1)))
        for index in range(0, len(old), 3):
            if old[index + 1]:
                slot = self._slot(old[index], old[index + 1])
                self._table[slot : slot + 3] = old[index : index + 3]
