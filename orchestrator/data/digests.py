"""Texts become keys and 16-byte digests: what counts as the same query, document or row."""

from __future__ import annotations

import re
import unicodedata
from array import array
from collections.abc import Iterable, Sequence
from hashlib import blake2b
from struct import Struct

DIGEST_BYTES = 16
NORMALISED = "normalised: width, case and invisible characters set aside"  # how `loose_key` compares, for messages
_HALVES = Struct("<QQ")
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
    if text.isprintable() and "  " not in text and text[:1] != " " != text[-1:]:  # all white space but the blank is not
        return text
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


def are_distinct(texts: Sequence[str]) -> bool:
    """Whether no two texts have one `loose_key`; where their first letters tell them apart, the others are not read."""
    heads = [text[:_HEAD] for text in texts]
    joined = "".join(heads)
    if "  " not in joined and (_STABLE.fullmatch(joined) if not joined.isascii() else joined.isprintable()):
        openings = {head.replace(" ", "").lower()[:_OPENING] for head in heads}
        if len(openings) == len(texts):
            return True
    return len(set(map(loose_key, texts))) == len(texts)


_HEAD = 48
_OPENING = _HEAD // 2 - 1  # letters that are there with a blank before each, and one in front of an accent
_STABLE = re.compile("[ -~\u3001\u3002\u4e00-\u9fff“”‘’—]*")  # of which `loose_key` changes the case alone


def digest(parts: Iterable[str]) -> bytes:
    """Return the 16-byte BLAKE2b digest of a sequence of texts; ("ab", "c") and ("a", "bc") differ."""
    framed = bytearray()
    for part in parts:
        data = part.encode()
        framed += len(data).to_bytes(8, "little")
        framed += data
    return blake2b(framed, digest_size=DIGEST_BYTES).digest()


_FEW = 1 << 16


class DigestMap:
    """16-byte digests → numbers below 2**64: the first 65,536 in a dict, then all in one flat table.

    In the table they take 36 to 72 bytes each, where a dict of bytes needs about 150; it is ten times as slow.
    """

    def __init__(self, *, words: int = 3) -> None:
        """Keep of each digest so many words of 64 bits: its high half, its low half, its number."""
        self._few: dict[bytes, int] | None = {}
        self._count = 0
        self._words = words
        self._mask = max(1024, 2 * _FEW) - 1  # slots, a power of two, without one
        self._table = array("Q")

    def __len__(self) -> int:
        return self._count if self._few is None else len(self._few)

    def __contains__(self, key: bytes) -> bool:
        return self.get(key) is not None

    def get(self, key: bytes) -> int | None:
        """Return the number of `key`, or None."""
        if self._few is not None:
            return self._few.get(key)
        slot = self._slot(*_split(key))
        if not self._table[slot]:
            return None
        return self._table[slot + 2] if self._words > _NUMBER else 0

    def put(self, key: bytes, number: int) -> int:
        """Return the number of `key`, which is `number` where it had none."""
        if self._few is not None:
            found = self._few.setdefault(key, number)
            if len(self._few) > _FEW:
                self._spread()
            return found
        low, high = _split(key)
        slot = self._slot(low, high)
        if self._table[slot]:
            return self._table[slot + 2] if self._words > _NUMBER else 0
        self._table[slot : slot + self._words] = array("Q", (high, low, number)[: self._words])
        self._count += 1
        if self._count * 3 > self._mask * 2:
            self._grow()
        return number

    def change(self, key: bytes, number: int) -> None:
        """Give a key that is there another number."""
        if self._few is not None:
            self._few[key] = number
        else:
            self._table[self._slot(*_split(key)) + _NUMBER] = number

    def _slot(self, low: int, high: int) -> int:
        """Return the index of the pair (low, high) in the table, or of the free place where it belongs."""
        table, mask, words = self._table, self._mask, self._words
        place = high & mask
        while True:
            slot = words * place
            found = table[slot]
            if not found or (found == high and (words == 1 or table[slot + 1] == low)):
                return slot
            place = (place + 1) & mask

    def _spread(self) -> None:
        """Leave the dict for the table."""
        known, self._few = self._few or {}, None
        self._table = array("Q", bytes(8 * self._words * (self._mask + 1)))
        for key, number in known.items():
            self.put(key, number)

    def _grow(self) -> None:
        old, words = self._table, self._words
        self._mask = 2 * self._mask + 1
        self._table = array("Q", bytes(8 * words * (self._mask + 1)))
        for index in range(0, len(old), words):
            if old[index]:
                slot = self._slot(old[index + 1] if words > 1 else 0, old[index])
                self._table[slot : slot + words] = old[index : index + words]


_NUMBER = 2  # its place among the words of a slot


def _split(key: bytes) -> tuple[int, int]:
    low, high = _HALVES.unpack(key)
    return low, high or 1  # a zero marks a free slot


class DigestSet(DigestMap):
    """A set of 16-byte digests; in the table 24 to 48 bytes each.

    Not `exact`: half of each digest will do, as where only their number is told, in half of that.
    """

    def __init__(self, *, exact: bool = True) -> None:
        super().__init__(words=2 if exact else 1)

    def add(self, key: bytes) -> bool:
        """Add `key`; return False if it was in the set already."""
        before = len(self)
        self.put(key, 0)
        return len(self) > before
