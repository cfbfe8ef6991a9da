"""Train a cross-encoder with sentence-transformers' trainer, as one settings file says."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from orchestrator.workers.cross_encoder.arguments import build_arguments, fit_batches
from orchestrator.workers.cross_encoder.determinism import enforce_determinism
from orchestrator.workers.cross_encoder.finish import link_checkpoints
from orchestrator.workers.cross_encoder.model import load_model, reported_weights
from orchestrator.workers.cross_encoder.resume import require_resumable
from orchestrator.workers.cross_encoder.rows import Rows, load_rows, shuffle_parts
from orchestrator.workers.cross_encoder.settings import LISTS, Settings, load_settings
from orchestrator.workers.cross_encoder.trainer import build_trainer


def describe_rows(side: str, rows: Rows) -> str:
    """Return the log's line about what was loaded."""
    documents = f" with {rows.documents} documents" if rows.form == LISTS else ""
    shuffled = f", the parts of {rows.shuffled} documents changed places" if rows.shuffled else ""
    return f"{side}: {rows.count} rows{documents}, {rows.queries} queries{shuffled}"


def load_sides(settings: Settings, say: Callable[[str], None]) -> tuple[Rows, Rows | None]:
    """Return training and validation rows, and say what they are."""
    train = load_rows(settings.train, settings.form, settings.loss)
    train = shuffle_parts(train, settings.shuffle_ratio, settings.seed)
    say(describe_rows("train", train))
    if settings.validation is None:
        return train, None
    validation = load_rows(settings.validation, settings.form, settings.loss)
    say(describe_rows("validation", validation))
    return train, validation


def train_model(settings: Settings, checkpoint: Path | None) -> dict[str, str] | None:
    """Train, from `checkpoint` on when there is one; return the links, or None in a process that makes none."""
    if settings.deterministic:
        enforce_determinism(settings.seed)
    arguments = build_arguments(settings)
    say = speak if arguments.process_index == 0 else be_silent
    if checkpoint:
        require_resumable(checkpoint, arguments)
    train, validation = load_sides(settings, say)
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
        return None
    return link_checkpoints(settings.output, trainer.state.best_model_checkpoint, has_validation=validation is not None)


def speak(text: str) -> None:
    """Print a line of the log at once."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def be_silent(_text: Any) -> None:
    """Print nothing: another process says it."""


def main(argv: list[str]) -> int:
    """Write checkpoints and the links `last` and `best` into the settings' output folder."""
    parser = argparse.ArgumentParser(prog="workers train_cross_encoder", description=__doc__, allow_abbrev=False)
    parser.add_argument("--config", type=Path, required=True, help="the training's settings, JSON")
    parser.add_argument("--resume_from_checkpoint", type=Path, help="a checkpoint-N of the same training")
    options = parser.parse_args(argv)
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(line_buffering=True)  # losses are read while they come
    links = train_model(load_settings(options.config), options.resume_from_checkpoint)
    for name, target in (links or {}).items():
        speak(f"{name}: {target}")
    return 0
