"""Whether the stages beside the training have room: they load the whole model on one GPU, however the training fits."""

from __future__ import annotations

from collections.abc import Iterator

from orchestrator.backends.protocol import Job
from orchestrator.checks.memory import show_gib
from orchestrator.checks.memory_fit import plan_memory
from orchestrator.errors import Problem
from orchestrator.recipe.plan import Plan

_MIB = 1024**2
_HALF = 2  # bytes of a weight as models are measured on a GPU
_LOADING = ("baseline", "package", "evaluate", "guard")


def advise_measuring(job: Job, plan: Plan) -> Iterator[Problem]:
    """Yield that a model which is trained quantised or shared is measured whole, and does not fit so."""
    if job.hardware.kind != "cuda" or not job.hardware.memory_mib:
        return
    planned, there = plan_memory(job, plan), min(job.hardware.memory_mib) * _MIB
    if planned is None or planned.model.stored_bits is not None or planned.estimate.weights > there:
        return
    whole = planned.model.parameters * _HALF
    stages = [
        stage.name for stage in plan.stages if stage.kind.startswith(_LOADING) and not stage.kind.endswith("-data")
    ]
    if whole <= there or not stages:
        return
    message = (
        f"the training fits, and {', '.join(stages)} load the whole model on one GPU: {show_gib(whole)} in half "
        f"precision, and a GPU has {show_gib(there)}"
    )
    hint = (
        "train the adapter alone here: merge: false, evaluate: {baselines: []} and no gate; "
        "then `orch merge` and `orch evaluate` where there is room"
    )
    yield Problem(message, hint)
