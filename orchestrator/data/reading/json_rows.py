"""JSON in any of its forms becomes rows with line numbers: lines, a list, values that span lines, a wrapped list."""

from __future__ import annotations

import codecs
import contextlib
import json
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import msgspec

from orchestrator.data.reasons import REASONS, Fault, refuse
from orchestrator.data.rows.shapes import find_shape, list_columns, normalise
from orchestrator.data.rows.texts import BadRowError, build_fault, is_blank
from orchestrator.errors import DataError

WHITESPACE = " \t\r\n"
_BLANK = re.compile(f"[{WHITESPACE}]*")


class NotUtf8Error(Exception):
    """A line that is not UTF-8: its number, what is wrong in it, and its bytes."""

    def __init__(self, line: int, message: str, raw: bytes) -> None:
        super().__init__(message)
        self.line = line
        self.message = message
        self.raw = raw


def decode_text(raw: bytes, line: int) -> str:
    """Return a line as text. Raises NotUtf8Error."""
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        raise NotUtf8Error(line, f"byte {error.start + 1} of the line is not UTF-8", raw) from error


@dataclass(slots=True)
class Row:
    """One row of a file: its first line (from 1), its bytes as they stand there, and its JSON value or its fault.

    `offset` is where it stands in a file of JSON Lines that `Source.reread` can read again, None elsewhere.
    """

    line: int
    raw: bytes
    value: Any = None
    fault: Fault | None = None
    offset: int | None = None


