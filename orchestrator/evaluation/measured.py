"""What every kind of evaluation set has in common: it loads scores, and measures all systems row by row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

Columns = Mapping[str, Sequence[float | None]]

GOLD = "gold"  # the one column that belongs to the evaluation set and not to a system


@dataclass(frozen=True)
class Measured:
    """One system on every row: `columns[name][i]` belongs to row `ids[i]`, None where the row takes no part.

    The columns are the metrics' values of each row, and what a metric is made of where it is no mean: `nll` and
    `tokens` of a chat row, `score` and `gold` of a pair. `means` holds each metric's value over all rows, None where
    nothing was measured. `facts` are the system's further entries in metrics.json.
    """

    ids: tuple[str, ...]
    columns: Columns
    means: Mapping[str, float | None]
    facts: Mapping[str, Any] = field(default_factory=dict)


class EvalSet(Protocol):
    """An evaluation set of one kind, and how systems are measured on it."""

    @property
    def kind(self) -> str:
        """`group`, `retrieval`, `pair` or `chat`."""

    @property
    def size(self) -> int:
        """How many rows (queries, pairs) are measured."""

    def describe(self) -> dict[str, Any]:
        """Return the counts that metrics.json's `eval` holds, apart from `units`."""

    def load_scores(self, path: Path) -> Any:
        """Return a stage's scores.jsonl. Raises RunFolderError for scores of other data."""

    def measure(self, scores: Mapping[str, Any], metrics: Sequence[str], *, seed: int) -> dict[str, Measured]:
        """Measure {system id: its scores}. Raises StageFailedError for scores that are not finite."""
