"""Half precision that a recipe asks for, held against the hardware: the same for every backend."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from orchestrator.backends.protocol import Found, Job
from orchestrator.errors import Problem


def check_precision(job: Job, train: Mapping[str, Any], *, also: tuple[str, ...] = ()) -> Iterator[Found]:
    """Yield what needs a GPU where there is none (bf16, fp16, and the arguments `also`), and both halves at once."""
    for name in ("bf16", "fp16", *also):
        if train.get(name) and job.hardware.kind == "cpu" and not job.smoke:
            message = f"{name} needs a GPU, and there is none"
            yield ("train", name), Problem(message, "remove it: Orch chooses by hardware")
    if train.get("bf16") and train.get("fp16"):
        yield ("train", "fp16"), Problem("bf16 and fp16 exclude each other", "keep one")
