"""Lines of JSON, and files that appear all together or not at all; the names of prepared files."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

import msgspec

from orchestrator.data.reasons import refuse
from orchestrator.machine.files import create_part, remove_parts
from orchestrator.machine.rundir import RunDir

# Python's str.splitlines ends a line at these, and JSON leaves them as they are.
_LINE_BREAKS = {character.encode(): f"\\u{ord(character):04x}".encode() for character in "\x85\u2028\u2029"}


def format_line(row: dict[str, Any]) -> bytes:
    """Return one line of JSON Lines, UTF-8, the same bytes for the same row.

    It is written as Python's json.dumps does, which takes ten times as long where there are no fractions.
    """
    if _has_fraction(row):  # 1e16, which is 1e+16 in Python
        line = json.dumps(row, ensure_ascii=False, allow_nan=False).encode()
    else:
        line = msgspec.json.format(msgspec.json.encode(row), indent=0)
    if not line.isascii():
        for character, escaped in _LINE_BREAKS.items():
            if character in line:
                line = line.replace(character, escaped)
    return line + b"\n"


def _has_fraction(row: dict[str, Any]) -> bool:
    waiting: list[Any] = [row]
    while waiting:
        value = waiting.pop()
        if isinstance(value, list | tuple):
            if not _PLAIN.issuperset(map(type, value)):
                waiting.extend(value)
        elif isinstance(value, dict):
            waiting.extend(value.values())
        elif type(value) not in _PLAIN:
            return True
    return False


_PLAIN = {str, int, bool, type(None)}


@dataclass
class _Part:
    path: Path
    part: Path
    stream: BinaryIO


class FileSet:
    """Files written beside their final names; `commit` renames them, leaving the block without it removes them."""

    def __init__(self) -> None:
        self._parts: list[_Part] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for part in self._parts:
            with contextlib.suppress(OSError):  # a full disk, which is on its way up already
                part.stream.close()
            part.part.unlink(missing_ok=True)
        self._parts.clear()

    def open(self, path: Path) -> BinaryIO:
        """Return a stream whose contents will be `path`."""
        part, descriptor = create_part(path)
        self._parts.append(_Part(path, part, os.fdopen(descriptor, "wb", buffering=1 << 20)))
        return self._parts[-1].stream

    def commit(self) -> None:
        """Give every file its name, once all are on disk; in the order in which they were opened."""
        for part in self._parts:
            part.stream.flush()
            os.fsync(part.stream.fileno())
            part.stream.close()
        for part in self._parts:
            part.part.replace(part.path)
        self._parts.clear()


def remove_files(paths: Sequence[Path]) -> None:
    """Remove files, where they exist, and what an interrupted `FileSet` left of them."""
    for path in paths:
        path.unlink(missing_ok=True)
        remove_parts(path)


_NAMES = RunDir(Path())
STATS, LEDGER = _NAMES.stats_json.name, _NAMES.ledger_json.name
EVAL, CORPUS = _NAMES.eval_jsonl.name, _NAMES.corpus_jsonl.name
VALIDATION, TRAIN = _NAMES.validation_jsonl.name, _NAMES.train_jsonl.name
SOURCES = _NAMES.train_sources.name
FAILED_LEDGER = "ledger.failed.json"


def format_json(value: object) -> bytes:
    """Return a JSON file's bytes, the same for the same value."""
    return (json.dumps(value, ensure_ascii=False, indent=2, allow_nan=False) + "\n").encode()


def refuse_input_as_output(inputs: Iterable[Path], outputs: Iterable[Path]) -> None:
    """Raise DataError where a file to read would be overwritten."""
    written = {os.path.realpath(path) for path in outputs}
    for path in inputs:
        if os.path.realpath(path) in written:
            raise refuse("input-is-output", "this file would be overwritten by the prepared one", path)


def require_new_rows(outs: Sequence[Path], inputs: Iterable[Path] = (), *, force: bool | None = None) -> None:
    """Raise DataError for an output that is read, is there already (without `force`), or is not named JSON Lines.

    The first of `outs` holds the rows. `force` None: the command has no such option.
    """
    read = {os.path.realpath(path) for path in inputs}
    for out in outs:
        if os.path.realpath(out) in read:
            raise refuse("input-is-output", "this file is read, and would be overwritten", out)
        if (out.exists() or out.is_symlink()) and not force:
            hint = None if force is None else "name another one, or give --force"
            raise refuse("output-exists", "this file exists already", out, hint=hint)
    if outs[0].suffix.lower() not in {".jsonl", ".ndjson"}:
        hint = f"name it {outs[0].stem or 'rows'}.jsonl"
        raise refuse("unknown-ending", "what is written is JSON Lines, and the name says otherwise", outs[0], hint=hint)
