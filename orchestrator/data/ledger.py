"""The ledger: every row is kept, moved or dropped for a reason, and the sums are proved; what forbids a use."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from orchestrator.data.reasons import BAD_CODES, REASONS, Fault, problem_of
from orchestrator.data.rows.texts import quote
from orchestrator.errors import DataError, Problem, Where

LEDGER_VERSION = 1
PROBLEMS_SHOWN = 20
DROPPED_ROWS_LISTED = 1000
EXAMPLES_LISTED = 5
KEYS_LISTED = 20
_KEYS_COUNTED = 1000


@dataclass(frozen=True)
class InputFile:
    """One file that was read to its end."""

    path: str
    sha256: str
    rows_in: int


@dataclass
class SideLedger:
    """What became of one side's rows, counted while they stream by.

    `merged` counts the rows that became a part of an earlier row's group, None where rows stay apart; such a group is
    kept or dropped as one.
    """

    name: str
    files: list[InputFile] = field(default_factory=list)
    rows_in: int = 0
    kept: int = 0
    moved_to_eval: int = 0
    dropped: dict[str, int] = field(default_factory=dict)
    moved_to_validation: int = 0
    merged: int | None = None

    def close(self) -> None:
        """Order the reasons, and prove the sums. Raises RuntimeError (a bug in Orch) where they do not agree."""
        self.dropped = dict(sorted(self.dropped.items()))
        moved = self.moved_to_eval + self.moved_to_validation + (self.merged or 0)
        out = self.kept + moved + sum(self.dropped.values())
        if self.rows_in != out:
            raise RuntimeError(f"the ledger does not add up: {self.rows_in} rows in, {out} accounted for")

    @property
    def bad(self) -> int:
        """How many rows were dropped for a reason that counts against --max-dropped."""
        return sum(count for code, count in self.dropped.items() if code in BAD_CODES)

    def to_json(self, *, has_validation: bool) -> dict[str, Any]:
        """Return the side as ledger.json has it."""
        absent = {"name"} | (set() if has_validation else {"moved_to_validation"})
        return {key: value for key, value in asdict(self).items() if key not in absent and value is not None}


@dataclass(frozen=True)
class DroppedRow:
    """One row that was dropped."""

    side: str
    path: str
    line: int
    reason: str
    detail: str


@dataclass(frozen=True)
class Warned:
    """Something that the user should know although it stops nothing; `examples` are places, path:line."""

    code: str
    message: str
    count: int
    examples: tuple[str, ...] = ()


@dataclass(frozen=True)
class Ledger:
    """Every side, the first dropped rows and every warning: ledger.json."""

    sides: dict[str, SideLedger]
    dropped_rows: tuple[DroppedRow, ...]
    warnings: tuple[Warned, ...]

    @property
    def bad(self) -> int:
        """How many rows of all sides count against --max-dropped."""
        return sum(side.bad for side in self.sides.values())

    def to_json(self) -> dict[str, Any]:
        """Return the ledger in the form of ledger.json."""
        sides = {name: side.to_json(has_validation="validation" in self.sides) for name, side in self.sides.items()}
        return {"version": LEDGER_VERSION} | asdict(self) | {"sides": sides}


class Findings:
    """Collects dropped rows and warnings of all sides, bounded however many there are."""

    def __init__(self) -> None:
        self.dropped_rows: list[DroppedRow] = []
        self._counts: Counter[str] = Counter()
        self._examples: dict[str, list[str]] = {}
        self._messages: dict[str, str] = {}
        self._unknown_keys: Counter[str] = Counter()

    def drop(self, side: SideLedger, path: str, line: int, reason: str, detail: str) -> None:
        """Count one dropped row of a side and list it if it is among the first; the reason must be in the table.

        Rows over the limit are counted only: they would push out of the list what the user has to see.
        """
        side.dropped[REASONS[reason].code] = side.dropped.get(reason, 0) + 1
        if reason != "over-limit" and len(self.dropped_rows) < DROPPED_ROWS_LISTED:
            self.dropped_rows.append(DroppedRow(side.name, path, line, reason, detail))

    def warn(self, code: str, message: str, *, count: int = 1, example: str | None = None) -> None:
        """Add `count` occurrences to a warning; in its message, {n} stands for the final count."""
        self._counts[REASONS[code].code] += count
        self._messages[code] = message
        places = self._examples.setdefault(code, [])
        if example is not None and len(places) < EXAMPLES_LISTED and example not in places:
            places.append(example)

    def warn_unknown_keys(self, keys: tuple[str, ...], example: str) -> None:
        """Count the keys of one row that nothing reads."""
        for key in keys:
            if key in self._unknown_keys or len(self._unknown_keys) < _KEYS_COUNTED:
                self._unknown_keys[key] += 1
        self.warn("unknown-keys", "", example=example)

    def warnings(self) -> tuple[Warned, ...]:
        """Return every warning, in the order of the table of reasons."""
        if self._unknown_keys:
            listed = ", ".join(f"{quote(key)} ({n})" for key, n in self._unknown_keys.most_common(KEYS_LISTED))
            self._messages["unknown-keys"] = f"keys that are not used (in how many rows): {listed}"
        return tuple(
            Warned(
                code, self._messages[code].replace("{n}", str(self._counts[code])), self._counts[code], tuple(places)
            )
            for code in REASONS
            if (places := self._examples.get(code)) is not None
        )


# Whether data may be used


class BadRows:
    """The bad rows of a pass: each is counted by its reason, and the first 20 kinds of a file's are told."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self._told: Counter[Problem] = Counter()  # by the problem in its words, whatever the line
        self._lines: dict[Problem, list[int]] = {}  # the first of them

    def add(self, fault: Fault, path: Path | str, line: int) -> None:
        """Count one bad row."""
        self.counts[fault.code] += 1
        problem = problem_of(fault.code, fault.message, hint=fault.hint, where=Where(str(path)))
        if problem in self._told or len(self._told) < PROBLEMS_SHOWN:
            self._told[problem] += 1
            lines = self._lines.setdefault(problem, [])
            if len(lines) <= EXAMPLES_LISTED:
                lines.append(line)

    def sum_up(self, what: str = "bad rows") -> list[Problem]:
        """Return each kind of problem at its first line, with others that have it, and how many more rows are bad."""
        found = []
        for problem, (first, *others) in self._lines.items():
            beyond = self._told[problem] - 1 - len(others)
            also = ", ".join(map(str, others)) + (f" and {beyond} more" if beyond else "")
            also = f" (also line{'s' if len(others) > 1 else ''} {also})" if others else ""
            where = replace(problem.where or Where(""), line=first)
            found.append(replace(problem, message=problem.message + also, where=where))
        rest = self.counts.total() - self._told.total()
        rest_of = f"and {rest} more {what}; in all: {describe_counts(self.counts)}"
        return [*found, Problem(rest_of)] if rest else found

    def require_few(self, most: int = 0) -> None:
        """Raise DataError when more than `most` rows are bad."""
        if self.counts.total() > most:
            raise DataError.from_problems(self.sum_up())


