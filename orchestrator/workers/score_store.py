"""Scores on disk: what every scoring leaves, what is kept of it across runs, and single scores as they come.

The same model, data, format and versions give the same scores. An entry that is damaged, that another user wrote, or
that holds other rows than are asked for, counts as absent.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import math
import os
import stat
import sys
import zlib
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from orchestrator.workers.environment import read_versions, weight_options
from orchestrator.workers.folders import write_json, write_text
from orchestrator.workers.hubs import find_origin
from orchestrator.workers.weights import hash_file, identify_model

Fits = Callable[[list[dict[str, Any]]], bool]

SCORES, FACTS = "scores.jsonl", "scoring.json"
WAY = 2  # raised when another way of computing may change a score's last digits
_LARGEST_BYTES = 1 << 31
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_APPEND = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK


def describe_scoring(model: str, spec: dict[str, Any], device: str) -> dict[str, Any]:
    """Return how every scoring.json begins."""
    origin = find_origin(model)
    found = {"version": 1, "model": model, "spec": spec, "device": device, "versions": read_versions()}
    return found if origin is None else {**found, "origin": origin}


def all_scored(rows: Iterable[dict[str, Any]]) -> bool:
    """Tell whether each row has a score, which is a number."""
    return all(isinstance(row["score"], (int, float)) for row in rows)


def describe_range(scores: Sequence[float], same: float = 0.0) -> dict[str, Any]:
    """Return the facts about the scores; they are constant when they differ by no more than `same`."""
    lowest, highest = min(scores), max(scores)
    return {"min": lowest, "max": highest, "constant": highest - lowest <= same}


def find_entry(  # noqa: PLR0917  the parts of a key
    cache: Path, model: str, spec: dict[str, Any], data: Path | None, device: str, corpus: Path | None = None
) -> Path | None:
    """Return the place where these scores belong; None for a model whose content nobody can tell from here.

    Content decides, not names: a folder that was trained on, or a hub model that was updated, is another model. What
    only names a spec (its label) does not count. `data` None is for scores that are kept pair by pair, of any data.
    """
    files = identify_model(model)
    if files is None:
        return None
    parts: dict[str, Any] = {
        "spec": {key: value for key, value in spec.items() if key not in {"name", "label"}},
        "model": files,
        "loading": weight_options(),
        "versions": read_versions(),
        "device": device,
        "way": WAY,
    }
    parts |= {name: hash_file(path) for name, path in (("data", data), ("corpus", corpus)) if path is not None}
    return cache / hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def copy_entry(entry: Path, out: Path, spec: dict[str, Any], fits: Fits = bool) -> bool:
    """Copy kept scores to `out`, with this run's spec; return False where there are none.

    `fits` says whether the rows are those that are asked for.
    """
    try:
        with open(_open_own(entry, _READ), "rb") as stream:
            if os.fstat(stream.fileno()).st_size > _LARGEST_BYTES:
                return False
            digest, _, content = stream.read().decode().partition("\n")
        if hashlib.sha256(content.encode()).hexdigest() != digest:
            return False
        facts, _, scores = content.partition("\n")
        found = _parse(facts)
        if not fits([_parse(line) for line in scores.split("\n") if line]):
            return False
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return False
    write_text(out / SCORES, scores)
    write_json(out / FACTS, {**found, "spec": spec, "from_cache": str(entry)})
    return True


def keep_entry(entry: Path, out: Path) -> None:
    """Keep the scores in `out` as one file: the sha256 of the rest, the facts in one line, and the scores.

    A damaged one is replaced; a cache that cannot be written is no failure.
    """
    with contextlib.suppress(OSError):
        facts = json.dumps(json.loads((out / FACTS).read_text(encoding="utf-8")))
        content = f"{facts}\n{(out / SCORES).read_text(encoding='utf-8')}"
        write_text(entry, f"{hashlib.sha256(content.encode()).hexdigest()}\n{content}", mode=0o600)


def digest_key(query: str, document: str, prompt: str | None = None) -> bytes:
    """Return what a pair's score is kept under; texts decide what it is, not the ids that a file gives it."""
    state = hashlib.blake2b(digest_size=16)
    for text in (query, document) if prompt is None else (query, document, prompt):
        data = text.encode(errors="surrogatepass")
        state.update(len(data).to_bytes(8, "little") + data)
    return state.digest()


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
        rows = ({"pair": key.hex(), "score": score, "sum": _sum(key, score)} for key, score in found)
        try:
            _append_whole(self.descriptor, "".join(json.dumps(row) + "\n" for row in rows).encode())
        except OSError as error:
            sys.stderr.write(f"scores are no longer kept: {error.strerror}\n")
            self.descriptor = None


@contextlib.contextmanager
def open_journal(folder: Path | None, wanted: Container[bytes]) -> Iterator[Journal]:
    """Give the journal of a folder with the kept scores of the wanted pairs; without a folder nothing is kept.

    Several processes may append at once: each writes whole lines under a lock. A line that a killed one left unfinished
    is skipped.
    """
    journal = Journal()
    if folder is not None:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            journal.descriptor = _open_own(folder / SCORES, _APPEND)
        except OSError as error:
            sys.stderr.write(f"{folder}: scores cannot be kept: {error.strerror}\n")
    if (descriptor := journal.descriptor) is None:
        yield journal
        return
    try:
        with open(os.dup(descriptor), "rb") as stream:  # noqa: PTH123  a descriptor
            stream.seek(0)
            for found in filter(None, map(_parse_kept, stream)):
                if found[0] in wanted:
                    journal.scores.setdefault(*found)
        yield journal
    finally:
        with contextlib.suppress(OSError):
            os.fsync(descriptor)
        os.close(descriptor)


def _parse_kept(raw: bytes) -> tuple[bytes, float] | None:
    """Return digest and score of a line; None for one that a kill or a damage has left."""
    try:
        row = _parse(raw)
        key, score = bytes.fromhex(row["pair"]), row["score"]
        return (key, score) if isinstance(score, float) and row["sum"] == _sum(key, score) else None
    except (ValueError, TypeError, KeyError, RecursionError):
        return None


def _sum(key: bytes, score: float) -> int:
    """Return what tells a line that was changed on the disk."""
    return zlib.crc32(key + repr(score).encode())


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


def _open_own(path: Path, flags: int) -> int:
    """Open a file of the cache. Raises OSError for one that another user may have written."""
    descriptor = os.open(path, flags, 0o600)
    found = os.fstat(descriptor)
    others_may_write = found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    if stat.S_ISREG(found.st_mode) and found.st_uid == os.geteuid() and not others_may_write:
        return descriptor
    os.close(descriptor)
    raise OSError(errno.EPERM, "it is another user's, or others may write it")


def _parse(text: str | bytes) -> dict[str, Any]:
    """Return a JSON object. Raises TypeError or ValueError for anything else, and for NaN and infinity in it."""
    found = json.loads(text)
    if not isinstance(found, dict):
        raise TypeError("not a JSON object")
    if any(isinstance(value, float) and not math.isfinite(value) for value in found.values()):
        raise ValueError("a number is not finite")
    return found
