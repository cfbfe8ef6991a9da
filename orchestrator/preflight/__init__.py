"""Before any long work: what this machine, this environment and this model lack for a plan, all at once."""

from __future__ import annotations

from typing import TYPE_CHECKING

from orchestrator.errors import PreflightError, Problem
from orchestrator.preflight.disk import check_disk
from orchestrator.preflight.hub import check_hub
from orchestrator.preflight.packages import check_packages

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from orchestrator.backends.protocol import Job
    from orchestrator.plan import Plan

    Check = Callable[[Job, Plan], Iterator[Problem]]

# A check yields what ends the run before it starts; an advice yields what the user should know and may ignore.
CHECKS: tuple[Check, ...] = (check_packages, check_hub, check_disk)
ADVICE: tuple[Check, ...] = ()


def require_ready(job: Job, plan: Plan) -> tuple[Problem, ...]:
    """Raise PreflightError with everything that is missing for the plan; return the advice on it otherwise."""
    problems = [problem for check in CHECKS for problem in check(job, plan)]
    if problems:
        raise PreflightError.from_problems(problems)
    return tuple(problem for advise in ADVICE for problem in advise(job, plan))
