"""The end of a log, and the numbers of its lines, however large the log is."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from orchestrator.machine.regular_files import IrregularFileError, open_regular

TAIL_BYTES = 256 << 10
_CHUNK_BYTES = 1 << 20


def read_tail(path: Path, offset: int = 0) -> str:
    """Return the end of a log, at most `TAIL_BYTES`, nothing from before `offset` (an earlier attempt's text)."""
    try:
        with open_regular(path) as stream:
            size = stream.seek(0, 2)
            begin = offset if offset <= size else 0  # somebody emptied the log meanwhile
            stream.seek(max(begin, size - TAIL_BYTES))
            return stream.read().decode("utf-8", errors="replace")
    except (FileNotFoundError, IrregularFileError):
        return ""


def find_line_number(path: Path, evidence: str) -> int | None:
    """Return the number (from 1, as editors count) of the last line in a log's tail that holds `evidence`."""
    before, found, _ = read_tail(path).rpartition(evidence)
    if not found:
        return None
    return count_line_ends(path, max(0, path.stat().st_size - TAIL_BYTES)) + before.count("\n") + 1


def count_line_ends(path: Path, most_bytes: int | None = None) -> int:
    """Return how many lines end in the file, or in its first `most_bytes`; 0 where there is no file.

    A log of bars may hold gigabytes without one line end, so it is never read as lines.
    """
    count = 0
    with suppress(FileNotFoundError, IrregularFileError), open_regular(path) as stream:
        left = path.stat().st_size if most_bytes is None else most_bytes
        while chunk := stream.read(min(_CHUNK_BYTES, left)):
            count += chunk.count(b"\n")
            left -= len(chunk)
    return count
