"""Blanks out secrets in a log file, in place and at their own length, so that offsets into it stay valid."""

from __future__ import annotations

import os
import re
from contextlib import suppress
from typing import TYPE_CHECKING

from orchestrator.secrets import TOKENS, USER_INFO, find_secret_values

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from orchestrator.rundir import StageDir

CHUNK_BYTES = 1 << 20
_OVERLAP_BYTES = 1 << 13  # longer than any secret: one that two chunks share is found in the second


def scrub_logs(stage: StageDir) -> None:
    """Take the secrets of this environment, which the stage inherited, out of its logs."""
    values = find_secret_values(os.environ)
    for path in (stage.stdout_log, stage.stderr_log):
        scrub_log(path, values)


def scrub_log(path: Path, values: Iterable[str]) -> int:
    """Overwrite every secret in the file by stars and return how many there were; nothing where there is no file.

    Secrets are the given `values`, tokens that can be told by their form, and what stands before the @ of a URL. A file
    that cannot be written is left as it is: what Orch prints of it is redacted all the same.
    """
    patterns = [re.compile(pattern.pattern.encode()) for pattern in (TOKENS, USER_INFO)]
    patterns += [re.compile(re.escape(value.encode("utf-8", "surrogateescape"))) for value in values]
    count = 0
    with suppress(OSError), path.open("r+b") as stream:
        offset, before = 0, b""
        while chunk := stream.read(CHUNK_BYTES):
            text, start = before + chunk, offset - len(before)
            more = len(chunk) == CHUNK_BYTES  # a secret at the very end may go on: it is found whole in the next chunk
            found = [match.span() for pattern in patterns for match in pattern.finditer(text)]
            for begin, end in [span for span in found if not (more and span[1] == len(text))]:
                stream.seek(start + begin)
                stream.write(b"*" * (end - begin))
                text = text[:begin] + b"*" * (end - begin) + text[end:]
                count += 1
            offset += len(chunk)
            before = text[-_OVERLAP_BYTES:]
            stream.seek(offset)
    return count
