"""The sizes of a model that decide its memory: from its files, or by its name (model_sizes.yaml) till they are here.

Of a quantised weight the bits count, its scales included. Sources, for the sizes of groups and scales:
BitsAndBytesConfig, HqqConfig, QuantoConfig, AwqConfig, GPTQConfig and FineGrainedFP8Config of transformers 5; QLoRA
(arXiv 2305.14314, section 3) for double quantisation: blocks of 64 weights have a scale of 8 bits, and 256 of these one
of 32.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
from msgspec.structs import replace

from orchestrator.backends.known_models import plain_name
from orchestrator.backends.models import BaseModel
from orchestrator.machine.json_files import find_object
from orchestrator.machine.tables import load_table
from orchestrator.machine.weights import Shapes, read_weights

NAMES = {  # what architectures call their sizes
    "hidden_size": ("hidden_size", "d_model", "dim", "n_embd"),
    "num_hidden_layers": ("num_hidden_layers", "num_layers", "n_layers", "n_layer"),
    "num_attention_heads": ("num_attention_heads", "n_heads", "n_head"),
    "intermediate_size": ("intermediate_size", "hidden_dim", "n_inner", "ffn_dim"),
}
_LAYER = re.compile(r"^(.*?\b(?:layers|layer|h|blocks))\.(\d+)\.")
_EMBEDDING = re.compile(r"(^|\.)(embed_tokens|word_embeddings|tok_embeddings|wte|embed_in)\.weight$")
_CHOSEN = ("num_experts_per_tok", "moe_topk")
EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts")
_DTYPE_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}
_NF4_DOUBLE = 4 + 8 / 64 + 32 / (64 * 256)
_NF4 = 4 + 32 / 64
_GROUP = 128  # weights that share a scale, in AWQ, GPTQ and quanto, unless the config says otherwise
_HQQ_GROUP = 64
_HALF = 16
_PACKED_3_BIT = 32 / 10  # hqq puts ten weights of 3 bits into 32


class ModelSize(msgspec.Struct, frozen=True):
    """Sizes of one model. `query` and `key` are the widths of all heads together; `gated` is an MLP of three matrices.

    `parameters` counts every weight, tied ones once; `dtype_bytes` is a weight's width as the config stores it.
    `embedded` are those of embeddings and output, which no method quantises. Of a model whose own files are quantised
    `stored_bits` is what one weight takes there, and `stored_bytes` what all files hold, where they are here.
    `idle` are the weights of experts that a token does not pass.
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
    embedded: int = 0
    stored_bits: float | None = None
    stored_bytes: int | None = None
    idle: int = 0

    @property
    def active(self) -> int:
        """The weights that one token passes, embeddings included."""
        return self.parameters - self.idle


