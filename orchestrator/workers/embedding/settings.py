"""Read train.json of an embedding model: everything that decides one training; an unknown key is an error."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

from orchestrator.workers.embedding.losses import LOSSES, LossSettings
from orchestrator.workers.failure import WorkerError
from orchestrator.workers.folders import read_object
from orchestrator.workers.settings import COUNT, STRING, Rule, names_of, one_of, or_null
from orchestrator.workers.settings import parse_settings as parse_fields
from orchestrator.workers.specs import POOLINGS, EmbeddingSpec
from orchestrator.workers.training import SharedSettings, check_shared

LAYERS = Rule(
    "must be a list of layers, counted from 0, each once and in order",
    lambda value: isinstance(value, list) and bool(value) and value == sorted({*value}) and value[0] >= 0,
)
MORE = Rule(
    "must be an object of sets and their losses",
    lambda value: isinstance(value, dict) and all(isinstance(loss, dict) for loss in value.values()),
)


@dataclass(frozen=True)
class Dense:
    """A new layer behind the pooling."""

    out_features: Annotated[int, COUNT]
    activation: Annotated[str, one_of("tanh", "identity")]


@dataclass(frozen=True)
class EmbeddingSettings:
    """How texts become vectors; `pooling` and `normalize` count for a base that does not say them itself.

    `dense` and `layers` say how the model is changed before it is trained.
    """

    max_length: Annotated[int, COUNT]
    query_prompt: Annotated[str, STRING] = ""
    document_prompt: Annotated[str, STRING] = ""
    pooling: Annotated[str | None, or_null(one_of(*POOLINGS))] = None
    normalize: bool = True
    dense: Dense | None = None
    layers: Annotated[list[int] | None, or_null(LAYERS)] = None

    def to_spec(self, *, trust_remote_code: bool) -> EmbeddingSpec:
        """Return how `score` loads the same model: full precision, whole vectors."""
        return EmbeddingSpec(
            max_length=self.max_length,
            query_prompt=self.query_prompt,
            document_prompt=self.document_prompt,
            pooling=self.pooling,
            normalize=self.normalize,
            trust_remote_code=trust_remote_code,
            tool="sentence-transformers",
        )


@dataclass(frozen=True, kw_only=True)
class Settings(SharedSettings):
    """One training; `sources` name files in the folder `train` beside the rows, which make batches of their own.

    `more` holds the loss of each further set, by the name of its folder in `train`.
    """

    loss: LossSettings
    embedding: EmbeddingSettings
    sources: Annotated[list[str] | None, or_null(names_of("files"))] = None
    more: Annotated[dict[str, Any], MORE] = field(default_factory=dict)

    @property
    def parts(self) -> dict[str, Path]:
        """The files that make batches of their own, by their names; the one file of all rows under ""."""
        return {Path(name).stem: self.train.parent / "train" / name for name in self.sources or ()} or {"": self.train}

    @property
    def more_losses(self) -> dict[str, LossSettings]:
        """The losses of the further sets. Raises WorkerError for settings that no loss has."""
        return {name: parse_fields(LossSettings, raw, f"more.{name}") for name, raw in self.more.items()}

    def find_rows(self, name: str) -> Path:
        """Return the file of a further set."""
        return self.train.parent / "train" / name / "train.jsonl"


def load_settings(path: Path) -> Settings:
    """Return the settings in a JSON file. Raises WorkerError with every problem that the file has."""
    raw, origin = read_object(path, "the training's settings"), str(path)
    settings = parse_fields(Settings, raw, origin)
    problems = [*_check_loss(settings, raw["loss"]), *check_shared(settings)]
    for name, loss in settings.more_losses.items():
        one = replace(settings, loss=loss, form=LOSSES[loss.type].form if loss.type in LOSSES else "")
        problems += [f"more.{name}: {problem}" for problem in _check_loss(one, settings.more[name])]
    if problems:
        raise WorkerError(*(f"{origin}: {problem}" for problem in problems))
    return settings


def _check_loss(settings: Settings, given: dict[str, Any]) -> list[str]:
    """Return what does not belong to the loss."""
    name = settings.loss.type
    if name not in LOSSES:
        return [f"loss.type is {name!r}; known are {', '.join(LOSSES)}"]
    loss = LOSSES[name]
    problems = [f"loss.{key} is no setting of {name}" for key in given if key not in {"type", *loss.settings}]
    for one in settings.loss.plus or ():
        own = {"type", *LOSSES[one["type"]].settings} if one.get("type") in LOSSES else set()
        problems += [f"loss.plus.{key} is no setting of {one.get('type')}" for key in one if key not in own]
    if settings.form != loss.form:
        problems.append(f"form is {settings.form!r}, and {name} learns from {loss.form}")
    if "guide" in loss.settings and settings.loss.guide is None:
        problems.append(f"{name} needs a guide")
    batch = settings.arguments.get("per_device_train_batch_size", 8)
    alone = batch == 1 and not settings.loss.hard_negatives and not settings.loss.gather_across_devices
    if loss.in_batch and alone:
        problems.append(f"a batch of one row has no other rows, which are the negatives of {name}")
    return problems