def describe_counts(counts: Counter[str]) -> str:
    """Return each reason with its count, such as "missing-key 2, wrong-type 1"."""
    return ", ".join(f"{code} {count}" for code, count in sorted(counts.items()))


@dataclass(frozen=True)
class PassResult:
    """What a pass found. `refusals` stop the run whatever is allowed; `bad_rows` tells the first kinds.

    `adjusted` are the thresholds of another pass, where a ratio has left a side without queries.
    """

    ledger: Ledger
    stats: dict[str, Any]
    refusals: tuple[Problem, ...]
    bad_rows: tuple[Problem, ...]
    adjusted: dict[str, int] | None = None


def build_problems(gathered: PassResult, max_dropped: int) -> list[Problem]:
    """Return what forbids the data's use, in reading order: [] when it may be used."""
    problems: list[Problem] = []
    if gathered.ledger.bad > max_dropped:
        problems = list(gathered.bad_rows)
        if max_dropped:
            message = f"{gathered.ledger.bad} bad rows are more than the {max_dropped} that may be dropped"
            problems.append(Problem(message, "correct them, or raise max_dropped"))
    return problems + list(gathered.refusals)


def require_usable(gathered: PassResult, max_dropped: int) -> None:
    """Raise DataError with every problem when the data must not be used."""
    if problems := build_problems(gathered, max_dropped):
        raise DataError.from_problems(problems)
