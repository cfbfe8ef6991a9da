"""Says in sentences whether the training repeats bit for bit, and how near the teacher it came."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from orchestrator.evaluation.measures import display_name, require_metric
from orchestrator.evaluation.metrics import TUNED
from orchestrator.report.record import RunRecord
from orchestrator.report.wording import figure

TEACHER = "teacher"
_LEAST_GAP = 0.005  # of the headline metric: a share of less says nothing


def is_deterministic(record: RunRecord) -> bool:
    """Return whether the recipe asked for a training that repeats bit for bit."""
    return record.plan.recipe.get("deterministic") is True


def describe_determinism(record: RunRecord) -> str:
    """Return whether the training can be repeated, and where that holds."""
    if not is_deterministic(record):
        return "not asked for (deterministic: true)"
    return "the same weights, bit for bit, on the same versions, hardware and number of processes"


def describe_teacher(metrics: Mapping[str, Any]) -> str | None:
    """Return how much of the way from the untouched model to its teacher was made; None without a teacher."""
    means = {system["id"]: system["means"][metrics["headline"]["metric"]] for system in metrics["systems"]}
    start, goal, now = means.get(metrics["headline"]["baseline"]), means.get(TEACHER), means.get(TUNED)
    if start is None or goal is None or now is None or metrics["headline"]["baseline"] == TEACHER:
        return None
    metric = require_metric(metrics["headline"]["metric"])
    name = display_name(metric.name)
    gap, made = goal - start, now - start
    if not metric.higher_is_better:
        gap, made = -gap, -made
    values = f"{figure(start)} untouched, {figure(now)} tuned, {figure(goal)} teacher"
    if gap < _LEAST_GAP:
        return (
            f"{name}: {values}. The teacher is no better than the untouched model: there was nothing to learn from it."
        )
    return f"{name}: {values}. {100 * made / gap:.0f} % of the way to the teacher."
