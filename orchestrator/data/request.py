"""What a pass over the data reads, and how it treats it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from orchestrator.data.loss_fit import Demands
from orchestrator.data.rows.checks import RowRules
from orchestrator.data.tokens import LengthBudget, TokenLimit


@dataclass(frozen=True)
class Request:
    """What to read and how to treat it. At most one of `eval_files` and `eval_ratio` is given.

    Without `train_files` there is an eval side only. `merges`: the labelled training rows of a query become one group,
    as those for evaluation always do; what waits for that lies in `spool_folder` (None: where temporary files do).
    """

    train_files: tuple[Path, ...]
    eval_files: tuple[Path, ...] = ()
    eval_ratio: float | None = None
    seed: int = 42
    allow_overlap: bool = False
    limit_train: int | None = None
    limit_eval: int | None = None
    tokenizer: Path | None = None
    budget: LengthBudget | TokenLimit | None = None
    rules: RowRules = field(default_factory=RowRules)
    demands: Demands = field(default_factory=Demands)
    validation_ratio: float | None = None
    min_validation: int = 1
    takes_scores: bool = True
    corpus: bool = False
    merges: bool = False
    spool_folder: str | None = None

    @property
    def limit_validation(self) -> int | None:
        """The share of the training rows asked for, and at least what the trainer takes at once; None is no limit."""
        if self.limit_train is None or self.validation_ratio is None:
            return None
        return max(self.min_validation, round(self.limit_train * self.validation_ratio), 1)
