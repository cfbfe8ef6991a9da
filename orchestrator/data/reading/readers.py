"""A file of JSON Lines, a JSON list, separated text, Parquet or Arrow becomes rows with line numbers, streamed.

Memory is bounded by the longest row, which has a bound itself, and not by the file. What makes a whole file unusable
(encoding, a damaged archive, a broken list) is raised as a DataError with its line; what spoils one line only is handed
on as that row's fault.
"""

from __future__ import annotations

import hashlib
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from orchestrator.data.reading.containers import (
    BROKEN,
    COMPRESSED,
    describe_container,
    find_ending,
    open_contents,
    refuse_container,
)
from orchestrator.data.reading.decoding import WHITESPACE, Row, RowDecoder, describe_syntax
from orchestrator.data.reading.encodings import (
    SAMPLE_BYTES,
    NotUtf8Error,
    advise_iconv,
    build_encoding_error,
    find_wide,
)
from orchestrator.data.reading.json_forms import find_json_form, unwrap
from orchestrator.data.reading.json_list import read_list, read_values
from orchestrator.data.reading.lines import split_lines
from orchestrator.data.reading.tabular import DELIMITERS, read_arrow, read_delimited, read_parquet
from orchestrator.data.reasons import Fault, refuse

CHUNK_BYTES = 1 << 20
PARQUET = ".parquet"
ARROW = (".arrow", ".feather")
ENDINGS = (".jsonl", ".ndjson", ".json", *DELIMITERS, PARQUET, *ARROW)
FILE_ENDINGS = (*ENDINGS, *(f"{ending}{packed}" for ending in ENDINGS for packed in COMPRESSED))
_UTF8_BOM = b"\xef\xbb\xbf"


class Source:
    """One input file. `rows()` streams it once; `rows_in` and `sha256` are complete when it has ended."""

    def __init__(
        self,
        path: Path,
        *,
        on_bytes: Callable[[int], None] | None = None,
        chunk_bytes: int = CHUNK_BYTES,
        ending: str | None = None,
        rows_key: str | None = None,
    ) -> None:
        """Prepare to read `path`; `on_bytes` is told the size of each chunk read. Raises nothing yet.

        `ending` (such as ".csv") stands in for that of the file's name. `rows_key`: the file is one JSON object, and
        its rows are the list under that key.
        """
        self.path = path
        self.ending = (ending or find_ending(path)).lower()
        self.rows_in = 0
        self.holds_list = False
        self._on_bytes = on_bytes
        self._chunk_bytes = chunk_bytes
        self._hash = hashlib.sha256()
        self._rows_key = rows_key
        self._sample = b""

    @property
    def sha256(self) -> str:
        """Hash of all bytes read so far."""
        return self._hash.hexdigest()

    @property
    def has_other_form(self) -> bool:
        """Whether the contents (a list or lines) differ from what the file's ending says."""
        return self.holds_list != (self.ending == ".json")

    def rows(self) -> Iterator[Row]:
        """Yield every row. Raises DataError when the file as a whole cannot be read."""
        require_readable(self.path, ending=self.ending)
        try:
            with self.path.open("rb") as stream:
                for row in self._rows(stream):
                    self.rows_in += 1
                    yield row
        except NotUtf8Error as error:
            raise build_encoding_error(self.path, error, self._sample) from error
        except BROKEN as error:
            raise refuse("compressed", f"the compressed data are damaged: {error}", self.path) from error
        except OSError as error:
            raise refuse("not-readable", f"the file cannot be read: {error.strerror or error}", self.path) from error
        except MemoryError as error:
            raise refuse("row-too-large", "the memory is too small for one of its rows", self.path) from error
        if not self.rows_in:
            raise refuse("empty-file", "the file holds no rows", self.path)

    def _rows(self, stream: BinaryIO) -> Iterator[Row]:
        if self.ending == PARQUET or self.ending in ARROW:
            while chunk := stream.read(self._chunk_bytes):  # read from their end: the hash needs a pass of its own
                self._note(chunk)
            stream.seek(0)
            return read_parquet(self.path, stream) if self.ending == PARQUET else read_arrow(self.path, stream)
        chunks = self._checked_chunks(open_contents(stream, self._note))
        first = next(chunks, b"")
        self._sample = first[:SAMPLE_BYTES]
        if delimiter := DELIMITERS.get(self.ending):
            return read_delimited(self.path, split_lines(self.path, first, chunks), delimiter)
        form = find_json_form(first)
        self.holds_list = form == "list"
        if self.holds_list:
            return read_list(self.path, first, chunks)
        rows = read_values(self.path, first, chunks) if form == "values" else self._line_rows(first, chunks)
        if form == "lines" and self.ending != ".json" and self._rows_key is None:
            return rows  # a single line of JSON Lines is a row, whatever it holds
        return unwrap(rows, self.path, self._rows_key)

    def _note(self, data: bytes) -> None:
        """Count and hash the file's own bytes."""
        self._hash.update(data)
        if self._on_bytes and data:
            self._on_bytes(len(data))

    def _checked_chunks(self, stream: BinaryIO) -> Iterator[bytes]:
        """Yield the file in chunks, without its byte order mark; refuse what cannot be UTF-8 text."""
        lines = 0
        at_start = True
        while chunk := stream.read(self._chunk_bytes):
            if at_start:
                _refuse_binary(chunk, self.path)
            text = chunk.removeprefix(_UTF8_BOM) if at_start else chunk
            at_start = False
            if (place := text.find(b"\0")) >= 0:
                line = lines + text.count(b"\n", 0, place) + 1
                raise refuse("nul-byte", "the file holds a NUL byte", self.path, line=line)
            lines += text.count(b"\n")
            if text:
                yield text

    def _line_rows(self, first: bytes, chunks: Iterator[bytes]) -> Iterator[Row]:
        decoder = RowDecoder()
        for line, raw in enumerate(split_lines(self.path, first, chunks), 1):
            try:
                text = raw.decode().removeprefix("\ufeff").strip(WHITESPACE)
            except UnicodeDecodeError as error:
                raise NotUtf8Error(line, f"byte {error.start + 1} of the line is not UTF-8", raw) from error
            if not text:
                continue
            try:
                value = decoder.decode_all(text)
            except (ValueError, RecursionError) as error:
                yield Row(line, raw, fault=Fault("not-json", *describe_syntax(error, text)))
            else:
                yield Row(line, raw, value, decoder.find_fault())


