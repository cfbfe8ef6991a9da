"""Picks the chat rows to read: the base model's answer and the tuned model's, side by side with the reference."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from orchestrator.evaluation.eval_rows import ChatRow, ChatScore
from orchestrator.report.examples import most_changed

MOST_OF_EACH = 4  # most improved, most worsened, and the first: 12 at most
_LONGEST_TEXT = 1_500  # characters of a text that the page shows
_MOST_TURNS = 8  # of a conversation: the system's and the latest


@dataclass(frozen=True)
class Turn:
    """One message, as the page shows it."""

    role: str
    text: str


@dataclass(frozen=True)
class ChatExample:
    """One row: the conversation, the reference, and the answers; an answer is None where none was generated.

    The losses are in nats a token, None where the row has none, or there is no baseline.
    """

    row: str
    turns: tuple[Turn, ...]
    left_out: int
    reference: str
    before: str | None
    after: str | None
    before_loss: float | None
    after_loss: float | None

    @property
    def difference(self) -> float | None:
        """How much the loss changed; None where a side has none."""
        if self.before_loss is None or self.after_loss is None:
            return None
        return self.after_loss - self.before_loss


def build_chat_examples(
    rows: Sequence[ChatRow], before: Mapping[str, ChatScore], after: Mapping[str, ChatScore]
) -> tuple[tuple[ChatExample, ...], tuple[ChatExample, ...], tuple[ChatExample, ...]]:
    """Return (most improved, most worsened, the first rows): at most 4 each, no row twice.

    Where some rows have both models' answers, only those are looked at: a loss alone is nothing to read. Without a
    baseline (`before` is empty) only the first rows are shown.
    """
    by_row = {row.row: row for row in rows}
    answered = [row for row in by_row if all(_is_answered(side, row) for side in (before, after) if side)]
    losses = {row: (_loss(before.get(row)), _loss(after.get(row))) for row in answered or by_row}
    values = {row: (one, two) for row, (one, two) in losses.items() if one is not None and two is not None}
    improved, worsened = most_changed(values, higher_is_better=False, most=MOST_OF_EACH)
    first = [row for row in losses if row not in {*improved, *worsened}][:MOST_OF_EACH]

    def build(names: Iterable[str]) -> tuple[ChatExample, ...]:
        return tuple(_example(by_row[name], before.get(name), after.get(name)) for name in names)

    return build(improved), build(worsened), build(first)


def _is_answered(side: Mapping[str, ChatScore], row: str) -> bool:
    return row in side and side[row].generation is not None


def _loss(score: ChatScore | None) -> float | None:
    return score.nll / score.tokens if score is not None and score.tokens > 0 else None


def _example(row: ChatRow, before: ChatScore | None, after: ChatScore | None) -> ChatExample:
    shown = [message for place, message in enumerate(row.messages) if _is_shown(row, place)]
    return ChatExample(
        row=row.row,
        turns=tuple(Turn(message.role, shortened(message.content)) for message in shown),
        left_out=len(row.messages) - len(shown),
        reference=shortened(row.reference),
        before=_answer(before),
        after=_answer(after),
        before_loss=_loss(before),
        after_loss=_loss(after),
    )


def _is_shown(row: ChatRow, place: int) -> bool:
    return row.messages[place].role == "system" or place >= len(row.messages) - _MOST_TURNS


def _answer(score: ChatScore | None) -> str | None:
    return None if score is None or score.generation is None else shortened(score.generation)


def shortened(text: str) -> str:
    """Return the text's beginning with its lines: an answer's form is part of it."""
    clean = text.strip()
    return clean if len(clean) <= _LONGEST_TEXT else clean[: _LONGEST_TEXT - 1].rstrip() + "…"
