"""How results and errors are printed: text for people, one versioned JSON envelope for programs."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from orchestrator.errors import OrchError, Problem

ENVELOPE_VERSION = 1


def print_json(command: str, data: Any) -> None:
    """Print a result's envelope on stdout."""
    envelope = {"version": ENVELOPE_VERSION, "command": command, "ok": True, "data": data}
    click.echo(json.dumps(envelope, ensure_ascii=False, indent=2))


def print_error(error: OrchError, *, as_json: bool) -> None:
    """Print an error: on stderr for people, as an envelope on stdout for programs."""
    if as_json:
        problems = [_problem_data(problem) for problem in error.problems]
        body = {"exit_code": error.exit_code, "title": error.title, "problems": problems}
        click.echo(json.dumps({"version": ENVELOPE_VERSION, "ok": False, "error": body}, ensure_ascii=False, indent=2))
        return
    click.echo(format_error(error), err=True)


def format_error(error: OrchError) -> str:
    """Return an error as text: one block a problem, the place first, the remedy indented below."""
    lines = []
    if len(error.problems) > 1:
        lines.append(f"{error.title}: {len(error.problems)} problems")
    for problem in error.problems:
        prefix = f"{problem.where}: " if problem.where else ""
        title = "" if len(error.problems) > 1 else f"{error.title}: "
        lines.append(f"{title}{prefix}{problem.message}")
        if problem.hint:
            lines += [f"    → {line}" for line in problem.hint.splitlines()]
    return "\n".join(lines)


def format_advice(problem: Problem) -> str:
    """Return one piece of advice as text, like an error's problem."""
    prefix = f"{problem.where}: " if problem.where else ""
    hints = [f"    → {line}" for line in (problem.hint or "").splitlines()]
    return "\n".join([f"note: {prefix}{problem.message}", *hints])


def _problem_data(problem: Problem) -> dict[str, Any]:
    where = problem.where
    return {
        "message": problem.message,
        "hint": problem.hint,
        "where": {"path": where.path, "line": where.line, "column": where.column} if where else None,
    }
