"""Train a cross-encoder with sentence-transformers' trainer, as one settings file says."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from orchestrator.workers.cross_encoder.losses import LISTS
from orchestrator.workers.cross_encoder.model import link_checkpoints, load_model, reported_weights, require_resumable
from orchestrator.workers.cross_encoder.rows import Rows, load_rows, shuffle_parts
from orchestrator.workers.cross_encoder.settings import Settings, load_settings
from orchestrator.workers.cross_encoder.trainer import build_arguments, build_trainer, fit_batches


def describe_rows(side: str, rows: Rows) -> str:
    """Return the log's line about what was loaded."""
    documents = f" with {rows.documents} documents" if rows.form == LISTS else ""
    shuffled = f", the parts of {rows.shuffled} documents changed places" if rows.shuffled else ""
    return f"{side}: {rows.count} rows{documents}, {len(set(rows.columns['query']))} queries{shuffled}"


def train_model(settings: Settings, checkpoint: Path | None) -> dict[str, str]:
    """Train, from `checkpoint` on when there is one; return the links, none in a process that makes none."""
    if settings.deterministic:
        # transformers does the same when its trainer is made, but CUDA reads CUBLAS_WORKSPACE_CONFIG when it starts:
        # before a model is loaded. Results are equal on the same hardware with the same versions, numbers of processes
        # and threads, and not elsewhere.
        from transformers.trainer_utils import enable_full_determinism

        enable_full_determinism(settings.seed)
    arguments = build_arguments(settings)

    def say(text: str) -> None:
        if arguments.process_index == 0:
            print(text, flush=True)  # noqa: T201

    if checkpoint:
        require_resumable(checkpoint, arguments)
    train = shuffle_parts(load_rows(settings.train, settings.loss), settings.shuffle_ratio, settings.seed)
    say(describe_rows("train", train))
    validation = load_rows(settings.validation, settings.loss) if settings.validation else None
    if validation:
        say(describe_rows("validation", validation))
    for note in fit_batches(arguments, train.count, validation.count if validation else None):
        say(note)
    with reported_weights():
        model = load_model(settings)
    trainer = build_trainer(settings, arguments, model, train, validation)
    if validation and trainer.evaluator is None:
        say("validation: no query has both a relevant and another document, so only the loss is measured")
    trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    trainer.accelerator.wait_for_everyone()
    if not trainer.is_world_process_zero():
        return {}
    return link_checkpoints(settings.output, trainer.state.best_model_checkpoint, has_validation=validation is not None)


def main(argv: list[str]) -> int:
    """Write checkpoints and the links `last` and `best` into the settings' output folder."""
    parser = argparse.ArgumentParser(prog="workers train_cross_encoder", description=__doc__, allow_abbrev=False)
    parser.add_argument("--config", type=Path, required=True, help="the training's settings, JSON")
    parser.add_argument("--resume_from_checkpoint", type=Path, help="a checkpoint-N of the same training")
    options = parser.parse_args(argv)
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(line_buffering=True)  # losses are read while they come
    for name, target in train_model(load_settings(options.config), options.resume_from_checkpoint).items():
        print(f"{name}: {target}", flush=True)  # noqa: T201
    return 0
