"""A file of JSON Lines, a JSON list, separated text, Parquet or Arrow becomes rows with line numbers, streamed.

Memory is bounded by the longest row, which has a bound itself, and not by the file. What makes a whole file unusable
(encoding, a damaged archive, a broken list) is raised as a DataError with its line; what spoils one line only is handed
on as that row's fault.
"""

from __future__ import annotations

import bz2
import gzip
import hashlib
import io
import lzma
import shlex
import stat
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, cast

from orchestrator.data.reading.file_sets import ARROW, COMPRESSED, DELIMITERS, ENDINGS, PARQUET, find_ending
from orchestrator.data.reading.json_rows import (
    NotUtf8Error,
    Row,
    RowDecoder,
    find_json_form,
    read_list,
    read_values,
    split_lines,
    unwrap,
)
from orchestrator.data.reading.tabular import read_arrow, read_delimited, read_parquet
from orchestrator.data.reasons import refuse
from orchestrator.errors import DataError

BROKEN = (gzip.BadGzipFile, EOFError, zlib.error, lzma.LZMAError)
_BUFFER_BYTES = 1 << 20
_OPENERS: dict[bytes, Callable[[BinaryIO], Any]] = {
    b"\x1f\x8b": lambda stream: gzip.GzipFile(fileobj=stream),
    b"BZh": bz2.BZ2File,
    b"\xfd7zXZ\0": lzma.LZMAFile,
}
_MAGIC = {b"\x28\xb5\x2f\xfd": ".zst", b"PK\x03\x04": ".zip", b"PAR1": ".parquet", b"ARROW1": ".arrow"}
_NAMES = {
    ".zst": "Zstandard",
    ".zip": "a zip archive",
    ".xlsx": "an Excel sheet",
    ".xls": "an Excel sheet",
    ".tar": "a tar archive",
    ".tgz": "a tar archive",
    ".parquet": "Parquet",
    ".arrow": "Arrow",
    ".feather": "Arrow",
}


class _Counted(io.RawIOBase):
    """A file's own bytes, told to `on_bytes` as they are read."""

    def __init__(self, stream: BinaryIO, on_bytes: Callable[[bytes], None]) -> None:
        self._stream = stream
        self._on_bytes = on_bytes

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._stream.read(len(buffer))
        buffer[: len(data)] = data
        self._on_bytes(data)
        return len(data)


def open_contents(stream: BinaryIO, on_bytes: Callable[[bytes], None]) -> BinaryIO:
    """Return the unpacked contents of an open file, told by its first bytes; `on_bytes` gets the file's own bytes."""
    counted = io.BufferedReader(_Counted(stream, on_bytes), _BUFFER_BYTES)
    head = counted.peek(8)
    for magic, unpack in _OPENERS.items():
        if head.startswith(magic):
            return cast("BinaryIO", unpack(cast("BinaryIO", counted)))
    return cast("BinaryIO", counted)


def describe_container(path: Path, ending: str) -> tuple[str, str] | None:
    """Return what a file with an ending that is not read holds, and the command that makes a readable one of it."""
    name = shlex.quote(str(path))
    if path.name.lower().endswith((".tar.gz", ".tar.bz2", ".tar.xz")):
        ending = ".tar"
    if ending not in _NAMES:
        return None
    new = shlex.quote(str(path.with_suffix(".csv")))
    script = "import sys, pandas; pandas.read_excel(sys.argv[1]).to_csv(sys.argv[2], index=False)"
    hints = {
        ".zst": f"unpack it: unzstd {name}",
        ".zip": f"unpack it: unzip {name}",
        ".tar": f"unpack it: tar -xf {name}",
        ".tgz": f"unpack it: tar -xf {name}",
        **dict.fromkeys((".xlsx", ".xls"), f'save it as .csv: python -c "{script}" {name} {new}'),
    }
    return _NAMES[ending], hints.get(ending, f"rename it: mv {name} {shlex.quote(str(path.with_suffix(ending)))}")


def refuse_container(head: bytes, path: Path) -> None:
    """Raise DataError when a file that should hold text begins as a container does."""
    for magic, ending in _MAGIC.items():
        if head.startswith(magic):
            name, hint = describe_container(path, ending) or ("", "")
            raise refuse("compressed", f"the file is {name}, not text", path, line=1, hint=hint)
    start = head[:200].lstrip().lower()
    if start.startswith(b"version https://git-lfs"):
        message = "the file is a pointer of Git LFS, and not what it points to"
        raise refuse("compressed", message, path, line=1, hint="fetch the data: git lfs pull, in its repository")
    if start.startswith((b"<!doctype html", b"<html")):
        raise refuse("compressed", "the file is a web page", path, line=1, hint="download the data file itself")


