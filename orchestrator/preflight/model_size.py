"""The sizes of a model that decide its memory: from its config.json, its weights counted in the files' headers."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from orchestrator.model_weights import read_weights

if TYPE_CHECKING:
    from pathlib import Path

_NAMES = {  # what other architectures call it
    "hidden_size": ("hidden_size", "d_model", "dim", "n_embd"),
    "num_hidden_layers": ("num_hidden_layers", "num_layers", "n_layers", "n_layer"),
    "num_attention_heads": ("num_attention_heads", "n_heads", "n_head"),
    "intermediate_size": ("intermediate_size", "hidden_dim", "n_inner", "ffn_dim"),
}
_DTYPE_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}


@dataclass(frozen=True)
class ModelSize:
    """Sizes of one model. `query` and `key` are the widths of all heads together; `gated` is an MLP of three matrices.

    `parameters` counts every weight, tied ones once; `dtype_bytes` is a weight's width as the config stores it.
    """

    layers: int
    hidden: int
    intermediate: int
    query: int
    key: int
    vocabulary: int
    gated: bool
    parameters: int
    dtype_bytes: int = 4


def load_model_size(folder: Path) -> ModelSize | None:
    """Return the sizes of the model in a folder; None where its config does not say them."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    if not isinstance(config, dict):
        return None
    counted = sum(math.prod(shape) for shape in read_weights(folder).shapes.values())
    return read_model_size(config, counted or None)


def read_model_size(config: dict[str, Any], counted: int | None = None) -> ModelSize | None:
    """Return the sizes in a config; `counted` weights where the files were read, else as many as the config makes."""
    inner = config.get("text_config")
    config = inner if isinstance(inner, dict) else config
    found = {name: _read_whole(config, names) for name, names in _NAMES.items()}
    layers, hidden, heads = found["num_hidden_layers"], found["hidden_size"], found["num_attention_heads"]
    vocabulary = _read_whole(config, ("vocab_size",))
    if not (layers and hidden and heads and vocabulary):
        return None
    head = _read_whole(config, ("head_dim",)) or hidden // heads
    dtype = str(config.get("dtype") or config.get("torch_dtype") or "float32").removeprefix("torch.")
    size = ModelSize(
        layers=layers,
        hidden=hidden,
        intermediate=found["intermediate_size"] or 4 * hidden,
        query=heads * head,
        key=(_read_whole(config, ("num_key_value_heads",)) or heads) * head,
        vocabulary=vocabulary,
        gated="rms_norm_eps" in config,  # every LLM with RMSNorm here has a gated MLP: Qwen, Llama, Mistral, Gemma
        parameters=0,
        dtype_bytes=_DTYPE_BYTES.get(dtype, 4),
    )
    tied = config.get("tie_word_embeddings", True) is not False
    positions = 0 if size.gated else _read_whole(config, ("max_position_embeddings",)) or 0
    parameters = counted or _count(size, tied=tied, positions=positions)
    return ModelSize(**{**size.__dict__, "parameters": parameters})


def _count(size: ModelSize, *, tied: bool, positions: int) -> int:
    """Return how many weights a transformer of these sizes has, norms and biases left out (below 0.1 %)."""
    attention = size.hidden * (2 * size.query + 2 * size.key)
    mlp = (3 if size.gated else 2) * size.hidden * size.intermediate
    embeddings = (size.vocabulary * (1 if tied else 2) + positions) * size.hidden
    return size.layers * (attention + mlp) + embeddings


def _read_whole(config: dict[str, Any], names: tuple[str, ...]) -> int | None:
    for name in names:
        value = config.get(name)
        if isinstance(value, int) and not isinstance(value, bool) and value > 0:
            return value
    return None
