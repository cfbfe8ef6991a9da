"""What a run computes, by formula: floating-point operations (FLOPs), and hours on a named GPU as a range. Pure.

The formula. N are the weights that a token passes through: all but the embeddings, of experts those that are chosen.

- forward: 2 N a token, and 4 x layers x width of the queries x length for both products of the attention (PaLM, arXiv
  2204.02311, appendix B; its masked half counts too). A position whose logits are computed: 2 x hidden x vocabulary.
- backward: twice the forward pass where all weights are trained: 6 N with it. Where they are frozen under an adapter
  no weight has a gradient, and it is once: 4 N; 6 for each weight of the adapter. Attention is always twice.
- gradient checkpointing is one forward pass more, and so is a loss that embeds its batch in parts first (GradCache).

Padding is not counted: it is part of what the efficiency loses. That is the share of the GPU's peak which these FLOPs
reach: MFU in PaLM, table 3, which gives 21 % (GPT-3) to 46 % (PaLM) of large trainings.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
from msgspec.structs import asdict

from orchestrator.checks.model_size import ModelSize
from orchestrator.errors import PreflightError
from orchestrator.machine.hardware import Hardware
from orchestrator.machine.tables import load_table

PUBLISHED = (0.21, 0.46)
_SPREAD = 1.25  # around what one earlier run reached: it is one run
_TERA = 1e12
_HOUR_S = 3600


class Gpu(msgspec.Struct, frozen=True):
    """A row of gpus.yaml: dense peak rates in TFLOPS in half precision and in float32, and memory in GiB."""

    name: str
    pattern: re.Pattern[str]
    half: float
    single: float
    memory: int
    bf16: bool = True

    def describe(self, count: int) -> Hardware:
        """Return so many of them as hardware to plan for."""
        return Hardware("cuda", count, self.bf16, (self.name.upper(),) * count, (self.memory * 1024,) * count)


def load_gpus() -> tuple[Gpu, ...]:
    """Return the table of peak rates."""
    return load_table(Path(__file__).with_name("gpus.yaml"), Gpu)


def find_gpu(name: str) -> Gpu | None:
    """Return the row for a GPU's name, the driver's or a short one; None where the table has none."""
    return next((gpu for gpu in load_gpus() if gpu.name == name.lower() or gpu.pattern.search(name.lower())), None)


def require_gpu(name: str) -> Gpu:
    """Return the row for a GPU's name. Raises PreflightError, with the nearest names, where there is none."""
    if found := find_gpu(name):
        return found
    names = [gpu.name for gpu in load_gpus()]
    near = difflib.get_close_matches(name.lower(), names, n=3, cutoff=0.4)
    hint = f"did you mean {', '.join(near)}?" if near else f"one of {', '.join(names)}"
    raise PreflightError(f"no peak rate is known of a GPU {name!r}", hint=hint)


class Passes(msgspec.Struct, frozen=True):
    """How often a training goes through the model: forward passes beside the first, and what is trained.

    `adapter` counts its weights, None where all are trained; `logits`: whether they are computed at every position.
    """

    more_forward: int = 0
    adapter: int | None = None
    logits: bool = False


def count_forward(model: ModelSize, tokens: float, length: float, *, logits: bool = False) -> float:
    """Return the FLOPs of a forward pass over `tokens` in sequences of `length` on average."""
    return tokens * (_count_matrices(model, logits=logits) + 4 * model.layers * model.query * length)


def count_training(model: ModelSize, passes: Passes, tokens: float, length: float) -> float:
    """Return the FLOPs of a training over `tokens` in sequences of `length` on average."""
    forward = 1 + passes.more_forward
    frozen = passes.adapter is not None
    matrices = _count_matrices(model, logits=passes.logits) * (forward + (1 if frozen else 2))
    adapter = 2 * (passes.adapter or 0) * (forward + 2)
    return tokens * (matrices + adapter + 4 * model.layers * model.query * length * (forward + 2))


def _count_matrices(model: ModelSize, *, logits: bool) -> int:
    return 2 * (model.active - model.embedded + (model.hidden * model.vocabulary if logits else 0))


