"""The model as training starts from it (as `score` measures it before, the new head included), goes on, and ends."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from orchestrator.workers.cross_encoder.settings import Settings
from orchestrator.workers.engines.transformers import HEAD_SEED, name_head
from orchestrator.workers.environment import weight_options
from orchestrator.workers.failure import WorkerError
from orchestrator.workers.reranker.scoring import load_formatted_head
from orchestrator.workers.whole_weights import NEW_HEAD, require_whole

LAYERS = "transformer_layer_cls_to_wrap"


def load_model(settings: Settings) -> Any:
    """Return a CrossEncoder in float32 on the CPU (the trainer moves it), whose scores are raw logits.

    A base without a head gets a seeded one, the one that `score` gives it. Raises WorkerError for a head of several
    labels, for a `max_length` beyond the encoder's positions, and what `load_formatted_head` raises.
    """
    trust: dict[str, Any] = {"trust_remote_code": settings.trust_remote_code}
    if settings.format is not None:
        return load_formatted_head(
            settings.model, settings.format, max_length=settings.max_length, device="cpu", **trust
        )
    import torch
    from sentence_transformers import CrossEncoder

    name_head(settings.model, **trust)
    require_whole(settings.model, NEW_HEAD, **trust)
    torch.manual_seed(HEAD_SEED)
    model = CrossEncoder(
        settings.model,
        num_labels=1,
        max_length=settings.max_length,
        activation_fn=torch.nn.Identity(),
        device="cpu",
        model_kwargs={"torch_dtype": "float32", **trust, **weight_options()},
        **trust,
    )
    positions = getattr(model.model.config, "max_position_embeddings", None)
    if positions and settings.max_length > positions:
        raise WorkerError(f"max_length is {settings.max_length}, and {settings.model} has {positions} positions")
    return model


def name_layers(settings: Settings) -> dict[str, Any]:
    """Return the trainer's arguments with the layers that FSDP spreads over the GPUs, where they are not named yet.

    They are the classes that the model's own library never splits; a CrossEncoder names none itself
    (sentence_transformers/base/model.py: `_no_split_modules`). Raises WorkerError where the library names none.
    """
    config = settings.arguments.get("fsdp_config")
    if not settings.arguments.get("fsdp") or not isinstance(config, dict) or config.get(LAYERS):
        return settings.arguments
    import torch
    from transformers import AutoConfig, AutoModelForSequenceClassification

    trust = {"trust_remote_code": settings.trust_remote_code}
    with torch.device("meta"):  # the classes are wanted, not the weights
        model = AutoModelForSequenceClassification.from_config(
            AutoConfig.from_pretrained(settings.model, **trust), **trust
        )
    layers = sorted(model._no_split_modules or ())  # noqa: SLF001  what accelerate reads too
    if not layers:
        raise WorkerError(f"{settings.model} does not name its layers, which FSDP needs: say launch.strategy: ddp")
    return {**settings.arguments, "fsdp_config": {**config, LAYERS: layers}}


def save_whole(settings: Settings, weights: Mapping[str, Any], folder: str | Path) -> None:
    """Write the weights that FSDP gathered as a model folder. Raises WorkerError when they are not all of the model's.

    The trainer's own `_save` leaves them aside and saves the model that it holds, of which FSDP left it the shards.
    """
    model = load_model(settings)
    try:
        model.load_state_dict(weights, strict=True)
    except RuntimeError as error:
        raise WorkerError(
            f"the weights that FSDP gathered are not the model's: {' '.join(str(error).split())}"
        ) from error
    model.save_pretrained(str(folder))
