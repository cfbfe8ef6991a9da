"""Eval records become the rows of eval.jsonl, in the form of their kind."""

from __future__ import annotations

from typing import Any, BinaryIO

from orchestrator.data.rows.groups import RankingGroup, build_eval_row
from orchestrator.data.rows.labelled import LabelledGroup, build_labelled_eval_row
from orchestrator.data.rows.records import Chat, Record, ScoredPair
from orchestrator.data.writing.writers import format_line


def build_pair_row(pair: ScoredPair, number: int) -> dict[str, Any]:
    """Return the canonical form of the `number`-th pair."""
    return {
        "pid": f"p{number:06d}",
        "text1": pair.text1,
        "text2": pair.text2,
        "score": pair.score,
        "source": pair.source,
        "line": pair.line,
    }


def build_chat_row(chat: Chat, number: int) -> dict[str, Any]:
    """Return the canonical form of the `number`-th conversation: its last answer is the reference."""
    *asked, answer = chat.messages
    return {
        "id": f"r{number:06d}",
        "messages": [{"role": message.role, "content": message.content} for message in asked],
        "reference": answer.content,
        "source": chat.source,
        "line": chat.line,
    }


class EvalWriter:
    """Writes each record as it comes, numbered from 1."""

    def __init__(self, stream: BinaryIO, seed: int) -> None:
        """Write to `stream`; `seed` orders the documents of groups."""
        self._stream = stream
        self._seed = seed
        self._number = 0

    def add(self, record: Record) -> None:
        """Write one record."""
        self._number += 1
        self._stream.write(format_line(self._build(record)))

    def close(self) -> None:
        """Nothing is left to write."""

    def _build(self, record: Record) -> dict[str, Any]:
        if isinstance(record, RankingGroup):
            return build_eval_row(record, self._number, self._seed)
        if isinstance(record, LabelledGroup):
            return build_labelled_eval_row(record, self._number, self._seed)
        if isinstance(record, ScoredPair):
            return build_pair_row(record, self._number)
        if isinstance(record, Chat):
            return build_chat_row(record, self._number)
        raise TypeError(record)
