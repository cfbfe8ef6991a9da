"""Whether data may be used: the bad rows of a pass, what a pass found, and the problems that forbid it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.data.ledger import Ledger
from orchestrator.data.reasons import BAD_CODES, Fault, problem_of
from orchestrator.data.sides import SplitThresholds
from orchestrator.errors import DataError, Problem, Where

PROBLEMS_SHOWN = 20


class BadRows:
    """The bad rows of a pass: each is counted by its reason, and the first 20 are kept as problems."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.problems: list[Problem] = []

    def add(self, fault: Fault, path: Path | str, line: int) -> None:
        """Count one bad row."""
        self.counts[fault.code] += 1
        if len(self.problems) < PROBLEMS_SHOWN:
            where = Where(str(path), line)
            self.problems.append(problem_of(fault.code, fault.message, hint=fault.hint, where=where))

    def require_few(self, most: int = 0) -> None:
        """Raise DataError when more than `most` rows are bad."""
        if self.counts.total() > most:
            raise DataError.from_problems(sum_up(self.problems, self.counts))


def sum_up(problems: list[Problem], counts: Counter[str], what: str = "bad rows") -> list[Problem]:
    """Return the first problems, and how many more there are where `counts` has more."""
    more = counts.total() - len(problems)
    if more <= 0:
        return problems
    return [*problems, Problem(f"and {more} more {what}; in all: {describe_counts(counts)}")]


def describe_counts(counts: Counter[str]) -> str:
    """Return each reason with its count, such as "missing-key 2, wrong-type 1"."""
    return ", ".join(f"{code} {count}" for code, count in sorted(counts.items()))


@dataclass(frozen=True)
class PassResult:
    """What a pass found. `refusals` stop the run whatever is allowed; `bad_rows` are the first ones only."""

    ledger: Ledger
    stats: dict[str, Any]
    refusals: tuple[Problem, ...]
    bad_rows: tuple[Problem, ...]
    adjusted: SplitThresholds | None = None


def build_problems(gathered: PassResult, max_dropped: int) -> list[Problem]:
    """Return what forbids the data's use, in reading order: [] when it may be used."""
    problems: list[Problem] = []
    if gathered.ledger.bad > max_dropped:
        counts: Counter[str] = Counter()
        for side in gathered.ledger.sides.values():
            counts.update({code: count for code, count in side.dropped.items() if code in BAD_CODES})
        problems = sum_up(list(gathered.bad_rows), counts)
        if max_dropped:
            message = f"{gathered.ledger.bad} bad rows are more than the {max_dropped} that may be dropped"
            problems.append(Problem(message, "correct them, or raise max_dropped"))
    return problems + list(gathered.refusals)


def require_usable(gathered: PassResult, max_dropped: int) -> None:
    """Raise DataError with every problem when the data must not be used."""
    if problems := build_problems(gathered, max_dropped):
        raise DataError.from_problems(problems)
