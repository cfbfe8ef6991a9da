"""Train a cross-encoder with sentence-transformers' trainer, as train.json says; an unknown key of it is an error."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from functools import partial
from pathlib import Path
from typing import Annotated, Any

from orchestrator.workers import cross_encoder_losses as losses
from orchestrator.workers import training
from orchestrator.workers.cross_encoder_losses import LOSSES, LossSettings, Rows
from orchestrator.workers.engines.transformers import name_head
from orchestrator.workers.failure import WorkerError
from orchestrator.workers.folders import read_object
from orchestrator.workers.reranker.formats import PairFormat
from orchestrator.workers.reranker.scoring import load_formatted_head, open_cross_encoder
from orchestrator.workers.settings import COUNT, SHARE, Rule
from orchestrator.workers.settings import parse_settings as parse_fields
from orchestrator.workers.specs import ScoringSpec
from orchestrator.workers.training import Prepared, SharedSettings, build_arguments, build_dataset

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
    problems = []
    if settings.family == "decoder" and settings.format is None:
        problems.append(f"a decoder needs a format of {', '.join(one.name for one in fields(PairFormat))}")
    if settings.family == "encoder" and settings.format is not None:
        problems.append("format belongs to decoders; an encoder joins query and document by itself")
    if settings.lora is not None and settings.arguments.get("fsdp"):
        problems.append("lora and fsdp: what FSDP gathers is a whole model, and no adapter")
    return [*problems, *training.check_shared(settings)]


LAYERS = "transformer_layer_cls_to_wrap"


def load_model(settings: Settings) -> Any:
    """Return a CrossEncoder in float32 on the CPU (the trainer moves it), whose scores are raw logits.

    A base without a head gets a seeded one, the one that `score` gives it. Raises WorkerError for a head of several
    labels, for a `max_length` beyond the encoder's positions, and what `load_formatted_head` raises.
    """
    trust: dict[str, Any] = {"trust_remote_code": settings.trust_remote_code}
    spec = ScoringSpec("cross-encoder", max_length=settings.max_length, **trust)
    if settings.format is not None:
        return load_formatted_head(settings.model, settings.format, spec, "cpu")
    name_head(settings.model, **trust)
    model = open_cross_encoder(settings.model, spec, "cpu")
    positions = getattr(model.model.config, "max_position_embeddings", None)
    if positions and settings.max_length > positions:
        raise WorkerError(f"max_length is {settings.max_length}, and {settings.model} has {positions} positions")
    return model


def name_layers(settings: Settings) -> dict[str, Any]:
    """Return the trainer's arguments with the layers that FSDP spreads over the GPUs, where they are not named yet.

    They are the classes that the model's own library never splits; a CrossEncoder names none itself
    (sentence_transformers/base/model.py: `_no_split_modules`). Raises WorkerError where the library names none.
    """
    config = settings.arguments.get("fsdp_config")
    if not settings.arguments.get("fsdp") or not isinstance(config, dict) or config.get(LAYERS):
        return settings.arguments
    import torch
    from transformers import AutoConfig, AutoModelForSequenceClassification

    trust = {"trust_remote_code": settings.trust_remote_code}
    with torch.device("meta"):  # the classes are wanted, not the weights
        model = AutoModelForSequenceClassification.from_config(
            AutoConfig.from_pretrained(settings.model, **trust), **trust
        )
    layers = sorted(model._no_split_modules or ())  # noqa: SLF001  what accelerate reads too
    if not layers:
        raise WorkerError(f"{settings.model} does not name its layers, which FSDP needs: say launch.distributed: ddp")
    return {**settings.arguments, "fsdp_config": {**config, LAYERS: layers}}


def save_whole(settings: Settings, weights: Mapping[str, Any], folder: str | Path) -> None:
    """Write the weights that FSDP gathered as a model folder. Raises WorkerError when they are not all of the model's.

    The trainer's own `_save` leaves them aside and saves the model that it holds, of which FSDP left it the shards.
    """
    model = load_model(settings)
    try:
        model.load_state_dict(weights, strict=True)
    except RuntimeError as error:
        raise WorkerError(
            f"the weights that FSDP gathered are not the model's: {' '.join(str(error).split())}"
        ) from error
    model.save_pretrained(str(folder))


def build_evaluator(rows: Rows, arguments: Any) -> Any:
    """Return what measures the ranking of the validation rows, or None where no query has both kinds of documents."""
    from sentence_transformers.cross_encoder.evaluation import CrossEncoderRerankingEvaluator

    samples = losses.build_ranking_samples(rows)
    if not samples:
        return None
    pairs = arguments.eval_batch_size * (max(1, rows.documents // rows.count) if rows.form == losses.LISTS else 1)
    return CrossEncoderRerankingEvaluator(samples, name="validation", batch_size=pairs, write_csv=False)


def build_trainer(settings: Settings, arguments: Any, train: Rows, validation: Rows | None, model: Any) -> Any:
    """Return the trainer. Raises WorkerError where nothing could tell the best checkpoint."""
    from sentence_transformers.cross_encoder import CrossEncoderTrainer

    def save(trainer: Any, weights: Any, folder: str) -> bool:
        if trainer.is_fsdp_enabled:
            save_whole(settings, weights, folder)
            trainer.processing_class.save_pretrained(folder)
        return bool(trainer.is_fsdp_enabled)

    evaluator, best = build_evaluator(validation, arguments) if validation else None, arguments.metric_for_best_model
    if validation and evaluator is None and best != "eval_loss":
        raise WorkerError(
            f"{settings.validation}: no query has both a relevant and another document, so there is no {best} to find "
            "the best checkpoint by; say metric_for_best_model: loss, or set more rows aside"
        )
    loss = LOSSES[settings.loss.type]
    sets = [rows and build_dataset(rows.answers() if loss.answers else rows.columns) for rows in (train, validation)]
    return training.build_trainer(
        CrossEncoderTrainer, settings, loss.build(model, settings.loss), save, model=model, args=arguments,
        train_dataset=sets[0], eval_dataset=sets[1], evaluator=evaluator,
    )  # fmt: skip


def prepare_training(settings: Settings) -> Prepared:
    """Return the training on its rows. Raises WorkerError for rows that cannot be learnt from."""
    from sentence_transformers.cross_encoder import CrossEncoderTrainingArguments

    arguments = build_arguments(settings, CrossEncoderTrainingArguments, name_layers(settings))
    train = losses.shuffle_parts(losses.load_rows(settings.train, settings.loss), settings.shuffle_ratio, settings.seed)
    validation = losses.load_rows(settings.validation, settings.loss) if settings.validation else None
    build = partial(build_trainer, settings, arguments, train, validation)
    return Prepared(arguments, partial(load_model, settings), build, {"": train}, validation)


def main(argv: list[str]) -> int:
    """Write checkpoints and the links `last` and `best` into the settings' output folder."""
    return training.run_worker(argv, "train_cross_encoder", __doc__, load_settings, prepare_training)
