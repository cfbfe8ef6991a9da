"""Train a cross-encoder with sentence-transformers' trainer, as one settings file says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from orchestrator.workers.cross_encoder.losses import LISTS, LOSSES
from orchestrator.workers.cross_encoder.model import load_model, name_layers, save_whole
from orchestrator.workers.cross_encoder.rows import Rows, build_ranking_samples, load_rows, shuffle_parts
from orchestrator.workers.cross_encoder.settings import Settings, load_settings
from orchestrator.workers.failure import WorkerError
from orchestrator.workers.training.trainer import (
    Prepared,
    adapt_trainer,
    build_arguments,
    build_callbacks,
    guard_loss,
    run_worker,
    train_model,
)


def build_dataset(rows: Rows, loss: str) -> Any:
    """Return the rows as a datasets.Dataset, labels as floats whatever the first ones look like."""
    from datasets import Dataset, Features, Value
    from datasets import List as ListOf

    if LOSSES[loss].answers:
        return Dataset.from_dict(rows.answers())
    kinds = {"label": Value("float32"), "labels": ListOf(Value("float32")), "documents": ListOf(Value("string"))}
    features = Features({key: kinds.get(key, Value("string")) for key in rows.columns})
    return Dataset.from_dict(rows.columns, features=features)


def build_evaluator(rows: Rows, arguments: Any) -> Any:
    """Return what measures the ranking of the validation rows, or None where no query has both kinds of documents."""
    from sentence_transformers.cross_encoder.evaluation import CrossEncoderRerankingEvaluator

    samples = build_ranking_samples(rows)
    if not samples:
        return None
    pairs = arguments.eval_batch_size * (max(1, rows.documents // rows.count) if rows.form == LISTS else 1)
    return CrossEncoderRerankingEvaluator(samples, name="validation", batch_size=pairs, write_csv=False)


def describe_rows(side: str, rows: Rows) -> str:
    """Return the log's line about what was loaded."""
    documents = f" with {rows.documents} documents" if rows.form == LISTS else ""
    shuffled = f", the parts of {rows.shuffled} documents changed places" if rows.shuffled else ""
    return f"{side}: {rows.count} rows{documents}, {len(set(rows.columns['query']))} queries{shuffled}"


def build_trainer(settings: Settings, arguments: Any, model: Any, train: Rows, validation: Rows | None) -> Any:
    """Return the trainer; its loss and its checkpoints are guarded against NaN."""
    from sentence_transformers.cross_encoder import CrossEncoderTrainer

    def save(trainer: Any, weights: Any, folder: str) -> bool:
        """Save sharded weights whole."""
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
    loss = LOSSES[settings.loss.type].build(model, settings.loss)
    guard_loss(loss)
    return adapt_trainer(CrossEncoderTrainer, settings, save)(
        model=model,
        args=arguments,
        train_dataset=build_dataset(train, settings.loss.type),
        eval_dataset=build_dataset(validation, settings.loss.type) if validation else None,
        loss=loss,
        evaluator=evaluator,
        callbacks=build_callbacks(settings),
    )


def prepare_training(settings: Settings, arguments: Any) -> Prepared:
    """Return the training on its rows. Raises WorkerError for rows that cannot be learnt from."""
    train = shuffle_parts(load_rows(settings.train, settings.loss), settings.shuffle_ratio, settings.seed)
    validation = load_rows(settings.validation, settings.loss) if settings.validation else None

    def build(model: Any) -> Any:
        return build_trainer(settings, arguments, model, train, validation)

    notes = [describe_rows("train", train), *([describe_rows("validation", validation)] if validation else [])]
    return Prepared(
        lambda: load_model(settings), build, train.count, validation.count if validation else None, tuple(notes)
    )


def train_cross_encoder(config: Path, checkpoint: Path | None) -> dict[str, str]:
    """Train as `config` says, from `checkpoint` on when there is one; return the links."""
    settings = load_settings(config)

    def build() -> Any:
        from sentence_transformers.cross_encoder import CrossEncoderTrainingArguments

        return build_arguments(settings, CrossEncoderTrainingArguments, name_layers(settings))

    return train_model(settings, checkpoint, build, lambda arguments: prepare_training(settings, arguments))


def main(argv: list[str]) -> int:
    """Write checkpoints and the links `last` and `best` into the settings' output folder."""
    return run_worker(argv, "train_cross_encoder", __doc__, train_cross_encoder)
