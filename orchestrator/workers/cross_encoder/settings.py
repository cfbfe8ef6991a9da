"""Read train.json: everything that decides one training of a cross-encoder; an unknown key is an error."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Annotated, Any

from orchestrator.workers.cross_encoder.losses import LOSSES, LossSettings
from orchestrator.workers.failure import WorkerError
from orchestrator.workers.folders import read_object
from orchestrator.workers.reranker.formats import PairFormat
from orchestrator.workers.settings import COUNT, SHARE, Rule
from orchestrator.workers.settings import parse_settings as parse_fields
from orchestrator.workers.training.settings import SharedSettings, check_shared

_ONE_LABEL = Rule("is {value}; every loss here trains a head of one label", lambda value: value == 1)


@dataclass(frozen=True, kw_only=True)
class Settings(SharedSettings):
    """One training; `max_length` in tokens, `format` of decoders only.

    `shuffle_ratio` is the probability that a document's parts change places.
    """

    loss: LossSettings
    max_length: Annotated[int, COUNT]
    shuffle_ratio: Annotated[float, SHARE]
    format: PairFormat | None = None
    num_labels: Annotated[int, _ONE_LABEL] = 1


def load_settings(path: Path) -> Settings:
    """Return the settings in a JSON file. Raises WorkerError with every problem that the file has."""
    return parse_settings(read_object(path, "the training's settings"), str(path))


def parse_settings(raw: dict[str, Any], origin: str) -> Settings:
    """Return the settings. Raises WorkerError with every problem, each line beginning with `origin`."""
    settings = parse_fields(Settings, raw, origin)
    if problems := [*_check_loss(settings), *_check_parts(settings)]:
        raise WorkerError(*(f"{origin}: {problem}" for problem in problems))
    return settings


def _check_loss(settings: Settings) -> list[str]:
    """Return what does not belong to the loss."""
    name = settings.loss.type
    if name not in LOSSES:
        return [f"loss.type is {name!r}; known are {', '.join(LOSSES)}"]
    neutral = asdict(LossSettings(name))
    problems = []
    for key, value in asdict(settings.loss).items():
        if value != neutral[key] and key not in LOSSES[name].settings:
            owners = [other for other, one in LOSSES.items() if key in one.settings]
            problems.append(f"loss.{key} is a setting of {' and '.join(owners)}; the loss is {name}")
    if settings.form != LOSSES[name].form:
        problems.append(f"form is {settings.form!r}, and {name} learns from {LOSSES[name].form}")
    return problems


def _check_parts(settings: Settings) -> list[str]:
    """Return what does not belong together."""
    problems = []
    if settings.family == "decoder" and settings.format is None:
        problems.append(f"a decoder needs a format of {', '.join(one.name for one in fields(PairFormat))}")
    if settings.family == "encoder" and settings.format is not None:
        problems.append("format belongs to decoders; an encoder joins query and document by itself")
    if settings.lora is not None and settings.arguments.get("fsdp"):
        problems.append("lora and fsdp: what FSDP gathers is a whole model, and no adapter")
    return [*problems, *check_shared(settings)]
