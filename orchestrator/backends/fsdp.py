"""`launch: {strategy: fsdp}`: what the trainer is told, so that an encoder is spread over several GPUs by its layers.

Sources: TrainingArguments of transformers 4.57 and 5.19, which take `full_shard auto_wrap` as text, and those after it,
which take true and a config.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from orchestrator.distributions import parse_release

if TYPE_CHECKING:
    from orchestrator.backends.protocol import Job

_MODERN = (5, 19)  # it warns that the text goes in 5.20
# sentence-transformers' models name no layers of their own (base/model.py: _no_split_modules), so FSDP is told.
_LAYERS = {
    "XLMRoberta": "XLMRobertaLayer",
    "Roberta": "RobertaLayer",
    "DistilBert": "TransformerBlock",
    "ModernBert": "ModernBertEncoderLayer",
    "Bert": "BertLayer",
    "Electra": "ElectraLayer",
    "DebertaV2": "DebertaV2Layer",
}


def build_fsdp_arguments(job: Job) -> dict[str, Any]:
    """Return `fsdp` and `fsdp_config`: full shards, layer by layer, whole weights in every checkpoint."""
    config: dict[str, Any] = {"auto_wrap_policy": "TRANSFORMER_BASED_WRAP", "state_dict_type": "FULL_STATE_DICT"}
    if layer := _find_layer(job):
        config["transformer_layer_cls_to_wrap"] = [layer]
    if parse_release(job.versions.get("transformers") or "5.19") >= _MODERN:
        return {"fsdp": True, "fsdp_config": {"reshard_after_forward": True, **config}}
    return {"fsdp": "full_shard auto_wrap", "fsdp_config": config}


def _find_layer(job: Job) -> str | None:
    """Return the class of the model's layers; None for a model that is not here yet: the worker reads it then."""
    for architecture in job.model.architectures:
        for start, layer in _LAYERS.items():
            if architecture.startswith(start):
                return layer
    return None
