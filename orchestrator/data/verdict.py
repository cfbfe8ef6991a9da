"""Whether data may be used: what a pass found, and the problems that forbid it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

from orchestrator.data.ledger import Ledger
from orchestrator.data.reasons import BAD_CODES
from orchestrator.data.sides import Cuts
from orchestrator.errors import DataError, Problem

PROBLEMS_SHOWN = 20


@dataclass(frozen=True)
class Gathered:
    """What a pass found. `refusals` stop the run whatever is allowed; `bad_rows` are the first ones only."""

    ledger: Ledger
    stats: dict[str, Any]
    refusals: tuple[Problem, ...]
    bad_rows: tuple[Problem, ...]
    mended_cuts: Cuts | None = None


def build_problems(gathered: Gathered, max_dropped: int) -> list[Problem]:
    """Return what forbids the data's use, in reading order: [] when it may be used."""
    problems: list[Problem] = []
    if gathered.ledger.bad > max_dropped:
        problems.extend(gathered.bad_rows)
        unseen: Counter[str] = Counter()
        for side in gathered.ledger.sides.values():
            unseen.update({code: count for code, count in side.dropped.items() if code in BAD_CODES})
        unseen.subtract(problem.message.partition(":")[0] for problem in gathered.bad_rows)
        if unseen.total():
            counts = ", ".join(f"{code} {count}" for code, count in sorted(unseen.items()) if count)
            problems.append(Problem(f"and {unseen.total()} more bad rows: {counts}"))
        if max_dropped:
            message = f"{gathered.ledger.bad} bad rows are more than the {max_dropped} that may be dropped"
            problems.append(Problem(message, "correct them, or raise max_dropped"))
    return problems + list(gathered.refusals)


def require_usable(gathered: Gathered, max_dropped: int) -> None:
    """Raise DataError with every problem when the data must not be used."""
    if problems := build_problems(gathered, max_dropped):
        raise DataError.from_problems(problems)
