"""The model as training starts from it, and as `score` measures it before: the same weights, the new head included."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from orchestrator.workers.failure import WorkerError
from orchestrator.workers.pickles import weight_options
from orchestrator.workers.reranker.heads import HEAD_SEED, name_head
from orchestrator.workers.whole_weights import NEW_HEAD, require_whole

if TYPE_CHECKING:
    from orchestrator.workers.cross_encoder.settings import Settings


@contextlib.contextmanager
def reported_weights() -> Iterator[None]:
    """Let transformers print which weights a model file lacks: they start at random, the new head and any other one."""
    from transformers.utils import logging

    before = logging.get_verbosity()
    logging.set_verbosity_warning()
    try:
        yield
    finally:
        logging.set_verbosity(before)


def load_model(settings: Settings) -> Any:
    """Return a CrossEncoder in float32 on the CPU (the trainer moves it), whose scores are raw logits.

    A base without a head gets a seeded one, the one that `score` gives it. Raises WorkerError for a head of several
    labels, for a `max_length` beyond the encoder's positions, and what `load_formatted_head` raises.
    """
    if settings.family == "decoder":
        from orchestrator.workers.reranker.formatted_head import PairFormat, load_formatted_head

        return load_formatted_head(
            settings.model,
            PairFormat(**settings.format or {}),
            max_length=settings.max_length,
            trust_remote_code=settings.trust_remote_code,
            device="cpu",
        )
    import torch
    from sentence_transformers import CrossEncoder

    name_head(settings.model, trust_remote_code=settings.trust_remote_code)
    require_whole(settings.model, NEW_HEAD, trust_remote_code=settings.trust_remote_code)
    torch.manual_seed(HEAD_SEED)
    model = CrossEncoder(
        settings.model,
        num_labels=1,
        max_length=settings.max_length,
        activation_fn=torch.nn.Identity(),
        device="cpu",
        trust_remote_code=settings.trust_remote_code,
        model_kwargs={
            "torch_dtype": "float32",
            "trust_remote_code": settings.trust_remote_code,
            **weight_options(),
        },
    )
    positions = getattr(model.model.config, "max_position_embeddings", None)
    if positions and settings.max_length > positions:
        raise WorkerError(f"max_length is {settings.max_length}, and {settings.model} has {positions} positions")
    return model
