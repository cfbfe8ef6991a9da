"""Chunks of a file become its lines, none of them longer than a row may be."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from orchestrator.data.reasons import refuse
from orchestrator.errors import DataError

LONGEST_ROW = 64 << 20  # bytes: parsed, a row takes several times as many


def split_lines(path: Path, first: bytes, chunks: Iterator[bytes]) -> Iterator[bytes]:
    """Yield the lines of a chunked file without their line feeds; a line may span any number of chunks.

    Raises DataError for a line that is longer than a row may be.
    """
    pending: list[bytes] = []
    size = 0
    line = 1
    chunk = first
    while chunk:
        head, *rest = chunk.split(b"\n")
        pending.append(head)
        size += len(head)
        if size > LONGEST_ROW:
            raise refuse_large(path, line)
        if rest:
            yield b"".join(pending)
            yield from rest[:-1]
            line += len(rest)
            pending, size = [rest[-1]], len(rest[-1])
        chunk = next(chunks, b"")
    if last := b"".join(pending):
        yield last


def refuse_large(path: Path, line: int) -> DataError:
    """Return the error for a row that is longer than one may be."""
    return refuse("row-too-large", f"the row takes more than {LONGEST_ROW >> 20} MiB", path, line=line)
