"""Canonical records become the rows that a backend reads, and files that appear all together or not at all."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

from orchestrator.data.rows.groups import RankingGroup
from orchestrator.data.rows.records import Kind, Record
from orchestrator.data.writing.cross_encoder_rows import build_lists, build_margins, build_pairs
from orchestrator.data.writing.row_options import RowOptions
from orchestrator.data.writing.swift_rows import build_chat_row, build_embedding_row, build_reranker_row
from orchestrator.machine.files import create_part, remove_parts

# Python's str.splitlines ends a line at these, and JSON leaves them as they are.
_LINE_BREAKS = {character: f"\\u{ord(character):04x}" for character in "\x85\u2028\u2029"}


@dataclass(frozen=True)
class TrainForm:
    """A backend's form of training rows: the kinds that it can hold, how a record's are built, what it asks of them.

    `merges`: the rows of a query become one record.
    """

    kinds: tuple[Kind, ...]
    build_rows: Callable[[Record, RowOptions], Iterable[dict[str, Any]]]
    needs_negatives: bool = False
    takes_prompt: bool = True
    takes_scores: bool = False
    merges: bool = False


_DEFAULTS = RowOptions()


def build_flagembedding_row(record: Record, options: RowOptions = _DEFAULTS) -> dict[str, Any]:  # noqa: ARG001
    """Return the row that FlagEmbedding's reranker trainers read; all rows of a side have the same keys."""
    if not isinstance(record, RankingGroup):
        raise TypeError(record)
    row: dict[str, Any] = {"query": record.query, "pos": record.positives, "neg": record.negatives}
    if record.positive_scores is not None:
        row |= {"pos_scores": record.positive_scores, "neg_scores": record.negative_scores}
    if record.prompt is not None:
        row["prompt"] = record.prompt
    return row


def _each(
    build: Callable[[Record, RowOptions], dict[str, Any]],
) -> Callable[[Record, RowOptions], Iterable[dict[str, Any]]]:
    """Return what builds the one row of a record as a list."""
    return lambda record, options: (build(record, options),)


TRAIN_FORMS: dict[str, TrainForm] = {
    "flagembedding": TrainForm(("group",), _each(build_flagembedding_row), needs_negatives=True, takes_scores=True),
    "swift-embedding": TrainForm(("group", "pair"), _each(build_embedding_row), takes_prompt=False),
    "swift-reranker": TrainForm(("group",), _each(build_reranker_row), needs_negatives=True),
    "swift-chat": TrainForm(("chat",), _each(build_chat_row)),
    "cross-encoder-pairs": TrainForm(("labelled",), build_pairs, takes_prompt=False),
    "cross-encoder-lists": TrainForm(("labelled",), build_lists, takes_prompt=False, merges=True),
    "cross-encoder-margins": TrainForm(("labelled",), build_margins, takes_prompt=False, merges=True),
}


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
