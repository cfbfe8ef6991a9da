"""A base model whose files are quantised already: what cannot be trained on it, or merged into it."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from orchestrator.errors import Problem
from orchestrator.known_models import find_known

if TYPE_CHECKING:
    from collections.abc import Iterator

    from orchestrator.backends.protocol import Found, Job

# peft has no merge for the layers of these (tuners/lora/awq.py, gptq.py, aqlm.py, eetq.py of peft 0.20).
_UNMERGED = frozenset({"awq", "gptq", "aqlm", "eetq"})
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


def _find_whole(name: str) -> str:
    """Return the model that a quantised one was made from, as far as its name and ms-swift's list tell."""
    whole = _MARK.sub("", name)
    known = whole != name and find_known(whole) is not None
    return f"{whole}, from which it was made" if known else "the model that it was made from"
