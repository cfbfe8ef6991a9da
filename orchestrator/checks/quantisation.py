"""How many bits a quantised weight takes, its scales included: of a trainer's arguments, and of a model's config.json.

Sources, for the sizes of groups and scales: BitsAndBytesConfig, HqqConfig, QuantoConfig, AwqConfig, GPTQConfig and
FineGrainedFP8Config of transformers 5; QLoRA (arXiv 2305.14314, section 3) for double quantisation: blocks of 64
weights have a scale of 8 bits, and 256 of these one of 32.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_NF4_DOUBLE = 4 + 8 / 64 + 32 / (64 * 256)
_NF4 = 4 + 32 / 64
_GROUP = 128  # weights that share a scale, in AWQ, GPTQ and quanto, unless the config says otherwise
_HQQ_GROUP = 64
_HALF = 16
_PACKED_3_BIT = 32 / 10  # hqq puts ten weights of 3 bits into 32


def find_trained_bits(values: Mapping[str, str]) -> float | None:
    """Return the bits of a weight that the trainer quantises when it loads the model; None where it does not."""
    method, asked = values.get("quant_method"), values.get("quant_bits")
    if method == "fp8":
        return 8.0
    if method is None or asked is None:
        return None
    bits = _whole(asked, 8)  # float8
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
        if found.get("load_in_4bit"):
            return _NF4_DOUBLE if found.get("bnb_4bit_use_double_quant") else _NF4
        return 8.0
    if method in {"fp8", "fbgemm_fp8"}:
        return 8.0
    bits = found.get("bits", found.get("w_bit", found.get("nbits")))
    group = found.get("group_size", found.get("q_group_size"))
    bits = bits if isinstance(bits, int) and 0 < bits <= _HALF else 4 if method in {"awq", "gptq"} else 8
    return bits + (_HALF + bits) / (group if isinstance(group, int) and group > 0 else _GROUP)


def _whole(text: str, default: int) -> int:
    return int(text) if text.isdigit() else default
