"""FSDP: what the trainer is told for `launch: {strategy: fsdp}`, and what a recipe of its own says of it.

Sources: TrainingArguments of transformers 4.57 and 5.19, which take `full_shard auto_wrap` as text, and those after it,
which take true and a config.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.backends.protocol import Job
from orchestrator.machine.json_files import load_json, parse_json
from orchestrator.machine.packages import parse_release

_PRESET = "fsdp2"  # of ms-swift: config/fsdp2.json has full shards and activation checkpointing
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


@dataclass(frozen=True)
class Fsdp:
    """How FSDP shares a training: `shards` in the words of ZeRO's stages, what lies in the machine's memory instead."""

    shards: int
    offload: bool
    checkpointing: bool


def find_fsdp(values: Mapping[str, Any]) -> Fsdp | None:
    """Return what the train command's arguments say of FSDP, None where they say nothing of it.

    `fsdp` is a switch, `fsdp2` or an object with both keys (ms-swift: _init_fsdp), or the words of older versions;
    `fsdp_config` stands beside it.
    """
    given = str(values.get("fsdp") or "")
    if given.lower() in {"", "false", "none", "[]"}:
        return None
    told = _read_object(given)
    words = str(told.get("fsdp", "" if told else given))
    config = told.get("fsdp_config") or _read_object(values.get("fsdp_config"))
    config = config if isinstance(config, dict) else {}
    keeps_weights = "shard_grad_op" in words or str(config.get("reshard_after_forward")).lower() == "false"
    return Fsdp(
        shards=0 if "no_shard" in words else 2 if keeps_weights else 3,
        offload="offload" in words or config.get("cpu_offload") is True or config.get("offload_params") is True,
        checkpointing=given == _PRESET or config.get("activation_checkpointing") is True,
    )


def _read_object(value: object) -> dict[str, Any]:
    """Return an object that is given as it is, as JSON or as a file of it; empty where it is none."""
    if isinstance(value, str):
        try:
            value = parse_json(value) if value.lstrip().startswith("{") else load_json(Path(value))
        except (OSError, ValueError):
            return {}
    return value if isinstance(value, dict) else {}


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