class RowDecoder:
    """A JSON decoder that also notices what Python's accepts though it is not JSON, or not safe."""

    def __init__(self) -> None:
        self._repeated: list[str] = []
        self._constants: list[str] = []
        self._decoder = json.JSONDecoder(object_pairs_hook=self._object, parse_constant=self._constants.append)

    def _object(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            names = [name for name, _ in pairs]
            self._repeated.extend(name for name in found if names.count(name) > 1)
        return found

    def decode_line(self, raw: bytes, line: int, offset: int | None = None) -> Row | None:
        """Return the row that a line holds, None for an empty one. Raises NotUtf8Error."""
        try:
            value = _decode_json(raw)
            if _count_strings(value) * 2 == _count_quotes(raw):  # else a key stands there twice: which, is told below
                return Row(line, raw, value, None, offset)
        except (ValueError, RecursionError):
            pass
        text = decode_text(raw, line).removeprefix("\ufeff").strip(WHITESPACE)
        if not text:
            return None
        try:
            return Row(line, raw, self.decode_all(text), self.find_fault(), offset)
        except (ValueError, RecursionError) as error:
            return Row(line, raw, fault=Fault("not-json", *describe_syntax(error, text)))

    def decode_at(self, text: str, start: int) -> tuple[Any, int]:
        """Return the value that begins at `start` and where it ends. Raises ValueError and RecursionError."""
        self._repeated.clear()
        self._constants.clear()
        return self._decoder.raw_decode(text, start)

    def decode_all(self, text: str) -> Any:
        """Return the value that is the whole text. Raises ValueError and RecursionError."""
        self._repeated.clear()
        self._constants.clear()
        return self._decoder.decode(text)

    def find_fault(self) -> Fault | None:
        """Return what was wrong with the value decoded last, although it could be decoded."""
        if self._constants:
            return build_fault(
                "not-json", f"{self._constants[0]} is not JSON", "replace it by a number or leave it out"
            )
        if self._repeated:
            return build_fault("duplicate-key", f"the key {json.dumps(self._repeated[0])} stands there twice")
        return None


_decode_json = msgspec.json.Decoder().decode


def _count_strings(value: Any) -> int:
    """Return how many strings there are in a value, keys among them."""
    kind = type(value)
    if kind is list:
        return len(value) if set(map(type, value)) == {str} else sum(map(_count_strings, value))
    if kind is dict:
        return len(value) + sum(map(_count_strings, value.values()))
    return int(kind is str)


def _count_quotes(raw: bytes) -> int:
    """Return how many quotes begin or end a string in a line of JSON, -1 where that needs a closer look."""
    quotes = raw.count(b'"')
    if b"\\" not in raw:
        return quotes
    return -1 if b'\\\\"' in raw else quotes - raw.count(b'\\"')


def describe_syntax(error: Exception, text: str) -> tuple[str, str]:
    """Return (what is wrong, what to do) for a text that no JSON parser can read."""
    if isinstance(error, RecursionError):
        return "the value is nested too deeply", 'a row is {"query": "…", "pos": ["…"], "neg": ["…", "…"]}'
    if not isinstance(error, json.JSONDecodeError):
        return "a number has too many digits", "write numbers as JSON libraries do"
    message = f"{error.msg} at column {error.colno}"
    if text.startswith("{'"):
        return message, "JSON needs double quotes: write rows with json.dumps, not str"
    if text.rstrip() in {"{", "[", "}", "]", "},"}:
        return message, "write each row on one line, or all rows as a JSON list"
    return message, REASONS["not-json"].remedy


LONGEST_ROW = 64 << 20  # bytes: parsed, a row takes several times as many


def split_lines(path: Path, first: bytes, chunks: Iterator[bytes]) -> Iterator[bytes]:
    """Yield the lines of a chunked file without their line feeds; a line may span any number of chunks.

    Raises DataError for a line that is longer than a row may be.
    """
    pending: list[bytes] = []
    size = 0
    line = 1
    chunk = first
    while chunk:
        head, *rest = chunk.split(b"\n")
        pending.append(head)
        size += len(head)
        if size > LONGEST_ROW:
            raise refuse_large(path, line)
        if rest:
            yield b"".join(pending)
            yield from rest[:-1]
            line += len(rest)
            pending, size = [rest[-1]], len(rest[-1])
        chunk = next(chunks, b"")
    if last := b"".join(pending):
        yield last


def read_texts(lines: Iterator[bytes]) -> Iterator[Row]:
    """Yield every line that is not blank as a text. Raises NotUtf8Error."""
    for line, raw in enumerate(lines, 1):
        text = decode_text(raw, line).strip()
        if not is_blank(text):
            yield Row(line, raw, text)


def refuse_large(path: Path, line: int) -> DataError:
    """Return the error for a row that is longer than one may be."""
    return refuse("row-too-large", f"the row takes more than {LONGEST_ROW >> 20} MiB", path, line=line)


_CUT_MARGIN = 16  # no JSON token but a string is longer: an error this near to the end may be due to the cut


def read_list(path: Path, first: bytes, chunks: Iterator[bytes], *, line: int = 1, alone: bool = True) -> Iterator[Row]:
    """Yield the elements of the JSON list that `first` and `chunks` hold. Raises DataError where its syntax breaks.

    The list begins on `line`; where it is not `alone`, something may follow it.
    """
    window = _Window(path, first, chunks, line)
    window.advance(window.position + 1)  # the opening bracket
    if window.peek() == "]":
        window.advance(window.position + 1)
    else:
        separator = ","
        while separator == ",":
            window.peek()  # moves to the row's first character, and so to its line
            yield window.read_row()
            separator = window.peek()
            if separator not in {",", "]"}:
                what = "a comma or the closing bracket is missing" if separator else "the list does not end"
                raise window.broken(what)
            window.advance(window.position + 1)
    if alone and window.peek():
        raise window.broken("more text follows the list's closing bracket")


def read_values(path: Path, first: bytes, chunks: Iterator[bytes]) -> Iterator[Row]:
    """Yield JSON values that follow each other with white space between, however many lines each takes.

    Raises DataError where their syntax breaks.
    """
    window = _Window(path, first, chunks)
    while window.peek():
        yield window.read_row()


class _Window:
    """The part of a JSON list's text that is in memory: a position in it, and that position's line in the file."""

    def __init__(self, path: Path, first: bytes, chunks: Iterator[bytes], line: int = 1) -> None:
        self.text = ""
        self.position = 0
        self.line = line
        self._column_base = 0  # characters of the current line that left the window
        self._path = path
        self._chunks = chunks
        self._decoder = codecs.getincrementaldecoder("utf-8")()
        self._values = RowDecoder()
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
            self.advance(_skip(self.text, self.position))
            if self.position < len(self.text):
                return self.text[self.position]
            if not self._fill():
                return ""

    def read_row(self) -> Row:
        """Return the value at the position as a row, and move behind it."""
        line = self.line
        value, end = self._decode()
        raw = self.text[self.position : end].encode()
        self.advance(end)
        return Row(line, raw, value, self._values.find_fault())

    def _decode(self) -> tuple[Any, int]:
        """Return the value at the position and where it ends, reading on while it may be incomplete."""
        while True:
            try:
                value, end = self._values.decode_at(self.text, self.position)
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


def find_json_form(first: bytes) -> Literal["lines", "list", "values"]:
    """Return the form of a file that begins with `first`: a value a line, one list, or values that span lines."""
    text = first.lstrip()
    head, _, rest = text.partition(b"\n")
    if text[:1] == b"[":
        return "lines" if rest.lstrip()[:1] == b"[" and _is_whole(head) else "list"
    if text[:1] == b"{" and not _is_whole(head):
        following = next((line for line in rest.split(b"\n") if line.strip()), b"")
        # the second line of an object that goes on: indented, a key, or its end
        return "values" if following[:1] in {b" ", b"\t", b'"', b"}", b"]"} else "lines"
    return "lines"


def _is_whole(text: bytes) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def find_wrapped(first: Row, second: Row | None, path: Path, key: str | None) -> Iterator[Row] | None:
    """Return the rows that a file's one object holds in a list, under `key` where given; None where it is a row.

    Raises DataError where several lists may be the rows, or the key names none.
    """
    lists = _find_lists(first.value) if second is None or key is not None else []
    if key is None:
        if len(lists) > 1:
            convert = ["orch", "data", "convert", str(path), "--rows"]
            hints = [shlex.join([*convert, one, "-o", f"{path.stem}.rows.jsonl"]) for one in lists[:3]]
            shown = ", ".join(json.dumps(one, ensure_ascii=False) for one in lists[:3])
            message = f"the file is one JSON object, and several lists inside may be its rows: {shown}"
            raise refuse("wrapped-rows", message, path, line=1, hint=" or ".join(hints))
        key = next(iter(lists), None)
    elif second is not None:
        raise refuse("wrapped-rows", "there is more than one object in the file", path, line=second.line)
    elif not isinstance(first.value, dict) or not isinstance(first.value.get(key), list):
        hint = f"the lists of objects are {', '.join(lists)}" if lists else None
        raise refuse("wrapped-rows", f"the file is no object with a list under {key!r}", path, line=1, hint=hint)
    if key is None or first.fault:
        return None
    text = first.raw.decode()
    start = _locate(text, key)
    line = first.line + text.count("\n", 0, start)
    return read_list(path, text[start:].encode(), iter(()), line=line, alone=False)


def _find_lists(value: Any) -> list[str]:
    """Return the keys of an object's lists of objects or lists, none where it is a row itself."""
    if not isinstance(value, dict) or not list_columns().isdisjoint(value):
        return []
    with contextlib.suppress(BadRowError):
        if find_shape(normalise(value, {}), None):
            return []
    return [key for key, part in value.items() if isinstance(part, list) and part and isinstance(part[0], dict | list)]


def _locate(text: str, key: str) -> int:
    """Return where the value of a key begins in the text of an object, the last of its name as a decoder does."""
    decode, found = json.JSONDecoder().raw_decode, -1
    at = text.index("{") + 1
    while (at := _skip(text, at)) < len(text) and text[at] != "}":
        name, at = decode(text, at)
        at = _skip(text, _skip(text, at) + 1)  # the colon
        found = at if name == key else found
        at = _skip(text, decode(text, at)[1])
        at += text[at : at + 1] == ","
    return found


def _skip(text: str, at: int) -> int:
    return cast("re.Match[str]", _BLANK.match(text, at)).end()
