"""Blanks out secrets in a log file, in place and at their own length, so that offsets into it stay valid."""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from orchestrator.machine.regular_files import open_regular
from orchestrator.machine.rundir import StageDir
from orchestrator.machine.secrets import find_secret_values, find_spans

CHUNK_BYTES = 1 << 20
_OVERLAP_BYTES = 1 << 14  # longer than any secret: one that two chunks share is found in the second
_STARRED = bytes(byte if byte in b"\r\n" else ord("*") for byte in range(256))  # line numbers stay valid too


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
