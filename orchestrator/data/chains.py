"""Lines that belong together come together, wherever they stood: they wait on disk, and memory holds where."""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from typing import IO

_NONE = (1 << 64) - 1


class Chains:
    """Chains of lines, numbered from 0; 16 bytes of memory a chain and 16 a line, whatever a line's length."""

    def __init__(self, spool: IO[bytes]) -> None:
        """Start empty; `spool` is an empty file to write and read, for as long as this lives."""
        self._spool = spool
        self._size = 0
        # Of each chain its first and last line, of each line its place in the spool and the chain's next line.
        self._first, self._last = array("Q"), array("Q")
        self._offsets, self._next = array("Q"), array("Q")

    def __len__(self) -> int:
        return len(self._first)

    def add(self, chain: int, line: bytes) -> None:
        """Append a line, which ends with a line feed, to a chain; the number `len(self)` begins a new one."""
        number = len(self._offsets)
        if chain == len(self):
            self._first.append(number)
            self._last.append(number)
        else:
            self._next[self._last[chain]] = number
            self._last[chain] = number
        self._offsets.append(self._size)
        self._next.append(_NONE)
        self._size += self._spool.write(line)

    def read(self) -> Iterator[list[bytes]]:
        """Yield the lines of each chain: chains in the order of their numbers, lines in that of their coming."""
        for number in self._first:
            lines = []
            while number != _NONE:
                self._spool.seek(self._offsets[number])
                lines.append(self._spool.readline())
                number = self._next[number]  # noqa: PLW2901  the chain is followed
            yield lines
