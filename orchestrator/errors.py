"""The whole error tree: one class a kind of failure, one exit code each.

To add an error, subclass `OrchError`, give it an `exit_code` that no other class has, and add the row to
docs/troubleshooting.md; `tests/unit/test_errors.py` holds the three together. Only `orchestrator.cli` catches.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Where:
    """A place in a user's file; lines and columns count from 1."""

    path: str
    line: int | None = None
    column: int | None = None

    def __str__(self) -> str:
        """Return the place as editors and terminals link it, `path:line:column`."""
        return ":".join(str(part) for part in (self.path, self.line, self.column) if part is not None)


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong: what, where, and what to do about it; `name` is the same in every language."""

    message: str
    hint: str | None = None
    where: Where | None = None
    name: str | None = None


class OrchError(Exception):
    """A failure that is not a bug in Orch: it says what is wrong, where, and what to do."""

    exit_code = 70
    title = "error"

    def __init__(
        self, message: str, *, hint: str | None = None, where: Where | None = None, name: str | None = None
    ) -> None:
        """Describe one problem; `hint` says what to do, `where` points into the user's file, `name` is for programs."""
        super().__init__(message)
        self.problems: tuple[Problem, ...] = (Problem(message, hint, where, name),)

    @classmethod
    def from_problems(cls, problems: list[Problem]) -> OrchError:
        """Return one error that reports every problem at once, in the order given (at least one)."""
        error = cls(problems[0].message, hint=problems[0].hint, where=problems[0].where)
        error.problems = tuple(problems)
        return error


class RecipeError(OrchError):
    """The recipe cannot be read, or asks for something that does not exist or does not fit."""

    exit_code = 2
    title = "recipe"


class DataError(OrchError):
    """The data has rows that must not be trained on, or too few that may."""

    exit_code = 3
    title = "data"


class PreflightError(OrchError):
    """The machine lacks something that the plan needs: a package, a model, disk, a device."""

    exit_code = 4
    title = "environment"


class RenderError(OrchError):
    """A template cannot be rendered: an undefined name, a None, a value that no command line can carry."""

    exit_code = 5
    title = "render"


class StageFailedError(OrchError):
    """A stage's command ended with an error; the message carries the ranked diagnosis."""

    exit_code = 6
    title = "stage failed"


class StalledError(OrchError):
    """A stage stopped making progress, or ran past its time limit."""

    exit_code = 7
    title = "stalled"


class GateMissedError(OrchError):
    """The run finished and the tuned model is not as good as the recipe's gate asks."""

    exit_code = 8
    title = "gate missed"


class RunFolderError(OrchError):
    """The run folder is busy, damaged, or belongs to another recipe."""

    exit_code = 9
    title = "run folder"


class TakenAwayError(OrchError):
    """The machine or its scheduler took the run away: a time limit, a preemption, a lost node; it can be resumed."""

    exit_code = 75
    title = "taken away"


class InterruptedRunError(OrchError):
    """The user stopped the run; it can be resumed."""

    exit_code = 130
    title = "interrupted"
