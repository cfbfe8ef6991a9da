"""The encoding of text that is not UTF-8, and the command that makes UTF-8 of it."""

from __future__ import annotations

import shlex
from pathlib import Path

from orchestrator.data.reading.containers import COMPRESSED
from orchestrator.data.reasons import refuse
from orchestrator.errors import DataError

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


class NotUtf8Error(Exception):
    """A line that is not UTF-8: its number, what is wrong in it, and its bytes."""

    def __init__(self, line: int, message: str, raw: bytes) -> None:
        super().__init__(message)
        self.line = line
        self.message = message
        self.raw = raw


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
