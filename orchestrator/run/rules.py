"""What a plan's recipe says of stalled, diverged and flat trainings → the rules that a stage is watched by."""

from __future__ import annotations

from pydantic import ValidationError

from orchestrator.errors import RunFolderError
from orchestrator.logs.health import LossRules
from orchestrator.recipe.plan import Plan, Stage
from orchestrator.recipe.schema import Watch


def load_watch(plan: Plan) -> Watch:
    """Return `watch:` of the plan's recipe; the defaults for a plan that is older than this key."""
    try:
        return Watch.model_validate(plan.recipe.get("watch") or {})
    except ValidationError as error:
        message = f"`watch` in plan.json is not what Orch writes: {error.errors()[0]['msg']}"
        raise RunFolderError(message, hint="start a new run of the recipe") from error


def build_loss_rules(watch: Watch, stage: Stage) -> LossRules:
    """Return how the losses of that stage are judged."""
    return LossRules(watch.diverged, watch.flat, watch.reports, stage.flat_loss)
