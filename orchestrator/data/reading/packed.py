"""What stands around a file's text: how it is packed and encoded, and what a file holds that is no text."""

from __future__ import annotations

import bz2
import codecs
import gzip
import io
import lzma
import shlex
import zlib
from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO, cast

from orchestrator.data.reading.json_rows import NotUtf8Error
from orchestrator.data.reasons import refuse
from orchestrator.errors import DataError

BROKEN = (gzip.BadGzipFile, EOFError, zlib.error, lzma.LZMAError)
_BUFFER_BYTES = 1 << 20
_OTHER_ENCODING = "correct data.encoding (--encoding); for files of several encodings say auto"
_ZSTD_STEP = 1 << 11  # a block of 128 KiB may take four bytes
_OPENERS: dict[bytes, Callable[[BinaryIO], Any]] = {
    b"\x1f\x8b": lambda stream: gzip.GzipFile(fileobj=stream),
    b"BZh": bz2.BZ2File,
    b"\xfd7zXZ\0": lzma.LZMAFile,
    b"\x28\xb5\x2f\xfd": lambda stream: io.BufferedReader(_Unzstd(stream)),
}
_MAGIC = {b"PK\x03\x04": ".zip", b"PAR1": ".parquet", b"ARROW1": ".arrow"}
_NAMES = {
    ".zip": "a zip archive",
    ".xls": "an Excel sheet",
    ".tar": "a tar archive",
    ".tgz": "a tar archive",
    ".parquet": "Parquet",
    ".arrow": "Arrow",
    ".feather": "Arrow",
}


class _Unzstd(io.RawIOBase):
    """The contents of a Zstandard file, frame after frame; one that does not end is an error, as in the others."""

    def __init__(self, stream: BinaryIO) -> None:
        import zstandard

        self._stream, self._error = stream, zstandard.ZstdError
        self._decompressor, self._ready = zstandard.ZstdDecompressor(), b""
        self._frame: Any = None

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        frame = self._frame
        while not self._ready:
            data = (frame.unused_data if frame and frame.eof else b"") or self._stream.read(_ZSTD_STEP)
            if not data and frame and not frame.eof:
                raise EOFError("the file ends inside a frame")
            if not data:
                return 0
            if frame is None or frame.eof:
                frame = self._frame = self._decompressor.decompressobj()
            try:
                self._ready = frame.decompress(data)
            except self._error as error:
                raise EOFError(str(error)) from error
        count = min(len(buffer), len(self._ready))
        buffer[:count], self._ready = self._ready[:count], self._ready[count:]
        return count


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


def open_contents(stream: BinaryIO, on_bytes: Callable[[bytes], None]) -> tuple[BinaryIO, bool]:
    """Return the unpacked contents of an open file, told by its first bytes, and whether it was packed.

    `on_bytes` gets the file's own bytes.
    """
    counted = io.BufferedReader(_Counted(stream, on_bytes), _BUFFER_BYTES)
    head = counted.peek(8)
    for magic, unpack in _OPENERS.items():
        if head.startswith(magic):
            return cast("BinaryIO", unpack(cast("BinaryIO", counted))), True
    return cast("BinaryIO", counted), False


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
        ".zip": f"unpack it: unzip {name}",
        ".tar": f"unpack it: tar -xf {name}",
        ".tgz": f"unpack it: tar -xf {name}",
        ".xls": f'save it as .csv: python -c "{script}" {name} {new}',
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
    """Return UTF-16 or UTF-32, where a file's first bytes are such; None for all others."""
    for mark, name in _WIDE.items():
        if head.startswith(mark):
            return name
    zeros = [place for place, byte in enumerate(head[:4]) if byte == 0]
    if zeros in ([1, 3], [1], [3]):  # one of two characters may be Chinese
        return "UTF-16LE"
    return {(0, 2): "UTF-16BE", (0,): "UTF-16BE", (1, 2, 3): "UTF-32LE", (0, 1, 2): "UTF-32BE"}.get(tuple(zeros))


def guess_encoding(sample: bytes) -> str | None:
    """Return the likeliest encoding of text that is not UTF-8, or None where there is too little to tell."""
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
    return refuse("bad-utf-8", message, path, line=error.line, hint=_advise(encoding))


AUTO = "auto"  # as data.encoding: what the file's beginning looks like


def _advise(encoding: str) -> str:
    return f"say data.encoding: {encoding} (--encoding {encoding}), or save the file as UTF-8"


def find_encoding(head: bytes, encoding: str | None) -> str | None:
    """Return the encoding to read a file by, None for UTF-8, from its beginning and what was said of it."""
    if encoding != AUTO:
        return encoding
    if wide := find_wide(head):
        return wide
    try:
        codecs.getincrementaldecoder("utf-8")().decode(head)
    except UnicodeDecodeError:
        return guess_encoding(head)
    return None


def decode_chunks(chunks: Iterator[bytes], encoding: str, path: Path) -> Iterator[bytes]:
    """Yield text of another encoding as UTF-8. Raises DataError where it is none."""
    decoder, lines = codecs.getincrementaldecoder(encoding)(), 0
    for chunk in chain(chunks, (b"",)):
        try:
            text = decoder.decode(chunk, final=not chunk)
        except UnicodeError as error:
            before = chunk[: getattr(error, "start", 0)].decode(encoding, "replace")
            message = f"a byte sequence is not {encoding}, as data.encoding says"
            line = lines + before.count("\n") + 1
            raise refuse("bad-utf-8", message, path, line=line, hint=_OTHER_ENCODING) from error
        lines += text.count("\n")
        if text:
            yield text.encode("utf-8", "replace")


def refuse_wide(head: bytes, path: Path) -> None:
    """Raise DataError when a file's first bytes are UTF-16 or UTF-32."""
    if encoding := find_wide(head):
        message = f"the file looks like {encoding}"
        raise refuse("utf-16", message, path, line=1, hint=_advise(encoding))