class _Known(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    named: re.Pattern[str]
    config: dict[str, int | float | bool | str]


def find_model_size(model: BaseModel) -> ModelSize | None:
    """Return the sizes by the model's files or, while they are not here, by its name; None where neither says them."""
    if model.folder:
        return load_model_size(model.folder)
    known = load_table(Path(__file__).with_name("model_sizes.yaml"), _Known)
    return next((read_model_size(row.config) for row in known if row.named.fullmatch(plain_name(model.name))), None)


def load_model_size(folder: Path) -> ModelSize | None:
    """Return the sizes of the model in a folder; None where its config does not say them."""
    config = find_object(folder / "config.json", constants=True)
    if config is None:
        return None
    if find_stored_bits(config) is not None:  # several weights are packed into one number: shapes count nothing
        size = read_model_size(config)
        files = read_weights(folder).files
        return size and replace(size, stored_bytes=sum(path.stat().st_size for path in files) or None)
    counted = sum(math.prod(shape) for shape in read_weights(folder).shapes.values())
    return read_model_size(config, counted or None)


def read_model_size(config: Mapping[str, Any], counted: int | None = None) -> ModelSize | None:
    """Return the sizes in a config; `counted` weights where the files were read, else as many as the config makes."""
    bits, config = find_stored_bits(config), read_text_config(config)
    bits = find_stored_bits(config) if bits is None else bits
    found = {name: read_whole(config, *names) for name, names in NAMES.items()}
    layers, hidden, heads = found["num_hidden_layers"], found["hidden_size"], found["num_attention_heads"]
    vocabulary = read_whole(config, "vocab_size")
    if not (layers and hidden and heads and vocabulary):
        return None
    head = read_whole(config, "head_dim") or hidden // heads
    dtype = str(config.get("dtype") or config.get("torch_dtype") or "float32").removeprefix("torch.")
    size = ModelSize(
        layers=layers,
        hidden=hidden,
        intermediate=found["intermediate_size"] or 4 * hidden,
        query=heads * head,
        key=(read_whole(config, "num_key_value_heads") or heads) * head,
        vocabulary=vocabulary,
        gated="rms_norm_eps" in config,  # every LLM with RMSNorm here has a gated MLP: Qwen, Llama, Mistral, Gemma
        parameters=0,
        dtype_bytes=_DTYPE_BYTES.get(dtype, 4),
    )
    tied = config.get("tie_word_embeddings", True) is not False
    positions = 0 if size.gated else read_whole(config, "max_position_embeddings") or 0
    embedded = (vocabulary * (1 if tied else 2) + positions) * hidden
    weights, idle = _count(size, config)
    parameters = counted or weights + embedded
    return replace(size, parameters=parameters, embedded=min(embedded, parameters), stored_bits=bits, idle=idle)


def _count(size: ModelSize, config: Mapping[str, Any]) -> tuple[int, int]:
    """Return the weights of the layers, without norms and biases (below 0.1 %), and of those what a token passes by."""
    widths, idle = size.intermediate, 0
    if experts := read_whole(config, *EXPERTS):
        width = read_whole(config, "moe_intermediate_size") or size.intermediate
        widths = experts * width + (read_whole(config, "shared_expert_intermediate_size") or 0)
        idle = 3 * size.hidden * width * max(0, experts - (read_whole(config, *_CHOSEN) or experts))
    attention = size.hidden * (2 * size.query + 2 * size.key)
    return size.layers * (attention + (3 if size.gated else 2) * size.hidden * widths), size.layers * idle


def find_trained_bits(values: Mapping[str, str]) -> float | None:
    """Return the bits of a weight that the trainer quantises when it loads the model; None where it does not."""
    method, asked = values.get("quant_method"), values.get("quant_bits")
    if method == "fp8":
        return 8.0
    if method is None or asked is None:
        return None
    bits = int(asked) if asked.isdigit() else 8  # float8
    if method == "bnb" and bits == 4:  # noqa: PLR2004
        return _NF4 if values.get("bnb_4bit_use_double_quant", "True").lower() == "false" else _NF4_DOUBLE
    if method == "hqq":
        stored = _PACKED_3_BIT if bits == 3 else bits  # noqa: PLR2004
        return stored + 2 * _HALF / _HQQ_GROUP
    if method == "quanto" and bits < 8:  # noqa: PLR2004
        return bits + 2 * _HALF / _GROUP
    return float(bits)  # a scale a row


def find_stored_bits(config: Mapping[str, Any]) -> float | None:
    """Return the bits of a weight that the model's own files hold quantised; None where they do not."""
    found = config.get("quantization_config")
    if not isinstance(found, dict):
        return None
    method = str(found.get("quant_method", "bitsandbytes"))
    if method.startswith(("bitsandbytes", "bnb")):
        four = _NF4_DOUBLE if found.get("bnb_4bit_use_double_quant") else _NF4
        return four if found.get("load_in_4bit") else 8.0
    if method in {"fp8", "fbgemm_fp8"}:
        return 8.0
    bits = found.get("bits", found.get("w_bit", found.get("nbits")))
    group = found.get("group_size", found.get("q_group_size"))
    bits = bits if isinstance(bits, int) and 0 < bits <= _HALF else 4 if method in {"awq", "gptq"} else 8
    return bits + (_HALF + bits) / (group if isinstance(group, int) and group > 0 else _GROUP)


def find_embedding(shapes: Shapes) -> tuple[int, int] | None:
    """Return rows and width of the table of token embeddings; None where no tensor, or more than one, is called so."""
    found = {shape for name, shape in shapes.items() if _EMBEDDING.search(name)}
    shape = found.pop() if len(found) == 1 else ()
    return (shape[0], shape[1]) if len(shape) == 2 else None  # noqa: PLR2004


def find_layer_count(config: Mapping[str, Any]) -> int | None:
    """Return how many layers a config asks for; None where it does not say, or shares them."""
    config = read_text_config(config)
    if config.get("is_encoder_decoder") or "num_hidden_groups" in config:  # ALBERT runs one layer many times
        return None
    return read_whole(config, *NAMES["num_hidden_layers"])


def count_layers(shapes: Shapes) -> int:
    """Return how many layers the longest list of layers has."""
    return max((len(numbers) for numbers in group_layers(shapes).values()), default=0)


def read_text_config(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the part of a config that describes the language model: all of it, or its text_config."""
    text = config.get("text_config")
    return text if isinstance(text, dict) else config


def group_layers(shapes: Shapes) -> dict[str, set[int]]:
    """Return the numbers of the layers by what stands before them, such as model.layers."""
    found: dict[str, set[int]] = {}
    for match in filter(None, map(_LAYER.match, shapes)):
        found.setdefault(match[1], set()).add(int(match[2]))
    return found


def read_whole(config: Mapping[str, Any], *names: str) -> int | None:
    """Return the first of the named values that is a whole number above 0."""
    values = (config.get(name) for name in names)
    return next((value for value in values if isinstance(value, int) and value is not True and value > 0), None)
