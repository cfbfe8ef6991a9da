"""The end of a failed stage's log, each line with the process (rank) that said it, and the rank that failed first.

Several processes write into one log. The first to fail takes the others along: these then report a lost connection,
often after the cause and in more words. torchrun prefixes what an exception hook prints with `[rank1]:`, names the
root cause in its summary at the end, and puts the traceback of an error file there.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from orchestrator.machine.files import IrregularFileError, open_regular

TAIL_BYTES = 256 << 10
_CHUNK_BYTES = 1 << 20
_PREFIX = re.compile(r"^\s*(?:\[?(?:rank|default)[0-9]{1,9}\]?:\s?)+", re.IGNORECASE)
_NUMBER = re.compile(r"(rank|default)([0-9]{1,9})", re.IGNORECASE)
_NCCL_RANK = re.compile(r"^\[E.*?\[(?:PG .*?)?Rank ([0-9]{1,9})\]")  # ProcessGroupNCCL's own lines, without a prefix
_ROOT_CAUSE = "Root Cause (first observed failure):"
_OTHER_FAILURES = "Failures:"
_SUMMARY_RANK = re.compile(r"^\s+rank\s*: ([0-9]{1,9}) ")
_SUMMARY_END = re.compile(r"^={4,}$")
_LONGEST_LINE = 1 << 12  # characters: a row that a message quotes; what is wrong stands at the beginning
_INLINE_TRACEBACK = re.compile(r"^\s+traceback : (Traceback \(most recent call last\):)$")


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


@dataclass(frozen=True)
class Line:
    """One line: `text` without the rank's prefix, `raw` as the log has it, `rank` None where nobody says it."""

    text: str
    raw: str
    rank: int | None


def read_lines(text: str) -> list[Line]:
    """Return the lines of a log; a progress bar's returns end lines too."""
    lines = [_read(line[:_LONGEST_LINE].rstrip()) for line in re.split(r"[\r\n]+", text)]
    return _read_summary(lines)


def find_first_failed(lines: Sequence[Line]) -> int | None:
    """Return the rank that torchrun saw fail first; without its word, the first that printed a traceback."""
    for number in range(len(lines) - 1, -1, -1):
        if lines[number].text == _ROOT_CAUSE:
            return _rank_of_summary(lines[number:])
    return next((line.rank for line in lines if line.rank is not None and line.text.startswith("Traceback (")), None)


def count_ranks(lines: Sequence[Line]) -> int:
    """Return how many ranks have said something."""
    return len({line.rank for line in lines} - {None})


def _read(raw: str) -> Line:
    prefix = _PREFIX.match(raw)
    if not prefix:
        own = _NCCL_RANK.match(raw)
        return Line(raw, raw, int(own[1]) if own else None)
    numbers = _NUMBER.findall(prefix[0])
    rank = next((number for kind, number in numbers if kind.lower() == "rank"), numbers[-1][1])
    return Line(raw[prefix.end() :], raw, int(rank))


def _read_summary(lines: list[Line]) -> list[Line]:
    """Read torchrun's summary: the root cause's lines get their rank, its indented traceback the form of any other.

    The failures above it are emptied: torchrun ended these processes itself, and says so as if they had failed.
    """
    starts = [number for number, line in enumerate(lines) if line.text == _ROOT_CAUSE]
    if not starts:
        return lines
    start = starts[-1]
    rank = _rank_of_summary(lines[start:])
    others = next((n for n in range(start, -1, -1) if lines[n].text == _OTHER_FAILURES), start)
    end = next((n for n in range(start, len(lines)) if _SUMMARY_END.match(lines[n].text)), len(lines))
    traceback = next((n for n in range(start, end) if _INLINE_TRACEBACK.match(lines[n].text)), end)
    cause = [
        Line(_outdent(line.text) if number >= traceback else line.text, line.raw, rank)
        for number, line in enumerate(lines[start:end], start)
    ]
    return [*lines[:others], *(Line("", line.raw, None) for line in lines[others:start]), *cause, *lines[end:]]


def _outdent(text: str) -> str:
    inline = _INLINE_TRACEBACK.match(text)
    return inline[1] if inline else text.removeprefix("  ")


def _rank_of_summary(lines: Sequence[Line]) -> int | None:
    return next((int(match[1]) for line in lines if (match := _SUMMARY_RANK.match(line.raw))), None)
