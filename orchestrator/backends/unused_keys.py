"""Keys of a recipe that mean something to one backend and nothing to another: said, never ignored."""

from __future__ import annotations

from collections.abc import Iterator

from orchestrator.backends.protocol import Found, Job
from orchestrator.errors import Problem

_GRADED = "graded labels are trained with backend: sentence-transformers; elsewhere a document is relevant or not"


def check_labels(job: Job, whose: str) -> Iterator[Found]:
    """Yield the label range of a backend that reads no labels."""
    for name in ("min_label", "max_label"):
        if getattr(job.recipe.data, name) is not None:
            yield ("data", name), Problem(f"{whose} read no labels to scale", f"remove it: {_GRADED}")
    if job.recipe.data.scores_as_labels:
        yield ("data", "scores_as_labels"), Problem(f"{whose} read no labels", f"remove it: {_GRADED}")


def check_strategy(job: Job, whose: str) -> Iterator[Found]:
    """Yield a way of sharing the training that this backend is not started in."""
    if job.recipe.launch.strategy == "fsdp":
        message = f"{whose} are not started with FSDP"
        hint = "remove it, and say deepspeed where one GPU is too small"
        if job.recipe.backend == "swift":
            message, hint = f"{message}: it is an argument of their own", "remove it, and say train: {fsdp: fsdp2}"
        yield ("launch", "strategy"), Problem(message, hint)
