"""FSDP: which layers are spread over the GPUs, and whole weights in every checkpoint all the same."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.workers.cross_encoder.model import load_model
from orchestrator.workers.failure import WorkerError

if TYPE_CHECKING:
    from orchestrator.workers.cross_encoder.settings import Settings

LAYERS = "transformer_layer_cls_to_wrap"


def add_layers(settings: Settings, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments with the classes of the model's layers, where FSDP is on and they are not named yet.

    A CrossEncoder names none itself (sentence_transformers/base/model.py: `_no_split_modules`).
    """
    config = arguments.get("fsdp_config")
    if not arguments.get("fsdp") or not isinstance(config, dict) or config.get(LAYERS):
        return dict(arguments)
    return {**arguments, "fsdp_config": {**config, LAYERS: find_layers(settings)}}


def find_layers(settings: Settings) -> list[str]:
    """Return the classes that the model's own library never splits. Raises WorkerError where it names none."""
    import torch
    from transformers import AutoConfig, AutoModelForSequenceClassification

    trust = {"trust_remote_code": settings.trust_remote_code}
    config = AutoConfig.from_pretrained(settings.model, **trust)
    with torch.device("meta"):  # the classes are wanted, not the weights
        model = AutoModelForSequenceClassification.from_config(config, **trust)
    layers = sorted(model._no_split_modules or ())  # noqa: SLF001  what accelerate reads too
    if not layers:
        raise WorkerError(f"{settings.model} does not name its layers, which FSDP needs: say launch.strategy: ddp")
    return layers


def save_whole(settings: Settings, weights: Mapping[str, Any], folder: str | Path) -> None:
    """Write the gathered weights as a model folder. Raises WorkerError when they are not all of the model's.

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
