"""What a user asks to be evaluated: models, data, and how the models read it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from orchestrator.data.prepare_eval import EvalRequest
from orchestrator.machine.hardware import CPU, Hardware

MAX_LENGTH = 512
SEED = 42


@dataclass(frozen=True)
class Reading:
    """How models read texts, the same for all that do not say it themselves; None is each model's own way.

    `max_length` is in tokens, see `scorers.build_scoring`. A packaged folder says itself what it reads, and of these
    only `family`, `batch_size`, `trust_remote_code` and `allow_pickle` are for it.
    """

    format: str | None = None
    family: str | None = None
    max_length: int | None = None
    instruction: str | None = None
    batch_size: int | None = None
    trust_remote_code: bool = False
    allow_pickle: bool = False


@dataclass(frozen=True)
class Request:
    """What is asked for, all of it.

    `models` are folders, runs, hub ids or packages; the first is what the others are compared with. With `data.corpus`
    every query searches all its documents. `metrics` empty are those of the data's kind, `python` runs the models, and
    `cache` keeps scores across calls.
    """

    models: tuple[str, ...]
    data: EvalRequest
    reading: Reading
    python: str
    hardware: Hardware = CPU
    metrics: tuple[str, ...] = ()
    cache: Path | None = None
    seed: int = SEED