def count_steps(rows: int, *, step_rows: int, accumulation: int, epochs: float, max_steps: int, drops: bool) -> int:
    """Return the optimizer steps of a training, as transformers' Trainer counts them."""
    if max_steps > 0:
        return max_steps
    batches = rows // step_rows if drops else -(-rows // step_rows)
    return math.ceil(max(1, -(-batches // accumulation)) * epochs)


class Work(msgspec.Struct, frozen=True):
    """What one stage computes; `flops` is None where the model's sizes are not known, `steps` but for a training."""

    stage: str
    sequences: float
    tokens: float
    flops: float | None
    gpus: int = 1
    half: bool = True
    steps: int | None = None


class Efficiency(msgspec.Struct, frozen=True):
    """The share of a peak that is expected, or with no peak the FLOPS that were reached here; always a range."""

    low: float
    high: float
    source: str


def expect_efficiency(reached: Sequence[float]) -> Efficiency | None:
    """Return the range around what earlier runs reached; None where there are none."""
    if not reached:
        return None
    runs = f"{len(reached)} earlier run{'s' * (len(reached) > 1)} on this hardware"
    return Efficiency(min(reached) / _SPREAD, max(reached) * _SPREAD, runs)


class Cost(msgspec.Struct, frozen=True):
    """The work of each stage, how its data were counted, and the GPU that it is for."""

    works: tuple[Work, ...]
    counted: str
    gpu: Gpu | None = None
    efficiency: Efficiency | None = None
    gaps: tuple[str, ...] = ()

    def hours(self, work: Work) -> tuple[float, float] | None:
        """Return the fewest and the most hours of computing; None where FLOPs or rates are not known."""
        if work.flops is None or self.efficiency is None:
            return None
        peak = 1.0 if self.gpu is None else _TERA * (self.gpu.half if work.half else self.gpu.single)
        best = work.flops / (peak * work.gpus * _HOUR_S)
        return best / self.efficiency.high, best / self.efficiency.low

    def to_data(self) -> dict[str, Any]:
        """Return all of it for programs; hours are lowest and highest."""
        stages = [{**asdict(work), "hours": self.hours(work)} for work in self.works]
        gpu = self.gpu and {"name": self.gpu.name, "half_tflops": self.gpu.half, "single_tflops": self.gpu.single}
        efficiency = self.efficiency and asdict(self.efficiency)
        return {"stages": stages, "counted": self.counted, "gpu": gpu, "efficiency": efficiency, "gaps": self.gaps}

    def lines(self) -> list[str]:
        """Return it in words, a line a stage."""
        lines = [f"cost, {self.counted}:"]
        found = [self.hours(work) for work in self.works]
        width = max((len(work.stage) for work in self.works), default=0)
        for work, hours in zip(self.works, found, strict=True):
            parts = [f"{work.steps:,} steps"] if work.steps else []
            parts += [f"{work.sequences:,.0f} sequences", f"{work.tokens:,.0f} tokens"]
            parts += [] if work.flops is None else [f"{work.flops:.2g} FLOPs"]
            parts += [show_hours(hours)] if hours else []
            lines.append(f"  {work.stage:<{width}}  {', '.join(parts)}")
        known = [one for one in found if one]
        if known and self.efficiency:
            low, high = (sum(side) for side in zip(*known, strict=True))
            reached, end = "as fast as here", f"({self.efficiency.source})"
            if self.gpu:
                share = f"{self.efficiency.low:.0%} to {self.efficiency.high:.0%}"
                reached = f"on {self.gpu.name.upper()}, {share} of the peak"
            lines.append(f"  {'all together':<{width}}  {show_hours((low, high))} {reached} {end}")
        return [*lines, *(f"  not counted: {gap}" for gap in self.gaps)]


def show_hours(hours: tuple[float, float]) -> str:
    """Return a range of hours in the unit that fits its upper end."""
    low, high = hours
    if high * _HOUR_S < 1:
        return "under 1 s"
    unit, size = ("h", 1) if high >= 1 else ("min", 60) if high * 60 >= 1 else ("s", _HOUR_S)
    return f"{low * size:.2g} to {high * size:.2g} {unit}"


def measure_share(flops: float, seconds: float, gpu: Gpu | None, *, half: bool, gpus: int = 1) -> dict[str, float]:
    """Return what a finished computation reached: FLOPS of one GPU, and their share of its peak where that is known."""
    reached = flops / seconds / gpus
    share = {"share_of_peak": reached / (_TERA * (gpu.half if half else gpu.single))} if gpu else {}
    return {"flops_per_s": reached, **share}
