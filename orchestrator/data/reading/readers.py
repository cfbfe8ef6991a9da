"""A file of JSON Lines, a JSON list, separated text, Parquet or Arrow becomes rows with line numbers, streamed.

Memory is bounded by the longest row, which has a bound itself, and not by the file. What makes a whole file unusable
(encoding, a damaged archive, a broken list) is raised as a DataError with its line; what spoils one line only is handed
on as that row's fault.
"""

from __future__ import annotations

import hashlib
import stat
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO

from orchestrator.data.reading import json_rows, packed
from orchestrator.data.reading.file_sets import ARROW, DELIMITERS, ENDINGS, PARQUET, SHEET, find_beside, find_ending
from orchestrator.data.reading.joins import join_texts
from orchestrator.data.reading.json_rows import NotUtf8Error, Row, RowDecoder, split_lines
from orchestrator.data.reading.tabular import read_arrow, read_delimited, read_parquet, read_sheet
from orchestrator.data.reasons import refuse
from orchestrator.data.rows.records import Kind
from orchestrator.data.rows.shapes import Shape, find_shape, normalise

CHUNK_BYTES = 1 << 20
_BINARY = {SHEET: read_sheet, PARQUET: read_parquet, **dict.fromkeys(ARROW, read_arrow)}
_UTF8_BOM = b"\xef\xbb\xbf"


