"""Base models that the trainers of text rerankers cannot take: those that see, and those that score by layers."""

from __future__ import annotations

from collections.abc import Iterator

from orchestrator.backends.known_models import find_known
from orchestrator.backends.models import find_other_scorer
from orchestrator.backends.protocol import Found, Job
from orchestrator.errors import Problem

_INSTEAD = {
    "flagembedding": "BAAI/bge-reranker-v2-gemma or BAAI/bge-reranker-v2-m3",
    "sentence-transformers": "BAAI/bge-reranker-v2-m3 or Qwen/Qwen3-Reranker-0.6B",
}
_WHAT = {
    "multimodal": "is a model that sees or hears, and this trainer takes text models",
    "decision": "is a model that decides, and this trainer takes rerankers, encoders and LLMs",
}


def check_base_model(job: Job) -> Iterator[Found]:
    """Yield why a base model cannot be trained by FlagEmbedding's plain trainers or by sentence-transformers'."""
    model, hint = job.model, f"name another model, such as {_INSTEAD[job.recipe.backend]}"
    if other := find_other_scorer(model.name, model.architectures):
        message = f"{model.name} scores by layers of its own choice ({other}): the plain trainer cannot train it"
        yield ("model",), Problem(message, hint)
    known = find_known(model.name)
    if known is not None and known.kind in _WHAT:
        yield ("model",), Problem(f"{model.name} {_WHAT[known.kind]}", hint)
