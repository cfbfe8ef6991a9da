"""A model that is large for a CPU, about to be trained on one: it works, and is seldom what was meant."""

from __future__ import annotations

from collections.abc import Iterator

from orchestrator.backends.protocol import Job
from orchestrator.checks.model_size import load_model_size
from orchestrator.errors import Problem
from orchestrator.recipe.plan import Plan

_MANY_WEIGHTS = 200_000_000  # a base-sized encoder has half as many, the smallest of the usual LLMs three times as many


def advise_on_cpu(job: Job, plan: Plan) -> Iterator[Problem]:  # noqa: ARG001
    """Yield that there is no GPU for a model of many weights; an LLM that is not here yet counts as one."""
    if job.hardware.kind == "cuda" or job.smoke:
        return
    size = load_model_size(job.model.folder) if job.model.folder else None
    if size is None and job.model.family != "decoder":
        return
    if size is not None and size.parameters < _MANY_WEIGHTS:
        return
    weights = f" with its {size.parameters / 1e9:.1f} billion weights" if size else ""
    yield Problem(
        f"no GPU is used: {job.model.name}{weights} is trained on the CPU, in float32, which takes very long",
        "orch doctor shows why there is none; --smoke tries the recipe with a tiny model",
    )
