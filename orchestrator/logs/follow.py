"""A growing log file → its new lines, without secrets.

Carriage returns end lines too, so that every refresh of a bar is one. A child may log the tokens of its environment:
they are taken out here, before a line becomes an event or is printed.
"""

from __future__ import annotations

import codecs
import os
import re
from typing import TYPE_CHECKING

from orchestrator.secrets import find_secret_values, redact_text

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

CHUNK_BYTES = 1 << 20
MAX_PENDING_CHARS = 1 << 16
_LINE_END = re.compile(r"\r\n|\n|\r")


class LogFollower:
    """Remembers how far one file was read. Characters and lines that the writer has not finished wait for the rest."""

    def __init__(self, path: Path, offset: int = 0) -> None:
        """Follow `path` from `offset` bytes on; the file need not exist yet."""
        self.path = path
        self.offset = offset
        self._begin_anew()
        self._secrets = find_secret_values(os.environ)

    @property
    def unfinished(self) -> str:
        """The line that the writer has begun."""
        return self._pending

    def read_lines(self, *, at_end: bool = False) -> list[str]:
        """Return the non-empty lines that were finished since the last call.

        With `at_end` the writer is gone, so an unfinished last line is returned as well.
        """
        return list(self.iter_lines(at_end=at_end))

    def iter_lines(self, *, at_end: bool = False, most_bytes: int | None = None) -> Iterator[str]:
        """Yield what `read_lines` returns while the file is read: a log of gigabytes is never in memory as a whole.

        After `most_bytes` it ends, and the next call goes on from there.
        """
        read = 0
        while (most_bytes is None or read < most_bytes) and (chunk := self._read_chunk()):
            read += len(chunk)
            yield from self._split(self._decoder.decode(chunk))
        if at_end:
            yield from self._split(self._decoder.decode(b"", final=True) + "\n")

    def _begin_anew(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._pending = ""

    def _read_chunk(self) -> bytes:
        try:
            with self.path.open("rb") as stream:
                if os.fstat(stream.fileno()).st_size < self.offset:  # somebody emptied it: its writer appends anew
                    self.offset = 0
                    self._begin_anew()
                stream.seek(self.offset)
                chunk = stream.read(CHUNK_BYTES)
        except OSError:  # not there yet, or a network disk that fails for a moment: no reason to end a training
            return b""
        self.offset += len(chunk)
        return chunk

    def _split(self, text: str) -> list[str]:
        *finished, pending = _LINE_END.split(self._pending + text)
        if len(pending) > MAX_PENDING_CHARS:  # a writer that never ends a line must not fill the memory
            finished.append(pending)
            pending = ""
        self._pending = pending
        return [redact_text(line, self._secrets) for line in finished if line.strip()]
