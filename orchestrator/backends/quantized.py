"""Quantised weights: of a base model whose files are so already, and of one that ms-swift quantises as it loads it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from orchestrator.backends.known_models import find_known
from orchestrator.backends.protocol import Found, Job
from orchestrator.errors import Problem

# peft has no merge for the layers of these (tuners/lora/awq.py, gptq.py, aqlm.py, eetq.py of peft 0.20).
_UNMERGED = frozenset({"awq", "gptq", "aqlm", "eetq"})
# What each method of QuantizeArguments takes (fp8 has no choice); the last is the usual one.
_BITS = {
    "bnb": ("8", "4"),
    "hqq": ("1", "2", "3", "8", "4"),
    "eetq": ("8",),
    "quanto": ("2", "4", "float8", "8"),
}
_MARK = re.compile(r"[-_](awq|gptq|aqlm|eetq|int[48]|[48]-?bits?|w[48]a16)(?=[-_]|$)", re.IGNORECASE)


def check_quantized(job: Job, *, lora: bool) -> Iterator[Found]:
    """Yield why a quantised base model cannot be trained in full, or its LoRA not be merged."""
    method = job.model.quantization
    if method is None:
        return
    other = f"name {_find_whole(job.model.name)}"
    if job.recipe.backend == "swift":
        other += ", and say quant_method: bnb and quant_bits: 4 to train it in 4 bit"
    if not lora:
        message = f"{job.model.name} is quantised ({method}), and full training needs whole weights"
        yield ("model",), Problem(message, other)
    elif job.recipe.merge and method in _UNMERGED:
        message = f"{job.model.name} is quantised ({method}): LoRA can be trained on it, and not merged into it"
        yield ("model",), Problem(message, f"{other}; or say merge: false, and remove the gate")


def check_quantising(job: Job, train: Mapping[str, Any], *, lora: bool) -> Iterator[Found]:
    """Yield why ms-swift cannot quantise the weights as it loads them (QuantizeArguments.get_quantization_config)."""
    method, bits = train.get("quant_method"), train.get("quant_bits")
    if method is None:
        if bits is not None:
            message = f"quant_bits {bits} without quant_method quantises nothing"
            yield ("train", "quant_bits"), Problem(message, "say quant_method: bnb, or remove it")
        return
    if job.model.quantization is not None:
        message = f"{job.model.name} is quantised already ({job.model.quantization})"
        yield ("train", "quant_method"), Problem(message, "remove quant_method and quant_bits")
        return
    if not lora:
        message = "quantised weights cannot be trained, only LoRA beside them"
        yield ("train", "quant_method"), Problem(message, "say tuner_type: lora, or remove quant_method")
    known = _BITS.get(str(method))
    if known is not None and str(bits) not in known:
        message = (
            f"quant_method {method} without quant_bits"
            if bits is None
            else f"{method} has no quant_bits {bits}: there is no such number of bits for it"
        )
        yield ("train", "quant_bits"), Problem(message, f"say quant_bits: {known[-1]}, one of {', '.join(known)}")


def _find_whole(name: str) -> str:
    """Return the model that a quantised one was made from, as far as its name and ms-swift's list tell."""
    whole = _MARK.sub("", name)
    known = whole != name and find_known(whole) is not None
    return f"{whole}, from which it was made" if known else "the model that it was made from"
