"""Train a cross-encoder with sentence-transformers' trainer, as one settings file says."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from orchestrator.workers.cross_encoder.losses import LISTS, LOSSES, guard_loss
from orchestrator.workers.cross_encoder.model import (
    link_checkpoints,
    load_model,
    name_layers,
    reported_weights,
    require_resumable,
    save_whole,
)
from orchestrator.workers.cross_encoder.rows import Rows, build_ranking_samples, load_rows, shuffle_parts
from orchestrator.workers.cross_encoder.settings import Settings, load_settings
from orchestrator.workers.engines.lora import add_lora, load_lora
from orchestrator.workers.environment import Progress
from orchestrator.workers.failure import WorkerError

# transformers looks for unused parameters unless told not to, and finds all of them unused: what a CrossEncoder returns
# hides its tensors from DistributedDataParallel, which then ends with "mark a variable ready only once"
DEFAULTS = {"report_to": "none", "ddp_find_unused_parameters": False}
# what train.json may not turn: a loss of NaN must be seen, and bars would flood the log
FIXED = {"logging_nan_inf_filter": False, "disable_tqdm": True}
STABLE_SCHEDULE = "warmup_stable_decay"


def build_arguments(settings: Settings) -> Any:
    """Return the arguments. Raises WorkerError with transformers' own words for a name or value that it refuses."""
    from sentence_transformers.cross_encoder import CrossEncoderTrainingArguments

    wanted = {**DEFAULTS, **name_layers(settings), **FIXED, "full_determinism": settings.deterministic}
    evaluates = wanted.get("eval_strategy", "no") != "no"
    if settings.validation:
        # without it there is no best checkpoint to link to
        wanted.setdefault("metric_for_best_model", "eval_loss")
        if not evaluates:
            raise WorkerError("there are validation rows, and eval_strategy is no; set eval_strategy to steps or epoch")
    elif evaluates:
        raise WorkerError("eval_strategy is set, and there are no validation rows; set data.validation_ratio")
    if settings.stable_ratio is not None:
        given = wanted.setdefault("lr_scheduler_type", STABLE_SCHEDULE)
        if given != STABLE_SCHEDULE:
            raise WorkerError(f"stable_ratio belongs to lr_scheduler_type {STABLE_SCHEDULE}, not {given}")
    try:
        arguments = CrossEncoderTrainingArguments(**wanted)
    except (TypeError, ValueError, ImportError, RuntimeError) as error:
        raise WorkerError(f"the training's arguments are refused: {' '.join(str(error).split())}") from error
    if arguments.world_size == 1:
        # started by torchrun, one process counts as distributed, and the library then drops the last incomplete batch
        arguments.dataloader_drop_last = bool(wanted.get("dataloader_drop_last", False))
    return arguments