SAMPLE_BYTES = 1 << 16
_WIDE = {
    b"\xff\xfe\0\0": "UTF-32",
    b"\0\0\xfe\xff": "UTF-32",
    b"\xff\xfe": "UTF-16",
    b"\xfe\xff": "UTF-16",
}
_COMMON_HAN = {bytes((first,)) for first in range(0xB0, 0xD8)}  # first bytes of GB 2312's 3,755 most common characters
_MOSTLY = 0.7
_EVIDENCE = 20  # bytes beyond ASCII: of a few stray ones no encoding can be told
_ICONV_NAMES = {"latin_1": "ISO-8859-1", "mac_roman": "MACINTOSH", "utf_8_sig": "UTF-8", "big5hkscs": "BIG5-HKSCS"}


def find_wide(head: bytes) -> str | None:
    """Return UTF-16 or UTF-32, in iconv's words, where a file's first bytes are such; None for all others."""
    for mark, name in _WIDE.items():
        if head.startswith(mark):
            return name
    zeros = [place for place, byte in enumerate(head[:4]) if byte == 0]
    if zeros in ([1, 3], [1], [3]):  # one of two characters may be Chinese
        return "UTF-16LE"
    return {(0, 2): "UTF-16BE", (0,): "UTF-16BE", (1, 2, 3): "UTF-32LE", (0, 1, 2): "UTF-32BE"}.get(tuple(zeros))


def guess_encoding(sample: bytes) -> str | None:
    """Return the likeliest encoding of text that is not UTF-8, as iconv calls it, or None where there is too little."""
    if _is_chinese(sample):
        return "GB18030"  # GBK and GB 2312 are parts of it
    if sum(byte > 0x7F for byte in sample) < _EVIDENCE:  # noqa: PLR2004  the last of ASCII
        return None
    from charset_normalizer import from_bytes

    best = from_bytes(sample).best()
    if best is None or best.encoding in {"utf_8", "ascii"}:
        return None
    return _ICONV_NAMES.get(best.encoding, best.encoding.upper().replace("_", "-"))


def _is_chinese(sample: bytes) -> bool:
    """Whether most of what is beyond ASCII are common simplified characters in GB 18030."""
    text = sample.decode("gb18030", "ignore")
    beyond = [letter for letter in text if letter > "\x7f"]
    common = sum(letter.encode("gb2312", "ignore")[:1] in _COMMON_HAN for letter in beyond)
    return bool(beyond) and common >= _MOSTLY * len(beyond)


def build_encoding_error(path: Path, error: NotUtf8Error, sample: bytes) -> DataError:
    """Return the error for a file with a line that is not UTF-8; `sample` is its beginning."""
    encoding = guess_encoding(sample + b"\n" + error.raw[:SAMPLE_BYTES])
    if encoding is None:
        return refuse("bad-utf-8", error.message, path, line=error.line)
    message = f"{error.message}; the file looks like {encoding}"
    return refuse("bad-utf-8", message, path, line=error.line, hint=advise_iconv(path, encoding))


def advise_iconv(path: Path, encoding: str) -> str:
    """Return the command that writes the file anew in UTF-8."""
    name = shlex.quote(str(path))
    packed = path.suffix.lower() in COMPRESSED
    bare = path.with_suffix("") if packed else path
    new = shlex.quote(str(bare.with_name(f"{bare.stem}.utf8{bare.suffix}")))
    if packed:
        tool = {".gz": "gzip", ".bz2": "bzip2", ".xz": "xz"}[path.suffix.lower()]
        return f"{tool} -dc {name} | iconv -f {encoding} -t UTF-8 > {new}"
    return f"iconv -f {encoding} -t UTF-8 {name} > {new}"


CHUNK_BYTES = 1 << 20
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
        self.name = show_path(path.name)
        self.ending = (ending or find_ending(path)).lower()
        self.rows_in = 0
        self.holds_list = False
        self._on_bytes = on_bytes
        self._chunk_bytes = chunk_bytes
        self._hash = hashlib.sha256()
        self._rows_key = rows_key
        self._sample = b""
        self._text_start: int | None = None  # where the first line stands in the file, unless that is packed

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
            text = chunk
            if at_start:
                _refuse_binary(chunk, self.path)
                text = chunk.removeprefix(_UTF8_BOM)
                self._text_start = len(chunk) - len(text) if isinstance(stream, io.BufferedReader) else None
            at_start = False
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
