"""Scores kept pair by pair as they come: a killed worker's are there when it starts again, and for other runs too."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import math
import os
import stat
import sys
import zlib
from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from orchestrator.workers.score_cache import belongs_to_us

NAME = "scores.jsonl"
_OPENED = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK


@dataclass
class Journal:
    """The known scores by the digest of a pair, and the file that new ones are appended to, or None."""

    descriptor: int | None = None
    scores: dict[bytes, float] = field(default_factory=dict)

    def append(self, found: Sequence[tuple[bytes, float]]) -> None:
        """Keep new scores; a file that cannot be written any more costs only what a stop would lose."""
        self.scores.update(found)
        if self.descriptor is None:
            return
        lines = "".join(_format(key, score) for key, score in found)
        try:
            _append_whole(self.descriptor, lines.encode())
        except OSError as error:
            sys.stderr.write(f"scores are no longer kept: {error.strerror}\n")
            self.descriptor = None


@contextlib.contextmanager
def open_journal(folder: Path | None, wanted: Container[bytes]) -> Iterator[Journal]:
    """Give the journal of a folder with the kept scores of the wanted pairs; without a folder nothing is kept.

    Several processes may append at once: each writes whole lines under a lock. A line that a killed one left unfinished
    is passed over.
    """
    descriptor = None
    if folder is not None:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            descriptor = _open(folder / NAME)
        except OSError as error:
            sys.stderr.write(f"{folder}: scores cannot be kept: {error.strerror}\n")
    try:
        yield Journal(descriptor, {} if descriptor is None else _read(descriptor, wanted))
    finally:
        if descriptor is not None:
            with contextlib.suppress(OSError):
                os.fsync(descriptor)
            os.close(descriptor)


def _read(descriptor: int, wanted: Container[bytes]) -> dict[bytes, float]:
    scores: dict[bytes, float] = {}
    with open(os.dup(descriptor), "rb") as stream:  # noqa: PTH123  a descriptor
        stream.seek(0)
        for raw in stream:
            found = _parse(raw)
            if found and found[0] in wanted:
                scores.setdefault(*found)
    return scores


def _parse(raw: bytes) -> tuple[bytes, float] | None:
    """Return digest and score of a line; None for one that a kill or a damage has left."""
    try:
        row: Any = json.loads(raw)
        key, score = bytes.fromhex(row["pair"]), row["score"]
        whole = isinstance(score, float) and row["sum"] == _sum(key, score)
    except (ValueError, TypeError, KeyError, RecursionError):
        return None
    return (key, score) if whole and math.isfinite(score) else None


def _format(key: bytes, score: float) -> str:
    return json.dumps({"pair": key.hex(), "score": score, "sum": _sum(key, score)}) + "\n"


def _sum(key: bytes, score: float) -> int:
    """Return what tells a line that was changed on the disk."""
    return zlib.crc32(key + repr(score).encode())


def _open(path: Path) -> int:
    """Open a journal for reading and appending. Raises OSError for one that another user may have written."""
    descriptor = os.open(path, _OPENED, 0o600)
    found = os.fstat(descriptor)
    if stat.S_ISREG(found.st_mode) and belongs_to_us(found):
        return descriptor
    os.close(descriptor)
    raise OSError(errno.EPERM, "it is another user's, or others may write it")


def _append_whole(descriptor: int, data: bytes) -> None:
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    try:
        size = os.fstat(descriptor).st_size
        if size and os.pread(descriptor, 1, size - 1) != b"\n":  # a killed process stopped within a line
            data = b"\n" + data
        while data:
            data = data[os.write(descriptor, data) :]
    finally:
        fcntl.flock(descriptor, fcntl.LOCK_UN)