def fit_batches(arguments: Any, train_rows: int, validation_rows: int | None) -> list[str]:
    """Make every set fill at least one batch; return what the log must say about rows that are left out.

    With several processes, or `dataloader_drop_last`, incomplete batches are dropped. Raises WorkerError where none
    would be left.
    """
    if not arguments.dataloader_drop_last:
        return []
    processes = arguments.world_size
    per_step = arguments.train_batch_size * processes
    if train_rows < per_step:
        raise WorkerError(
            f"{train_rows} training rows are fewer than one batch of {arguments.train_batch_size} for each of "
            f"{processes} processes, and incomplete batches are dropped; lower per_device_train_batch_size"
        )
    notes = []
    if train_rows % per_step:
        notes.append(f"each epoch leaves out {train_rows % per_step} training rows, which fill no batch of {per_step}")
    if validation_rows is None:
        return notes
    if validation_rows < processes:
        raise WorkerError(f"{validation_rows} validation rows are fewer than the {processes} processes")
    if validation_rows < arguments.eval_batch_size * processes:
        arguments.per_device_eval_batch_size = max(1, validation_rows // processes // max(1, arguments.n_gpu))
        notes.append(f"validation runs in batches of {arguments.eval_batch_size}: it has {validation_rows} rows")
    if unused := validation_rows % (arguments.eval_batch_size * processes):
        notes.append(f"the validation loss leaves out {unused} rows, which fill no batch")
    return notes


def build_decay_arguments(total_steps: int, warmup_steps: int, stable_ratio: float) -> dict[str, int]:
    """Return transformers' `lr_scheduler_kwargs` for linear warm-up, a constant part, and a cosine decay to 0.

    transformers.optimization.get_wsd_schedule makes the stable part of what warm-up and decay leave. Raises WorkerError
    when warm-up and stable part are longer than the training.
    """
    decay = total_steps - warmup_steps - round(stable_ratio * total_steps)
    if decay < 0:
        raise WorkerError(
            f"warm-up takes {warmup_steps} of {total_steps} steps and stable_ratio {stable_ratio} more than are left; "
            "lower one of the two"
        )
    return {"num_decay_steps": decay}


def build_callbacks(settings: Settings) -> list[Any]:
    """Return the callbacks; they stand behind the one that decides when to log and save, and see its decision."""
    import torch
    from transformers import EarlyStoppingCallback, TrainerCallback

    class ProgressLines(TrainerCallback):  # type: ignore[misc]  # the trainer calls nothing else
        """Prints `orch-progress STEP/STEPS`, also right before each line of losses, which has no number of its own."""

        progress: Progress | None = None

        def on_train_begin(self, _args: Any, state: Any, _control: Any, **_: Any) -> None:
            if state.is_world_process_zero:
                self.progress = Progress(total=state.max_steps, done=state.global_step)

        def on_step_end(self, _args: Any, state: Any, control: Any, **_: Any) -> None:
            if self.progress is None:
                return
            if control.should_log:
                self.progress = Progress(total=state.max_steps, done=state.global_step - 1)
            self.progress.advance(state.global_step - self.progress.done)

    class FiniteWeights(TrainerCallback):  # type: ignore[misc]
        """Ends the training before a checkpoint of NaN: the step before may have had a finite loss."""

        def on_step_end(self, _args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
            if control.should_save:
                broken = [name for name, weight in model.named_parameters() if not torch.isfinite(weight).all()]
                if broken:
                    raise WorkerError(
                        f"after step {state.global_step} {len(broken)} weights hold NaN or infinity ({broken[0]} …): "
                        "the training has diverged; nothing of it is saved. Lower learning_rate"
                    )

        on_epoch_end = on_step_end

    stopping = settings.early_stopping
    more = [EarlyStoppingCallback(stopping.patience, stopping.threshold)] if stopping else []
    return [ProgressLines(), FiniteWeights(), *more]


def build_dataset(rows: Rows) -> Any:
    """Return the rows as a datasets.Dataset, labels as floats whatever the first ones look like."""
    from datasets import Dataset, Features, Value
    from datasets import List as ListOf

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


def build_trainer(settings: Settings, arguments: Any, model: Any, train: Rows, validation: Rows | None) -> Any:
    """Return the trainer; its loss and its checkpoints are guarded against NaN."""
    from sentence_transformers.cross_encoder import CrossEncoderTrainer

    class Trainer(CrossEncoderTrainer):  # type: ignore[misc]  # the library's own way to change these
        """Knows how long the rate decays, saves sharded weights whole, continues adapters, keeps rows out of cards."""

        def add_model_card_callback(self, _default_args_dict: dict[str, Any]) -> None:
            """Add none: it copies rows into README.md, and tokenizes single texts where a format needs pairs."""

        def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
            if settings.stable_ratio is not None:
                self.args.lr_scheduler_kwargs = build_decay_arguments(
                    num_training_steps, self.args.get_warmup_steps(num_training_steps), settings.stable_ratio
                )
            return super().create_scheduler(num_training_steps, optimizer)

        def _load_from_checkpoint(self, checkpoint_path: str) -> None:
            if settings.lora is None:
                super()._load_from_checkpoint(checkpoint_path)
            else:
                load_lora(getattr(self.model, "_orig_mod", self.model), Path(checkpoint_path))

        def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
            if not self.is_fsdp_enabled:
                super()._save(output_dir, state_dict)
                return
            folder = output_dir or self.args.output_dir
            save_whole(settings, state_dict, folder)
            self.processing_class.save_pretrained(folder)

    loss = LOSSES[settings.loss.type].build(model, settings.loss)
    guard_loss(loss)
    return Trainer(
        model=model,
        args=arguments,
        train_dataset=build_dataset(train),
        eval_dataset=build_dataset(validation) if validation else None,
        loss=loss,
        evaluator=build_evaluator(validation, arguments) if validation else None,
        callbacks=build_callbacks(settings),
    )


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
    if settings.lora:
        say(add_lora(model, settings.lora, settings.seed))
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
