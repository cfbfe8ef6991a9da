"""Canonical groups become the rows that a backend reads, and files that appear all together or not at all."""

from __future__ import annotations

import contextlib
import json
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path
    from types import TracebackType
    from typing import BinaryIO, Self

    from orchestrator.data.groups import RankingGroup

# Python's str.splitlines ends a line at these, and JSON leaves them as they are.
_LINE_BREAKS = {character: f"\\u{ord(character):04x}" for character in "\x85\u2028\u2029"}


def build_flagembedding_row(group: RankingGroup) -> dict[str, Any]:
    """Return the row that FlagEmbedding's reranker trainers read; all rows of a side have the same keys."""
    row: dict[str, Any] = {"query": group.query, "pos": group.positives, "neg": group.negatives}
    if group.positive_scores is not None:
        row |= {"pos_scores": group.positive_scores, "neg_scores": group.negative_scores}
    if group.prompt is not None:
        row["prompt"] = group.prompt
    return row


TRAIN_FORMS: dict[str, Callable[[RankingGroup], dict[str, Any]]] = {"flagembedding": build_flagembedding_row}


def format_line(row: dict[str, Any]) -> bytes:
    """Return one line of JSON Lines, UTF-8, the same bytes for the same row."""
    text = json.dumps(row, ensure_ascii=False, allow_nan=False)
    for character, escaped in _LINE_BREAKS.items():
        if character in text:
            text = text.replace(character, escaped)
    return text.encode() + b"\n"


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
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f".{path.name}.part")
        self._parts.append(_Part(path, part, part.open("wb", buffering=1 << 20)))
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
        path.with_name(f".{path.name}.part").unlink(missing_ok=True)
