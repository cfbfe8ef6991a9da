"""The lines of a failed stage, each with the process (rank) that said it, and the rank that failed first.

Several processes write into one log. The first to fail takes the others along: these then report a lost connection,
often after the cause and in more words. torchrun prefixes what an exception hook prints with `[rank1]:`, names the
root cause in its summary at the end, and puts the traceback of an error file there.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

_PREFIX = re.compile(r"^\s*(?:\[?(?:rank|default)[0-9]{1,9}\]?:\s?)+", re.IGNORECASE)
_NUMBER = re.compile(r"(rank|default)([0-9]{1,9})", re.IGNORECASE)
_NCCL_RANK = re.compile(r"^\[E.*?\[(?:PG .*?)?Rank ([0-9]{1,9})\]")  # ProcessGroupNCCL's own lines, without a prefix
_ROOT_CAUSE = "Root Cause (first observed failure):"
_OTHER_FAILURES = "Failures:"
_SUMMARY_RANK = re.compile(r"^\s+rank\s*: ([0-9]{1,9}) ")
_SUMMARY_END = re.compile(r"^={4,}$")
_LONGEST_LINE = 1 << 12  # characters: a row that a message quotes; what is wrong stands at the beginning
_INLINE_TRACEBACK = re.compile(r"^\s+traceback : (Traceback \(most recent call last\):)$")


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
