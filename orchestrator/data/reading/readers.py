"""A file of JSON Lines, a JSON list, separated text or Parquet becomes rows with line numbers, streamed.

Memory is bounded by the longest row, not by the file. What makes a whole file unusable (encoding, compression, a broken
list) is raised as a DataError with its line; what spoils one line only is handed on as that row's fault.
"""

from __future__ import annotations

import hashlib
import stat
from typing import TYPE_CHECKING, BinaryIO

from orchestrator.data.reading.decoding import WHITESPACE, Row, RowDecoder, describe_syntax
from orchestrator.data.reading.json_list import read_list
from orchestrator.data.reading.tabular import DELIMITERS, read_delimited, read_parquet
from orchestrator.data.reasons import Fault, refuse

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

CHUNK_BYTES = 1 << 20
PARQUET = ".parquet"
ENDINGS = (".jsonl", ".ndjson", ".json", *DELIMITERS, PARQUET)
_UTF8_BOM = b"\xef\xbb\xbf"
_WIDE_BOMS = (b"\xff\xfe", b"\xfe\xff", b"\x00\x00\xfe\xff")
_MAGIC = {
    b"\x1f\x8b": ("gzip", "gunzip it"),
    b"BZh": ("bzip2", "bunzip2 it"),
    b"\xfd7zXZ": ("xz", "unxz it"),
    b"\x28\xb5\x2f\xfd": ("Zstandard", "unzstd it"),
    b"PK\x03\x04": ("zip", "unzip it"),
    b"PAR1": ("Parquet", "convert it to .jsonl"),
    b"ARROW1": ("Arrow", "convert it to .jsonl"),
}


class Source:
    """One input file. `rows()` streams it once; `rows_in` and `sha256` are complete when it has ended."""

    def __init__(
        self,
        path: Path,
        *,
        on_bytes: Callable[[int], None] | None = None,
        chunk_bytes: int = CHUNK_BYTES,
        ending: str | None = None,
    ) -> None:
        """Prepare to read `path`; `on_bytes` is told the size of each chunk read. Raises nothing yet.

        `ending` (such as ".csv") stands in for that of the file's name.
        """
        self.path = path
        self.ending = (ending or path.suffix).lower()
        self.rows_in = 0
        self.holds_list = False
        self._on_bytes = on_bytes
        self._chunk_bytes = chunk_bytes
        self._hash = hashlib.sha256()

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
        except OSError as error:
            raise refuse("not-readable", f"the file cannot be read: {error.strerror}", self.path) from error
        if not self.rows_in:
            raise refuse("empty-file", "the file holds no rows", self.path)

    def _rows(self, stream: BinaryIO) -> Iterator[Row]:
        if self.ending == PARQUET:
            for _ in self._chunks(stream):  # Parquet is read from its end: the hash needs a pass of its own
                pass
            stream.seek(0)
            return read_parquet(self.path, stream)
        chunks = self._checked_chunks(stream)
        first = next(chunks, b"")
        if delimiter := DELIMITERS.get(self.ending):
            return read_delimited(self.path, _lines(first, chunks), delimiter)
        self.holds_list = first.lstrip()[:1] == b"["
        return read_list(self.path, first, chunks) if self.holds_list else self._line_rows(first, chunks)

    def _chunks(self, stream: BinaryIO) -> Iterator[bytes]:
        """Yield the file's bytes, and count and hash them."""
        while chunk := stream.read(self._chunk_bytes):
            self._hash.update(chunk)
            if self._on_bytes:
                self._on_bytes(len(chunk))
            yield chunk

    def _checked_chunks(self, stream: BinaryIO) -> Iterator[bytes]:
        """Yield the file in chunks, without its byte order mark; refuse what cannot be UTF-8 text."""
        lines = 0
        at_start = True
        for chunk in self._chunks(stream):
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
        for line, raw in enumerate(_lines(first, chunks), 1):
            try:
                text = raw.decode().removeprefix("\ufeff").strip(WHITESPACE)
            except UnicodeDecodeError as error:
                message = f"byte {error.start + 1} of the line is not UTF-8"
                raise refuse("bad-utf-8", message, self.path, line=line) from error
            if not text:
                continue
            try:
                value = decoder.decode_all(text)
            except (ValueError, RecursionError) as error:
                yield Row(line, raw, fault=Fault("not-json", *describe_syntax(error, text)))
            else:
                yield Row(line, raw, value, decoder.find_fault())


def open_source(path: Path, *, on_bytes: Callable[[int], None] | None = None, ending: str | None = None) -> Source:
    """Return the source for any file that Orch reads, told by its ending or by `ending`. Raises nothing yet."""
    return Source(path, on_bytes=on_bytes, ending=ending)


def _lines(first: bytes, chunks: Iterator[bytes]) -> Iterator[bytes]:
    """Yield the lines of a chunked file without their line feeds; a line may span any number of chunks."""
    pending: list[bytes] = []
    chunk = first
    while chunk:
        head, *rest = chunk.split(b"\n")
        pending.append(head)
        if rest:
            yield b"".join(pending)
            yield from rest[:-1]
            pending = [rest[-1]]
        chunk = next(chunks, b"")
    if last := b"".join(pending):
        yield last


def _refuse_binary(head: bytes, path: Path) -> None:
    """Raise DataError when a file's first bytes are those of another encoding or a compressed format."""
    for magic, (name, hint) in _MAGIC.items():
        if head.startswith(magic):
            raise refuse("compressed", f"the file is {name}, not text", path, line=1, hint=hint)
    if head.startswith(_WIDE_BOMS) or b"\0" in head[:4]:
        hint = "save it as UTF-8: iconv -f UTF-16 -t UTF-8 OLD > NEW"
        raise refuse("utf-16", "the file looks like UTF-16 or UTF-32", path, line=1, hint=hint)


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
        near = sorted(p.name for p in path.parent.glob("*") if p.suffix.lower() in ENDINGS)[:3]
        hint = f"that folder holds {', '.join(near)}" if near else None
        raise refuse("file-not-found", "there is no such file", path, hint=hint) from error
    except (OSError, ValueError) as error:
        raise refuse("not-readable", f"the path cannot be used: {error}", path) from error
    if not stat.S_ISREG(found.st_mode):
        kind = "a folder" if stat.S_ISDIR(found.st_mode) else "a pipe or a device"
        raise refuse("not-a-file", f"this is {kind}", path)
    if (ending or path.suffix).lower() not in ENDINGS:
        named = f'the ending "{path.suffix}" is not known' if path.suffix else "the file's name has no ending"
        raise refuse("unknown-ending", named, path)
    if not found.st_size:
        raise refuse("empty-file", "the file is empty", path)
    return found.st_size