def open_source(
    path: Path,
    *,
    on_bytes: Callable[[int], None] | None = None,
    ending: str | None = None,
    rows_key: str | None = None,
) -> Source:
    """Return the source for any file that Orch reads, told by its ending or by `ending`. Raises nothing yet."""
    return Source(path, on_bytes=on_bytes, ending=ending, rows_key=rows_key)


def _refuse_binary(head: bytes, path: Path) -> None:
    """Raise DataError when a file's first bytes are those of another encoding or of a container."""
    refuse_container(head, path)
    if encoding := find_wide(head):
        message = f"the file looks like {encoding}"
        raise refuse("utf-16", message, path, line=1, hint=f"save it as UTF-8: {advise_iconv(path, encoding)}")


def show_path(path: Path | str) -> str:
    """Return a path as text that can be written: a name that is not UTF-8 has question marks in it."""
    return str(path).encode(errors="replace").decode()


def require_readable(path: Path, *, ending: str | None = None) -> int:
    """Return the size in bytes of a regular, non-empty file with a known ending. Raises DataError.

    `ending` stands in for that of the file's name.
    """
    try:
        found = path.stat()
    except (FileNotFoundError, NotADirectoryError) as error:
        near = sorted(p.name for p in path.parent.glob("*") if find_ending(p) in ENDINGS)[:3]
        hint = f"that folder holds {', '.join(near)}" if near else None
        raise refuse("file-not-found", "there is no such file", path, hint=hint) from error
    except (OSError, ValueError) as error:
        raise refuse("not-readable", f"the path cannot be used: {error}", path) from error
    if not stat.S_ISREG(found.st_mode):
        kind = "a folder" if stat.S_ISDIR(found.st_mode) else "a pipe or a device"
        raise refuse("not-a-file", f"this is {kind}", path)
    if (ending or find_ending(path)).lower() not in ENDINGS:
        known = describe_container(path, path.suffix.lower())
        named = f'the ending "{path.suffix}" is not known' if path.suffix else "the file's name has no ending"
        raise refuse("unknown-ending", f"the file is {known[0]}" if known else named, path, hint=known and known[1])
    if not found.st_size:
        raise refuse("empty-file", "the file is empty", path)
    return found.st_size
