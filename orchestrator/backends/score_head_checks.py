"""Whether a job keeps the head of an LLM that scores: the trainer loads it, the yardstick asks it as it was trained."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from orchestrator.backends.protocol import Found, Job
from orchestrator.backends.score_heads import list_score_head_formats
from orchestrator.backends.scorers import load_own_spec
from orchestrator.backends.swift_scoring import SCORE_HEAD, find_task_type
from orchestrator.errors import Problem


def check_score_head(job: Job, train: Mapping[str, Any]) -> Iterator[Found]:
    """Yield what would drop the head of the base model in silence, or ask it in a format that nobody trained."""
    model, recipe = job.model, job.recipe
    if not model.score_head:
        return
    what = f"{model.name} is an LLM with a head that scores ({', '.join(model.architectures)})"
    if recipe.task != "reranker":
        yield ("model",), Problem(f"{what}: task {recipe.task} would drop it", "name the LLM that it was made from")
    elif recipe.backend == "flagembedding":
        hint = "say backend: sentence-transformers, or backend: swift with train: {task_type: reranker}"
        yield ("model",), Problem(f"{what}: FlagEmbedding's trainer asks an LLM for a word, and would drop it", hint)
    elif recipe.backend == "swift" and find_task_type(job, train) != SCORE_HEAD:
        message = f"{what}: as generative_reranker it would be asked for a word, and the head dropped"
        yield ("train", "task_type"), Problem(message, "say train: {task_type: reranker}")
    unknown = model.native is None and load_own_spec(model) is None
    if recipe.task == "reranker" and unknown and "native" in recipe.evaluate.baselines:
        fitting = " or ".join(list_score_head_formats(model.folder))
        message = f"{what}, and nothing says in which format the head was trained: the yardstick would be random"
        hint = (
            f"say model: {{path: {model.name}, native: …}}, {fitting}; or measure it in the format of this training "
            "only: evaluate: {baselines: [trained-format]}"
        )
        yield ("model",), Problem(message, hint)
