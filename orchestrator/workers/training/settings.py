"""What every training's train.json says: the fields that the trainers share, and the rules of their values."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from orchestrator.workers.engines.lora import Lora
from orchestrator.workers.settings import AMOUNT, COUNT, SHARE, TEXT, Rule, one_of, or_null

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


@dataclass(frozen=True, kw_only=True)
class SharedSettings:
    """What any train.json says; `arguments` are the library's own training arguments, as they are written.

    Without `lora` all weights are trained. `stable_ratio` is the part of the steps at the full learning rate.
    """

    version: Annotated[int, VERSION]
    model: Annotated[str, TEXT]
    family: Annotated[str, one_of("encoder", "decoder")]
    form: str
    train: Annotated[Path, TEXT]
    validation: Annotated[Path | None, or_null(TEXT)] = None
    stable_ratio: Annotated[float | None, or_null(SHARE)]
    early_stopping: EarlyStopping | None
    deterministic: bool
    trust_remote_code: bool
    lora: Lora | None = None
    arguments: Annotated[dict[str, Any], ARGUMENTS]

    @property
    def output(self) -> Path:
        """The folder of the checkpoints."""
        return Path(self.arguments["output_dir"])

    @property
    def seed(self) -> int:
        """The seed of everything random but a new head: transformers' default is 42."""
        return int(self.arguments.get("seed", 42))


def check_shared(settings: SharedSettings) -> list[str]:
    """Return what of the shared settings does not belong together."""
    problems = []
    if settings.arguments.get("save_strategy") == "no":
        problems.append("arguments.save_strategy is no: the training would leave no model")
    if settings.early_stopping is not None and settings.validation is None:
        problems.append("early_stopping needs validation rows; set data.validation_ratio")
    return problems
