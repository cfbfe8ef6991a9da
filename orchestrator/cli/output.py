"""How results and errors are printed: text for people, one versioned JSON envelope for programs."""

from __future__ import annotations

from itertools import zip_longest
from typing import Any

from orchestrator.cli.wording import NOTE, PROBLEMS, colon, say_title
from orchestrator.errors import OrchError, Problem
from orchestrator.machine.language import Language, current_language
from orchestrator.machine.terminal import clean, make_legible, print_data, say

__all__ = ["clean", "format_advice", "format_error", "make_legible", "print_error", "print_json"]

ENVELOPE_VERSION = 1


def print_json(command: str, data: Any) -> None:
    """Print a result's envelope on stdout."""
    envelope = {"version": ENVELOPE_VERSION, "command": command, "ok": True, "data": data}
    print_data(envelope)


def print_error(error: OrchError, *, as_json: bool) -> None:
    """Print an error: on stderr for people, as an envelope on stdout for programs."""
    if as_json:
        problems = [_problem_data(problem) for problem in error.problems]
        body = {"exit_code": error.exit_code, "title": error.title, "problems": problems}
        envelope = {"version": ENVELOPE_VERSION, "ok": False, "error": body}
        print_data(envelope)
        return
    say(format_error(error), err=True)


def format_error(error: OrchError, language: Language | None = None) -> str:
    """Return an error as text: one line a problem, the place first, and the remedy indented below.

    Problems that follow one another with the same remedy, as bad rows do, share it: it stands below the last of them.
    """
    language = language or current_language()
    title = say_title(error.title, language) + colon(language)
    several = len(error.problems) > 1
    lines = []
    if several:
        lines.append(f"{title}{PROBLEMS.say(language).format(len(error.problems))}")
    for problem, following in zip_longest(error.problems, error.problems[1:]):
        prefix = f"{problem.where}: " if problem.where else ""
        lines.append(f"{'' if several else title}{prefix}{problem.message}")
        if problem.hint and (following is None or following.hint != problem.hint):
            lines += [f"    → {line}" for line in problem.hint.splitlines()]
    return "\n".join(lines)


def format_advice(problem: Problem, language: Language | None = None) -> str:
    """Return one piece of advice as text, like an error's problem."""
    language = language or current_language()
    note = NOTE.say(language) + colon(language)
    prefix = f"{problem.where}: " if problem.where else ""
    hints = [f"    → {line}" for line in (problem.hint or "").splitlines()]
    return clean("\n".join([f"{note}{prefix}{problem.message}", *hints]))


def _problem_data(problem: Problem) -> dict[str, Any]:
    where = problem.where
    return {
        "name": problem.name,
        "message": problem.message,
        "hint": problem.hint,
        "where": {"path": where.path, "line": where.line, "column": where.column} if where else None,
    }
