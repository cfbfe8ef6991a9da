"""What `orch data check` reports: both sides' ledger, statistics and problems, with nothing written."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from orchestrator.data.gather import Request, gather
from orchestrator.data.verdict import build_problems

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from orchestrator.data.ledger import Ledger
    from orchestrator.data.tokens import LengthBudget
    from orchestrator.errors import Problem

REPORT_VERSION = 1


@dataclass(frozen=True)
class CheckReport:
    """The findings; the data may be used when `problems` is empty. `problems` shows the first 20 bad rows."""

    ledger: Ledger
    stats: dict[str, Any]
    problems: tuple[Problem, ...]

    @property
    def ok(self) -> bool:
        """Whether the data may be used."""
        return not self.problems

    def to_json(self) -> dict[str, Any]:
        """Return the report for programs."""
        return {
            "version": REPORT_VERSION,
            "ok": self.ok,
            "problems": [
                {
                    "message": problem.message,
                    "hint": problem.hint,
                    "path": problem.where.path if problem.where else None,
                    "line": problem.where.line if problem.where else None,
                }
                for problem in self.problems
            ],
            "ledger": self.ledger.to_json(),
            "stats": self.stats,
        }


def check_files(
    paths: Sequence[Path],
    *,
    eval_paths: Sequence[Path] = (),
    max_dropped: int = 0,
    tokenizer: Path | None = None,
    budget: LengthBudget | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> CheckReport:
    """Check `paths` as training data, and against `eval_paths` for leaks where given.

    Raises DataError when a file cannot be read at all; bad rows are in the report.
    """
    request = Request(tuple(paths), tuple(eval_paths), tokenizer=tokenizer, budget=budget)
    gathered = gather(request, on_progress=on_progress)
    return CheckReport(gathered.ledger, gathered.stats, tuple(build_problems(gathered, max_dropped)))
