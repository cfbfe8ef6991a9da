"""What every training's train.json says: the fields that the trainers share, and the rules of their values."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Protocol

from orchestrator.workers.engines.lora import Lora
from orchestrator.workers.settings import AMOUNT, COUNT, TEXT, Rule

VERSION = Rule("{value} of the settings is not known to this worker", lambda value: value == 1)
ARGUMENTS = Rule(
    "must be an object, with output_dir",
    lambda value: isinstance(value, dict) and TEXT.allows(value.get("output_dir")),
)


@dataclass(frozen=True)
class EarlyStopping:
    """The training ends after `patience` evaluations in a row that are not better by more than `threshold`."""

    patience: Annotated[int, COUNT]
    threshold: Annotated[float, AMOUNT] = 0.0


class Settings(Protocol):
    """What the shared parts ask of any training's settings; `arguments` are the library's, as they are written."""

    @property
    def arguments(self) -> dict[str, Any]:
        """The trainer's own arguments."""

    @property
    def deterministic(self) -> bool:
        """Whether it must repeat itself, bit for bit."""

    @property
    def early_stopping(self) -> EarlyStopping | None:
        """When it ends early."""

    @property
    def lora(self) -> Lora | None:
        """The adapter that is trained in place of all weights."""

    @property
    def stable_ratio(self) -> float | None:
        """The part of the steps at the full learning rate."""

    @property
    def validation(self) -> Path | None:
        """The rows that it is evaluated on."""

    @property
    def output(self) -> Path:
        """The folder of the checkpoints."""

    @property
    def seed(self) -> int:
        """The seed of everything random in it."""


def find_seed(arguments: dict[str, Any]) -> int:
    """Return the seed; transformers' default is 42."""
    seed: int = arguments.get("seed", 42)
    return seed


def check_shared(settings: Settings) -> list[str]:
    """Return what of the shared settings does not belong together."""
    problems = []
    if settings.arguments.get("save_strategy") == "no":
        problems.append("arguments.save_strategy is no: the training would leave no model")
    if settings.early_stopping is not None and settings.validation is None:
        problems.append("early_stopping needs validation rows; set data.validation_ratio")
    return problems