TEXT_LINES = "lines"  # as `ending`: every line that is not blank is a text


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
        encoding: str | None = None,
    ) -> None:
        """Prepare to read `path`; `on_bytes` is told the size of each chunk read. Raises nothing yet.

        `ending` (such as ".csv") stands in for that of the file's name. `rows_key`: the file is one JSON object, and
        its rows are the list under that key. `encoding`: Python's name of one (None: UTF-8), or AUTO.
        """
        self.path = path
        self.name = show_path(path.name)
        self.ending = (ending or find_ending(path)).lower()
        self.rows_in = 0
        self.holds_list = False
        self._on_bytes = on_bytes
        self._chunk_bytes = chunk_bytes
        self._hash = hashlib.sha256()
        self._rows_key = rows_key
        self._asked = encoding
        self.encoding: str | None = None  # what the text is read by, where that is not UTF-8
        self.text_files: list[Source] = []  # the files with the texts of a file of ids, once they were read
        self._sample = b""
        self._text_start: int | None = None  # where the first line stands in the file, unless that is packed

    @property
    def sha256(self) -> str:
        """Hash of all bytes read so far."""
        return self._hash.hexdigest()

    @property
    def is_text_table(self) -> bool:
        """Whether every cell of the rows is a text, numbers and lists too."""
        return self.ending in DELIMITERS or self.ending == SHEET

    @property
    def has_other_form(self) -> bool:
        """Whether the contents (a list or lines) differ from what the file's ending says."""
        return self.holds_list != (self.ending == ".json")

    def rows(self) -> Iterator[Row]:
        """Yield every row. Raises DataError when the file as a whole cannot be read."""
        require_readable(self.path, ending=self.ending)
        try:
            with self.path.open("rb") as stream:
                beside = find_beside(self.path)
                rows = self._rows(stream)
                if beside:
                    rows = join_texts(rows, partial(self._open, beside))
                for row in rows:
                    self.rows_in += 1
                    yield row
        except NotUtf8Error as error:
            raise packed.build_encoding_error(self.path, error, self._sample) from error
        except ImportError as error:
            raise refuse("needs-library", f"it cannot be imported: {error}", self.path) from error
        except packed.BROKEN as error:
            raise refuse("compressed", f"the compressed data are damaged: {error}", self.path) from error
        except OSError as error:
            raise refuse("not-readable", f"the file cannot be read: {error.strerror or error}", self.path) from error
        except MemoryError as error:
            raise refuse("row-too-large", "the memory is too small for one of its rows", self.path) from error
        if not self.rows_in:
            raise refuse("empty-file", "the file holds no rows", self.path)

    def _rows(self, stream: BinaryIO) -> Iterator[Row]:
        if read_binary := _BINARY.get(self.ending):
            while chunk := stream.read(self._chunk_bytes):  # read from their end: the hash needs a pass of its own
                self._note(chunk)
            stream.seek(0)
            return read_binary(self.path, stream)
        chunks = self._checked_chunks(self._open_text(stream))
        first = next(chunks, b"")
        self._sample = first[: packed.SAMPLE_BYTES]
        if delimiter := DELIMITERS.get(self.ending):
            return read_delimited(self.path, split_lines(self.path, first, chunks), delimiter)
        if self.ending == TEXT_LINES:
            return json_rows.read_texts(split_lines(self.path, first, chunks))
        form = json_rows.find_json_form(first)
        self.holds_list = form == "list"
        if self.holds_list:
            return json_rows.read_list(self.path, first, chunks)
        rows = json_rows.read_values(self.path, first, chunks) if form == "values" else self._line_rows(first, chunks)
        if form == "lines" and self.ending != ".json" and self._rows_key is None:
            return rows  # a single line of JSON Lines is a row, whatever it holds
        return self._unwrap(rows)

    def _unwrap(self, rows: Iterator[Row]) -> Iterator[Row]:
        """Yield the rows, or where they stand in a list of the file's one object, those."""
        first, second = next(rows, None), next(rows, None)
        if first and (found := json_rows.find_wrapped(first, second, self.path, self._rows_key)):
            self.holds_list = True
            yield from found
            return
        for row in (first, second):
            if row:
                yield row
        yield from rows

    def _open(self, beside: dict[str, Path], name: str) -> Source | None:
        """Return the file that holds documents or queries by id, to be read whole; None where there is none."""
        if name not in beside:
            return None
        self.text_files.append(Source(beside[name], encoding=self._asked))
        return self.text_files[-1]

    def _note(self, data: bytes) -> None:
        """Count and hash the file's own bytes."""
        self._hash.update(data)
        if self._on_bytes and data:
            self._on_bytes(len(data))

    def _open_text(self, stream: BinaryIO) -> Iterator[bytes]:
        """Yield the file in chunks of UTF-8; refuse what cannot be text. Where its lines stand is noted on the way."""
        contents, is_packed = packed.open_contents(stream, self._note)
        head = contents.read(self._chunk_bytes)
        self.encoding = packed.find_encoding(head[: packed.SAMPLE_BYTES], self._asked)
        chunks = chain([head] if head else [], iter(partial(contents.read, self._chunk_bytes), b""))
        packed.refuse_container(head, self.path)
        if self.encoding:
            return packed.decode_chunks(chunks, self.encoding, self.path)
        packed.refuse_wide(head, self.path)
        if not is_packed:
            self._text_start = len(_UTF8_BOM) if head.startswith(_UTF8_BOM) else 0
        return chunks

    def _checked_chunks(self, chunks: Iterator[bytes]) -> Iterator[bytes]:
        """Yield chunks without their byte order mark; refuse a NUL byte."""
        lines = 0
        for number, chunk in enumerate(chunks):
            text = chunk if number else chunk.removeprefix(_UTF8_BOM)
            if (place := text.find(b"\0")) >= 0:
                line = lines + text.count(b"\n", 0, place) + 1
                raise refuse("nul-byte", "the file holds a NUL byte", self.path, line=line)
            lines += text.count(b"\n")
            if text:
                yield text

    def _line_rows(self, first: bytes, chunks: Iterator[bytes]) -> Iterator[Row]:
        decoder = RowDecoder()
        offset = self._text_start
        for line, raw in enumerate(split_lines(self.path, first, chunks), 1):
            row = decoder.decode_line(raw, line, offset)
            offset = None if offset is None else offset + len(raw) + 1
            if row:
                yield row

    def reread(self, offset: int) -> Row | None:
        """Return the row that stands at an offset, None where the file has changed meanwhile."""
        with self.path.open("rb") as stream:
            stream.seek(offset)
            try:
                return RowDecoder().decode_line(stream.readline().removesuffix(b"\n"), 0, offset)
            except NotUtf8Error:
                return None


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
    if (ending or find_ending(path)).lower() not in (*ENDINGS, TEXT_LINES):
        known = packed.describe_container(path, path.suffix.lower())
        named = f'the ending "{path.suffix}" is not known' if path.suffix else "the file's name has no ending"
        raise refuse("unknown-ending", f"the file is {known[0]}" if known else named, path, hint=known and known[1])
    if not found.st_size:
        raise refuse("empty-file", "the file is empty", path)
    return found.st_size


# The shape of a file's first row: a guess at what the file holds; what is wrong with it is for others to say


def sniff_shape(
    path: Path, columns: Mapping[str, str] | None = None, wanted: Kind | None = None, encoding: str | None = None
) -> Shape | None:
    """Return the shape of a file's first row, or None where it has none or cannot be read. Reads one row."""
    row = sniff_row(path, columns, wanted, encoding)
    return None if row is None else find_shape(row, wanted)


def sniff_row(
    path: Path, columns: Mapping[str, str] | None = None, wanted: Kind | None = None, encoding: str | None = None
) -> dict[str, Any] | None:
    """Return a file's first row, its columns renamed, or None where it cannot be read. Never raises."""
    try:
        rows = Source(path, encoding=encoding).rows()
        row = next(rows, None)
        rows.close()  # type: ignore[attr-defined]
        return None if row is None or row.fault else normalise(row.value, columns or {}, wanted)
    except Exception:  # noqa: BLE001 - whatever is wrong with the file is for the prepare stage to say
        return None


def sniff_kind(path: Path, columns: Mapping[str, str] | None = None, encoding: str | None = None) -> Kind | None:
    """Return the kind of a file's first row; a query and its response alone are a group. Never raises."""
    shape = sniff_shape(path, columns, encoding=encoding)
    return shape.kind if shape else None
