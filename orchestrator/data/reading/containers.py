"""Compressed files are read as what is in them; what cannot be read is named, with the command that unpacks it."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import shlex
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, cast

from orchestrator.data.reasons import refuse

COMPRESSED = (".gz", ".bz2", ".xz")
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


def find_ending(path: Path) -> str:
    """Return the ending that tells what rows a file holds: of `rows.jsonl.gz` it is `.jsonl`."""
    suffix = path.suffix.lower()
    return path.with_suffix("").suffix.lower() if suffix in COMPRESSED else suffix


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
