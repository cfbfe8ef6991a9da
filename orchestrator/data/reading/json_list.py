"""A JSON list that may be larger than memory becomes rows with line numbers, element by element."""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from orchestrator.data.reading.decoding import WHITESPACE, Row, RowDecoder, describe_syntax
from orchestrator.data.reading.encodings import NotUtf8Error
from orchestrator.data.reading.lines import LONGEST_ROW, refuse_large
from orchestrator.data.reasons import refuse

_CUT_MARGIN = 16  # no JSON token but a string is longer: an error this near to the end may be due to the cut


def read_list(path: Path, first: bytes, chunks: Iterator[bytes]) -> Iterator[Row]:
    """Yield the elements of the JSON list that `first` and `chunks` hold. Raises DataError where its syntax breaks."""
    window = _Window(path, first, chunks)
    decoder = RowDecoder()
    window.advance(window.position + 1)  # the opening bracket
    if window.peek() == "]":
        window.advance(window.position + 1)
    else:
        separator = ","
        while separator == ",":
            window.peek()  # moves to the row's first character, and so to its line
            line = window.line
            value, end = window.decode(decoder)
            raw = window.text[window.position : end].encode()
            window.advance(end)
            yield Row(line, raw, value, decoder.find_fault())
            separator = window.peek()
            if separator not in {",", "]"}:
                what = "a comma or the closing bracket is missing" if separator else "the list does not end"
                raise window.broken(what)
            window.advance(window.position + 1)
    if window.peek():
        raise window.broken("more text follows the list's closing bracket")


def read_values(path: Path, first: bytes, chunks: Iterator[bytes]) -> Iterator[Row]:
    """Yield JSON values that follow each other with white space between, however many lines each takes.

    Raises DataError where their syntax breaks.
    """
    window = _Window(path, first, chunks)
    decoder = RowDecoder()
    while window.peek():
        line = window.line
        value, end = window.decode(decoder)
        raw = window.text[window.position : end].encode()
        window.advance(end)
        yield Row(line, raw, value, decoder.find_fault())


class _Window:
    """The part of a JSON list's text that is in memory: a position in it, and that position's line in the file."""

    def __init__(self, path: Path, first: bytes, chunks: Iterator[bytes]) -> None:
        self.text = ""
        self.position = 0
        self.line = 1
        self._column_base = 0  # characters of the current line that left the window
        self._path = path
        self._chunks = chunks
        self._decoder = codecs.getincrementaldecoder("utf-8")()
        self._ended = False
        self._add(first)
        self.peek()

    def _add(self, data: bytes, *, final: bool = False) -> None:
        try:
            more = self._decoder.decode(data, final)
        except UnicodeDecodeError as error:
            before = self.text.count("\n", self.position) + error.object.count(b"\n", 0, error.start)
            raise NotUtf8Error(self.line + before, "a byte is not UTF-8", error.object) from error
        self.text = self.text[self.position :] + more
        self.position = 0

    def _fill(self) -> bool:
        """Read at least as much as is waiting, so that a long row costs linear time; return False at the end."""
        wanted = len(self.text) - self.position
        if wanted > LONGEST_ROW:
            raise refuse_large(self._path, self.line)
        read: list[bytes] = []
        size = 0
        while size <= wanted and (chunk := next(self._chunks, b"")):
            read.append(chunk)
            size += len(chunk)
        self._ended = not size
        self._add(b"".join(read), final=self._ended)
        return not self._ended

    def advance(self, end: int) -> None:
        """Move the position to `end`, counting lines."""
        newlines = self.text.count("\n", self.position, end)
        if newlines:
            self.line += newlines
            self._column_base = end - self.text.rfind("\n", self.position, end) - 1
        else:
            self._column_base += end - self.position
        self.position = end

    def peek(self) -> str:
        """Skip white space and return the next character, or "" at the end of the file."""
        while True:
            end = self.position
            while end < len(self.text) and self.text[end] in WHITESPACE:
                end += 1
            self.advance(end)
            if end < len(self.text):
                return self.text[end]
            if not self._fill():
                return ""

    def decode(self, decoder: RowDecoder) -> tuple[Any, int]:
        """Return the value at the position and where it ends, reading on while it may be incomplete."""
        while True:
            try:
                value, end = decoder.decode_at(self.text, self.position)
            except json.JSONDecodeError as error:
                cut = error.msg.startswith("Unterminated string") or error.pos >= len(self.text) - _CUT_MARGIN
                if cut and not self._ended:
                    self._fill()
                    continue
                self.advance(min(error.pos, len(self.text)))
                raise self.broken(error.msg) from error
            except (ValueError, RecursionError) as error:
                raise self.broken(describe_syntax(error, "")[0]) from error
            if len(self.text) - end > _CUT_MARGIN or self._ended:
                return value, end
            self._fill()  # a number may go on in the next chunk, even from "1." or "1e+", which read as 1

    def broken(self, what: str) -> Exception:
        """Return the error for a syntax error at the position."""
        return refuse("broken-list", what, self._path, line=self.line, column=self._column_base + 1)
