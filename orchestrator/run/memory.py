"""What follows when memory runs out: the plan's next smaller batch, or an error that says what was tried."""

from __future__ import annotations

from orchestrator.errors import OrchError, StageFailedError
from orchestrator.recipe.plan import Fallback, Stage
from orchestrator.run.failures import Failure
from orchestrator.run.state import LaunchRecord

OUT_OF_MEMORY = "out-of-memory"


def find_next(stage: Stage, record: LaunchRecord, failure: Failure) -> Fallback | None:
    """Return what the stage tries after that launch; None when memory is not its trouble, or nothing is left."""
    if failure.status != OUT_OF_MEMORY or record.fallback >= len(stage.fallbacks):
        return None
    return stage.fallbacks[record.fallback]


def explain_end(stage: Stage, failure: Failure) -> OrchError:
    """Return the failure's error; it also says what was tried, where memory ran out with every batch of the plan."""
    if failure.status != OUT_OF_MEMORY or not stage.fallbacks:
        return failure.error
    problem = failure.error.problems[0]
    tried = "; ".join(fallback.title for fallback in stage.fallbacks)
    message = f"{problem.message}\n  smaller batches were tried, to no avail: {tried}"
    return StageFailedError(message, hint=problem.hint, where=problem.where, name=problem.name)
