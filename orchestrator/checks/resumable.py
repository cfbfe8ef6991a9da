"""A training that could not go on after a stop: said before it begins."""

from __future__ import annotations

from collections.abc import Iterator

from orchestrator.backends.protocol import Job
from orchestrator.errors import Problem
from orchestrator.recipe.plan import Plan


def advise_on_resuming(job: Job, plan: Plan) -> Iterator[Problem]:
    """Yield that an interrupted training starts anew. A smoke run is over before anybody would mind."""
    train = plan.stage("train")
    if train and not train.resume and not job.smoke:
        yield Problem(
            f"if it is interrupted, {train.name} starts anew: {job.recipe.backend} cannot continue what it saves "
            "without DeepSpeed",
            "say deepspeed: zero0 in the recipe (it needs the package deepspeed), or accept it",
        )
