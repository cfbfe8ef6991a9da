"""What a recipe lets a model do besides being read: run code of its folder, or of its pickled weights."""

from __future__ import annotations

from collections.abc import Iterator

from orchestrator.backends.protocol import Job
from orchestrator.errors import Problem
from orchestrator.recipe.plan import Plan


def advise_trust(job: Job, plan: Plan) -> Iterator[Problem]:  # noqa: ARG001  (every advice takes both)
    """Yield what code of others the run executes with the user's rights."""
    for key, ref in (("model", job.recipe.model), ("teacher", job.recipe.teacher)):
        if ref and ref.trust_remote_code:
            message = f"{key} {ref.name}: the Python code that it brings along will run (trust_remote_code)"
            yield Problem(message, "read that code first: it may do whatever you may do")
        if ref and ref.allow_pickle:
            message = f"{key} {ref.name}: pickled weights will be loaded (allow_pickle)"
            yield Problem(message, "take only files of people whom you trust: a pickle can run code")
