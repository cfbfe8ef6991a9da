"""How a worker ends when it must: one clear line a problem, and no traceback."""

from __future__ import annotations


class WorkerError(Exception):
    """Something is wrong that the user can put right; each problem is one line that says what and what it means."""

    exit_code = 1

    def __init__(self, *problems: str) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


class UnfitModelError(WorkerError):
    """The model cannot be used as it is: what the preflight says of one that is here before a worker starts."""

    exit_code = 4  # errors.PreflightError's


def first_line(error: Exception) -> str:
    """Return the first line of a library's message, at most 300 characters, and its type where it has none."""
    lines = str(error).strip().splitlines()
    return lines[0][:300] if lines else type(error).__name__
