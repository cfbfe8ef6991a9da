"""Loads what a run's stages scored: the evaluation set, and every system's scores for it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from orchestrator.evaluation.evalset import load_eval
from orchestrator.evaluation.measured import EvalSet
from orchestrator.machine.rundir import RunDir
from orchestrator.recipe.plan import Plan, Stage

TUNED = "tuned"
TEACHER = "teacher"
_BASELINE = "baseline-"
LABELS = {
    "native": "Base model in its native prompt",
    "trained-format": "Base model in the training format",
    TEACHER: "Teacher",
    TUNED: "Tuned model",
}


@dataclass(frozen=True)
class Scored:
    """A run's evaluation set (None: it has none) and {system id: its scores}, baselines in the plan's order first.

    `gaps` names what was not scored.
    """

    evaluation: EvalSet | None
    scores: Mapping[str, Any]
    gaps: tuple[str, ...]


def system_id(stage: Stage) -> str | None:
    """Return the system that a stage scores (`native`, `trained-format`, `teacher`, `tuned`), None for any other."""
    if stage.kind == "evaluate":
        return TUNED
    return stage.kind.removeprefix(_BASELINE) if stage.kind.startswith(_BASELINE) else None


def scoring_stages(plan: Plan) -> dict[str, Stage]:
    """Return {system id: stage}, the tuned model's last."""
    stages = {name: stage for stage in plan.stages if (name := system_id(stage)) is not None}
    return dict(sorted(stages.items(), key=lambda item: item[0] == TUNED))


def load_scored(run: RunDir, plan: Plan) -> Scored:
    """Return what the stages of a run folder scored. Raises RunFolderError for files that belong to other data."""
    evaluation = load_eval(run.eval_jsonl)
    if evaluation is None:
        return Scored(None, {}, ("The run has no evaluation set: nothing was measured.",))
    scores: dict[str, Any] = {}
    gaps = []
    for name, stage in scoring_stages(plan).items():
        path = run.stage(stage.name).output / "scores.jsonl"
        if path.is_file():
            scores[name] = evaluation.load_scores(path)
        else:
            gaps.append(f"{LABELS.get(name, name)}: the stage {stage.name} left no scores.")
    return Scored(evaluation, scores, tuple(gaps))
