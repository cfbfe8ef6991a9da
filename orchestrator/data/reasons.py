"""Every reason for which a file is refused or a row is bad, dropped or warned about: one table.

To add a reason, add its row to reasons.yaml and to docs/data-formats.md (a test holds the two together), and raise or
count it by its code; a code that is not in the table is a KeyError.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from orchestrator.errors import DataError, Problem, Where
from orchestrator.machine.tables import load_table

Outcome = Literal["refused", "bad", "dropped", "warning"]


@dataclass(frozen=True)
class Reason:
    """One kind of finding.

    `outcome`: refused = nothing is prepared; bad = the row is dropped and counts against --max-dropped;
    dropped = the row is dropped and that is no fault; warning = the row is kept, and `says` may be its sentence.
    """

    code: str
    outcome: Outcome
    what: str
    remedy: str
    says: str = ""


@dataclass(frozen=True)
class Fault:
    """Why one row is bad: the reason's code, what was found, what to do."""

    code: str
    message: str
    hint: str


_TABLE = load_table(Path(__file__).with_suffix(".yaml"), Reason)
REASONS: dict[str, Reason] = {reason.code: reason for reason in _TABLE}
BAD_CODES = frozenset(reason.code for reason in _TABLE if reason.outcome == "bad")


def problem_of(code: str, message: str, *, hint: str | None = None, where: Where | None = None) -> Problem:
    """Return a problem that opens with its reason's code; `hint` defaults to the table's remedy."""
    return Problem(f"{code}: {message}", hint or REASONS[code].remedy, where)


def refuse(
    code: str,
    message: str,
    path: object,
    *,
    line: int | None = None,
    column: int | None = None,
    hint: str | None = None,
) -> DataError:
    """Return the error for a file that cannot be used at all; lines and columns count from 1."""
    problem = problem_of(code, message, hint=hint, where=Where(str(path), line, column))
    return DataError(problem.message, hint=problem.hint, where=problem.where)


class RepeatedProblems:
    """Problems that many rows may have: each is told once, at the first row that has it, with how many have it."""

    def __init__(self) -> None:
        self._found: dict[object, tuple[Problem, int]] = {}

    def note(self, key: object, problem: Problem) -> None:
        """Count the problem of one row; those of one key are the same."""
        first, count = self._found.get(key, (problem, 0))
        self._found[key] = (first, count + 1)

    def problems(self) -> list[Problem]:
        """Return one problem a key."""
        return [
            replace(problem, message=f"{problem.message} ({count} such rows)") if count > 1 else problem
            for problem, count in self._found.values()
        ]
