"""Logs without secrets: a growing file → its new lines, and a finished file in place.

Carriage returns end lines too, so that every refresh of a bar is one. A child may log the tokens of its environment:
they are taken out before a line becomes an event or is printed. In a finished log they are blanked out at their own
length, so that offsets into it stay valid.
"""

from __future__ import annotations

import codecs
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

from orchestrator.machine.files import open_regular
from orchestrator.machine.rundir import StageDir
from orchestrator.machine.secrets import STARS, find_secret_values, find_spans, redact_text

CHUNK_BYTES = 1 << 20
MAX_PENDING_CHARS = 1 << 16
_LONGEST_SECRET = 1 << 14  # characters
_MOST_KEY_LINES = 200
_KEY_BEGINS = re.compile(r"-----BEGIN [A-Z0-9 ]{0,40}PRIVATE KEY[A-Z ]{0,10}-----(?!.*-----END )")
_KEY_ENDS = "PRIVATE KEY-----"
_LINE_END = re.compile(r"\r\n|\n|\r")
_OVERLAP_BYTES = 1 << 14  # longer than any secret: one that two chunks share is found in the second
_STARRED = bytes(byte if byte in b"\r\n" else ord("*") for byte in range(256))  # line numbers stay valid too


class LogFollower:
    """Remembers how far one file was read. Characters and lines that the writer has not finished wait for the rest."""

    def __init__(self, path: Path, offset: int = 0, *, exact: bool = False) -> None:
        """Follow `path` from `offset` bytes on; the file need not exist yet.

        `exact`: lines keep their ends, empty lines are lines, and bytes that are not UTF-8 are surrogates.
        """
        self.path = path
        self.offset = offset
        self._exact = exact
        self._pending = ""
        self._begin_anew()
        self._secrets = find_secret_values(os.environ)

    @property
    def unfinished(self) -> str:
        """The line that the writer has begun."""
        return self._pending

    def iter_lines(self, *, at_end: bool = False, most_bytes: int | None = None) -> Iterator[str]:
        """Yield the non-empty lines that were finished since the last call, while the file is read.

        A log of gigabytes is never in memory as a whole: after `most_bytes` it ends, and the next call goes on from
        there. With `at_end` the writer is gone, so an unfinished last line is a line as well.
        """
        read = 0
        while (most_bytes is None or read < most_bytes) and (chunk := self._read_chunk()):
            read += len(chunk)
            yield from self._split(self._decoder.decode(chunk))
        if at_end:
            yield from self._split(self._decoder.decode(b"", final=True) + "\n" * (not self._exact))
            if self._exact and self._pending:
                yield self._redact(self._pending)
                self._pending = ""

    def _begin_anew(self) -> None:
        errors = "surrogateescape" if self._exact else "replace"
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors=errors)
        self._pending = ""
        self._in_key = 0

    def _read_chunk(self) -> bytes:
        try:
            with open_regular(self.path, follow=False) as stream:
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
        if self._exact:
            ends = _LINE_END.findall(self._pending + text)
            finished = [line + end for line, end in zip(finished, ends, strict=True)]
        if len(pending) > MAX_PENDING_CHARS:  # a writer that never ends a line must not fill the memory
            cut = self._find_joint(pending)
            finished.append(pending[:cut])
            pending = pending[cut:]
        self._pending = pending
        return [self._redact(line) for line in finished if self._exact or line.strip()]

    def _find_joint(self, text: str) -> int:
        """Return where a line without end may be cut: no secret stands there, and none that has only begun."""
        cut = len(text) - _LONGEST_SECRET
        for begin, end in find_spans(text, self._secrets):
            if begin - len("://") < cut < end:
                return begin - len("://") if begin > len("://") else end
        return cut

    def _redact(self, line: str) -> str:
        """Return the line without secrets; a private key's lines show by their place alone what they are."""
        if self._in_key:
            self._in_key -= 1
            if _KEY_ENDS not in line:
                return STARS + line[len(line.rstrip("\r\n")) :]
            self._in_key = 0
            line = STARS + line.rpartition(_KEY_ENDS)[2]
        redacted = redact_text(line, self._secrets)
        if _KEY_BEGINS.search(line):
            self._in_key = _MOST_KEY_LINES
        return redacted


def scrub_logs(stage: StageDir) -> None:
    """Take the secrets of this environment, which the stage inherited, out of its logs."""
    values = find_secret_values(os.environ)
    for path in (stage.stdout_log, stage.stderr_log):
        scrub_log(path, values)


def scrub_log(path: Path, values: Iterable[str]) -> int:
    """Overwrite every secret in the file by stars and return how many there were; nothing where there is no file.

    What is a secret, `find_spans` says. A file that cannot be written, or is a link, is left as it is: what Orch prints
    of it is redacted all the same.
    """
    # bytes as letters: a secret that is not ASCII is looked for by its bytes, in a log that need not be UTF-8
    letters = tuple(value.encode("utf-8", "surrogateescape").decode("latin-1") for value in values)
    count = 0
    with suppress(OSError), open_regular(path, follow=False, write=True) as stream:
        offset, before = 0, b""
        while chunk := stream.read(CHUNK_BYTES):
            text, start = bytearray(before + chunk), offset - len(before)
            more = len(chunk) == CHUNK_BYTES  # a secret at the very end may go on: it is found whole in the next chunk
            spans = find_spans(text.decode("latin-1"), letters)
            spans = [span for span in spans if not (more and span[1] == len(text))]
            for begin, end in spans:
                text[begin:end] = text[begin:end].translate(_STARRED)
            if spans:
                begin, end = spans[0][0], spans[-1][1]
                stream.seek(start + begin)
                stream.write(text[begin:end])
            count += len(spans)
            offset += len(chunk)
            before = bytes(text[-_OVERLAP_BYTES:])
            stream.seek(offset)
    return count
