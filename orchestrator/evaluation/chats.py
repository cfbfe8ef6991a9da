"""Evaluation sets of chat rows: how likely a model finds the reference, and how near it what it writes is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.errors import RunFolderError
from orchestrator.evaluation.lines import read_lines
from orchestrator.evaluation.measured import Measured
from orchestrator.evaluation.measures import CHAT
from orchestrator.evaluation.overlap import exact_match, rouge_l
from orchestrator.evaluation.ratios import perplexity
from orchestrator.evaluation.rows import require_all, require_finite

Scores = Mapping[str, "ChatScore"]
_COMPARED = {"exact_match": exact_match, "rouge_l": rouge_l}


@dataclass(frozen=True)
class Message:
    """One turn of a conversation."""

    role: str
    content: str


@dataclass(frozen=True)
class ChatRow:
    """A conversation up to the answer, and the answer that is expected."""

    row: str
    messages: tuple[Message, ...]
    reference: str


@dataclass(frozen=True)
class ChatScore:
    """Σ -log p of the reference's `tokens` tokens, in nats, and the model's own answer where one was generated."""

    nll: float
    tokens: int
    generation: str | None


@dataclass(frozen=True)
class ChatEval:
    """Chat rows in file order."""

    rows: tuple[ChatRow, ...]
    kind: str = CHAT

    @property
    def size(self) -> int:
        """How many rows there are."""
        return len(self.rows)

    def describe(self) -> dict[str, Any]:
        """Return {"rows"}."""
        return {"rows": len(self.rows)}

    def load_scores(self, path: Path) -> Scores:
        """Return {row: score}. Raises RunFolderError for an unknown, repeated or missing row."""
        known = frozenset(row.row for row in self.rows)
        scores: dict[str, ChatScore] = {}
        for where, row in read_lines(path):
            try:
                generation = row.get("generation")
                name, nll, tokens = str(row["id"]), float(row["nll"]), int(row["tokens"])
            except (AttributeError, KeyError, TypeError, ValueError) as error:
                raise RunFolderError(f"not a chat row's score: {error!r}", where=where) from error
            if name not in known:
                raise RunFolderError(f"a score for {name}, which the evaluation set does not hold", where=where)
            if name in scores:
                raise RunFolderError(f"two scores for {name}", where=where)
            scores[name] = ChatScore(nll, tokens, None if generation is None else str(generation))
        require_all(path, scores, [row.row for row in self.rows], "row")
        return scores

    def measure(self, scores: Mapping[str, Scores], metrics: Sequence[str], *, seed: int) -> dict[str, Measured]:  # noqa: ARG002
        """Measure {system id: its scores}.

        Loss is Σ nll / Σ tokens over all rows, perplexity its exponential. Exact match and ROUGE-L are means over the
        rows that have a generation. A row of which no token was scored has no loss.
        """
        return {name: self._measure(one, metrics) for name, one in scores.items()}

    def _measure(self, scores: Scores, metrics: Sequence[str]) -> Measured:
        require_finite({row: score.nll for row, score in scores.items()})
        ordered = [scores[row.row] for row in self.rows]
        counted = [score for score in ordered if score.tokens > 0]
        amount, size = sum(score.nll for score in counted), sum(score.tokens for score in counted)
        columns: dict[str, tuple[float | None, ...]] = {}
        means: dict[str, float | None] = {}
        for name in metrics:
            if name in _COMPARED:
                columns[name] = tuple(map(self._comparer(name), self.rows, ordered))
                values = [value for value in columns[name] if value is not None]
                means[name] = sum(values) / len(values) if values else None
            else:
                columns[name] = tuple(_own(name, score.nll, score.tokens) for score in ordered)
                means[name] = _own(name, amount, size)
        return Measured(
            ids=tuple(row.row for row in self.rows),
            columns={
                **columns,
                "nll": tuple(score.nll for score in ordered),
                "tokens": tuple(score.tokens for score in ordered),
            },
            means=means,
            facts={
                "constant": False,
                "generations": sum(score.generation is not None for score in ordered),
                "rows_without_tokens": len(ordered) - len(counted),
                "tokens": size,
            },
        )

    @staticmethod
    def _comparer(name: str) -> Any:
        def compare(row: ChatRow, score: ChatScore) -> float | None:
            return None if score.generation is None else _COMPARED[name](score.generation, row.reference)

        return compare


def _own(name: str, nll: float, tokens: int) -> float | None:
    """Return the loss or the perplexity of `tokens` tokens; None where there are none."""
    if tokens <= 0:
        return None
    return perplexity(nll / tokens) if name == "perplexity" else nll / tokens


def load_chat_eval(path: Path) -> ChatEval:
    """Return data/eval.jsonl as chat rows. Raises RunFolderError for a line that is none, or an id twice."""
    rows: dict[str, ChatRow] = {}
    for where, row in read_lines(path):
        try:
            messages = tuple(Message(str(item["role"]), str(item["content"])) for item in row["messages"])
            chat = ChatRow(str(row["id"]), messages, str(row["reference"]))
        except (KeyError, TypeError) as error:
            raise RunFolderError(f"not a chat row: {error!r}", where=where) from error
        if chat.row in rows:
            raise RunFolderError(f"the id {chat.row} comes twice", where=where)
        rows[chat.row] = chat
    return ChatEval(tuple(rows.values()))
