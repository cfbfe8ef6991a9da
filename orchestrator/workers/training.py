"""What trainings with sentence-transformers share: settings, arguments, batches, callbacks and checkpoints."""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar

from orchestrator.workers.engines.sentence_transformers import Lora, add_lora, load_lora
from orchestrator.workers.environment import Progress
from orchestrator.workers.failure import WorkerError
from orchestrator.workers.folders import replace_link
from orchestrator.workers.settings import AMOUNT, COUNT, SHARE, TEXT, Rule, one_of, or_null

VERSION = Rule("{value} of the settings is not known to this worker", lambda value: value == 1)
ARGUMENTS = Rule(
    "must be an object, with output_dir",
    lambda value: isinstance(value, dict) and TEXT.allows(value.get("output_dir")),
)
# transformers looks for unused parameters unless told not to, and finds all of them unused: what a CrossEncoder returns
# hides its tensors from DistributedDataParallel, which then ends with "mark a variable ready only once"
DEFAULTS = {"report_to": "none", "ddp_find_unused_parameters": False}
# what train.json may not turn: a loss of NaN must be seen, and bars would flood the log
FIXED = {"logging_nan_inf_filter": False, "disable_tqdm": True}
STABLE_SCHEDULE = "warmup_stable_decay"
OF_LOSS = Path("loss", "model.safetensors")  # in a checkpoint: what stands beside the model's files would be packaged
_CHECKPOINT = re.compile(r"checkpoint-([0-9]{1,18})")


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


Settings = TypeVar("Settings", bound=SharedSettings)


def check_shared(settings: SharedSettings) -> list[str]:
    """Return what of the shared settings does not belong together."""
    problems = []
    if settings.arguments.get("save_strategy") == "no":
        problems.append("arguments.save_strategy is no: the training would leave no model")
    if settings.early_stopping is not None and settings.validation is None:
        problems.append("early_stopping needs validation rows; set data.validation_ratio")
    return problems


def build_arguments(settings: SharedSettings, cls: Any, given: Mapping[str, Any]) -> Any:
    """Return the arguments `given` as `cls`.

    Raises WorkerError with transformers' own words for a name or value that it refuses.
    """
    wanted: dict[str, Any] = {**DEFAULTS, **given, **FIXED, "full_determinism": settings.deterministic}
    evaluates = wanted.get("eval_strategy", "no") != "no"
    if settings.validation:
        # without it there is no best checkpoint to link to
        wanted.setdefault("metric_for_best_model", "eval_loss")
        if not evaluates:
            raise WorkerError("there are validation rows, and eval_strategy is no; set eval_strategy to steps or epoch")
    elif evaluates:
        raise WorkerError("eval_strategy is set, and there are no validation rows; set data.validation_ratio")
    if settings.stable_ratio is not None:
        schedule = wanted.setdefault("lr_scheduler_type", STABLE_SCHEDULE)
        if schedule != STABLE_SCHEDULE:
            raise WorkerError(f"stable_ratio belongs to lr_scheduler_type {STABLE_SCHEDULE}, not {schedule}")
    try:
        arguments = cls(**wanted)
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


def build_callbacks(settings: SharedSettings) -> list[Any]:
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


def build_dataset(columns: Mapping[str, Any], *, classes: bool = False) -> Any:
    """Return columns of texts and numbers as a datasets.Dataset, numbers as floats whatever the first ones look like.

    Numbers of `classes` are integers.
    """
    from datasets import Dataset, Features, Value
    from datasets import List as ListOf

    def find_type(value: Any) -> Any:
        if isinstance(value, str):
            return Value("string")
        return ListOf(find_type(value[0])) if hasattr(value, "__len__") else Value("int64" if classes else "float32")

    features = Features({key: find_type(values[0]) for key, values in columns.items()})
    return Dataset.from_dict(columns, features=features)


def guard_loss(module: Any) -> None:
    """Let the loss end the training when it is not finite, in training and validation alike.

    transformers logs a loss that is NaN as 0 or nan, goes on, and saves weights of NaN with exit code 0.
    """
    import torch

    def check(module: Any, _inputs: Any, value: Any) -> None:
        if not torch.isfinite(value.detach()).all():
            # the trainer turns the model to evaluation, not the loss, and under DistributedDataParallel the inner one
            inner = getattr(module.model, "module", module.model)
            where = "of a training step" if inner.training else "on the validation rows"
            raise WorkerError(
                f"the loss {where} is {float(value.detach().float().mean())}: the training has diverged; nothing of it "
                "is saved. Lower learning_rate, set max_grad_norm, or train in float32 (bf16: false, fp16: false)"
            )

    module.register_forward_hook(check)


def build_trainer(
    base: Any,
    settings: SharedSettings,
    loss: Any,
    save: Callable[[Any, Any, str], bool] = lambda *_: False,
    **given: Any,
) -> Any:
    """Return the library's trainer that decays the rate as asked, continues adapters, and keeps rows out of cards.

    Weights of the `loss` itself are saved in a folder of each checkpoint, which no package has, and continued from it.
    `save` takes the trainer, the gathered weights and a folder, and tells whether it saved them in its own way. Loss
    and checkpoints are guarded against NaN; what is `given` is the library's.
    """

    class Trainer(base):  # type: ignore[misc]  # the library's own way to change these
        def add_model_card_callback(self, _default_args_dict: dict[str, Any]) -> None:
            """Add none: it copies rows into README.md, and tokenizes single texts where a format needs pairs."""

        def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
            if settings.stable_ratio is not None:
                self.args.lr_scheduler_kwargs = build_decay_arguments(
                    num_training_steps, self.args.get_warmup_steps(num_training_steps), settings.stable_ratio
                )
            return super().create_scheduler(num_training_steps, optimizer)

        def get_eval_dataloader(self, *rest: Any) -> Any:
            """Return the validation rows in plain batches where others are drawn by class: few have two of one."""
            asked, plain = self.args.batch_sampler, "batch_sampler"
            self.args.batch_sampler = plain if asked == "group_by_label" else asked
            loader = super().get_eval_dataloader(*rest)
            self.args.batch_sampler = asked
            return loader

        def _load_from_checkpoint(self, checkpoint_path: str) -> None:
            if settings.lora is None:
                super()._load_from_checkpoint(checkpoint_path)
            else:
                load_lora(getattr(self.model, "_orig_mod", self.model), Path(checkpoint_path))
            load_loss(loss, Path(checkpoint_path) / OF_LOSS)

        def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
            if not save(self, state_dict, output_dir or self.args.output_dir):
                super()._save(output_dir, state_dict)
            save_loss(loss, Path(output_dir or self.args.output_dir) / OF_LOSS)

    guard_loss(loss)
    return Trainer(loss=loss, callbacks=build_callbacks(settings), **given)


def find_weights(loss: Any) -> dict[str, Any]:
    """Return the weights that a loss trains beside the model's."""
    found = loss.named_parameters()
    return {name: one for name, one in found if one.requires_grad and not name.startswith("model.")}


def save_loss(loss: Any, path: Path) -> None:
    """Write the weights of a loss that has some. Raises WorkerError for NaN and infinity."""
    import torch
    from safetensors.torch import save_file

    if weights := {name: weight.detach() for name, weight in find_weights(loss).items()}:
        if not all(torch.isfinite(weight).all() for weight in weights.values()):
            raise WorkerError("weights of the loss hold NaN or infinity: the training has diverged")
        path.parent.mkdir()
        save_file(weights, path)


def load_loss(loss: Any, path: Path) -> None:
    """Give a loss its weights of a checkpoint. Raises WorkerError where they are missing or another loss's."""
    from safetensors.torch import load_file

    weights = find_weights(loss)
    found = load_file(path) if path.is_file() else {}
    if {name: weight.shape for name, weight in found.items()} != {name: one.shape for name, one in weights.items()}:
        raise WorkerError(f"{path} does not hold the weights of the recipe's loss: the checkpoint cannot be continued")
    for name, weight in weights.items():
        weight.data.copy_(found[name])


@dataclass(frozen=True)
class Prepared:
    """A training that can begin: what loads its model and makes its trainer, and the rows of its sets by their names.

    Rows `count` themselves and `describe` themselves, as both modules of losses have them.
    """

    arguments: Any
    load: Callable[[], Any]
    build: Callable[[Any], Any]
    train: Mapping[str, Any]
    validation: Any


def train_model(settings: SharedSettings, checkpoint: Path | None, prepared: Prepared) -> None:
    """Train, from `checkpoint` on when there is one, and say which links were made in the output folder."""
    from transformers.utils import logging

    arguments = prepared.arguments

    def say(text: str) -> None:
        if arguments.process_index == 0:
            print(text, flush=True)  # noqa: T201

    if checkpoint:
        require_resumable(checkpoint, arguments)
    validation = prepared.validation
    notes = [rows.describe(f"train {name}".rstrip()) for name, rows in prepared.train.items()]
    notes += [validation.describe("validation")] if validation else []
    count = sum(rows.count for rows in prepared.train.values())
    for note in (*notes, *fit_batches(arguments, count, validation and validation.count)):
        say(note)
    before = logging.get_verbosity()
    logging.set_verbosity_warning()  # says which weights a file lacks: they start at random, the new head and others
    model = prepared.load()
    logging.set_verbosity(before)
    if settings.lora:
        say(add_lora(model, settings.lora, settings.seed))
    trainer = prepared.build(model)
    if validation and trainer.evaluator is None:
        say("validation: no order of these rows can be measured, so only the loss is")
    trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    trainer.accelerator.wait_for_everyone()
    if trainer.is_world_process_zero():
        best = trainer.state.best_model_checkpoint
        links = link_checkpoints(settings.output, best, has_validation=validation is not None)
        for link, target in links.items():
            say(f"{link}: {target}")


def run_worker(
    argv: list[str],
    name: str,
    about: str | None,
    load_settings: Callable[[Path], Settings],
    prepare: Callable[[Settings], Prepared],
) -> int:
    """Read the command line, and train as the config says."""
    parser = argparse.ArgumentParser(prog=f"workers {name}", description=about, allow_abbrev=False)
    parser.add_argument("--config", type=Path, required=True, help="the training's settings, JSON")
    parser.add_argument("--resume_from_checkpoint", type=Path, help="a checkpoint-N of the same training")
    options = parser.parse_args(argv)
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(line_buffering=True)  # losses are read while they come
    settings = load_settings(options.config)
    if settings.deterministic:
        # transformers does the same when its trainer is made, but CUDA reads CUBLAS_WORKSPACE_CONFIG when it starts:
        # before a model is loaded. Results are equal on the same hardware with the same versions, numbers of processes
        # and threads, and not elsewhere.
        from transformers.trainer_utils import enable_full_determinism

        enable_full_determinism(settings.seed)
    train_model(settings, options.resume_from_checkpoint, prepare(settings))
    return 0


def require_resumable(checkpoint: Path, arguments: Any) -> None:
    """Raise WorkerError unless the checkpoint holds all that makes the rest of the training the same.

    transformers starts without a word from what is missing. DeepSpeed and FSDP keep optimizer and weights in files of
    their own, and complain themselves.
    """
    if not checkpoint.is_dir():
        raise WorkerError(f"{checkpoint}: there is no such checkpoint")
    needed = ["trainer_state.json", "scheduler.pt"]
    if not arguments.deepspeed and not arguments.fsdp:
        needed.append("optimizer.pt")
    # one process a file: with another number of processes the same steps would see other rows
    ranks = range(arguments.world_size)
    needed += [f"rng_state_{rank}.pth" for rank in ranks] if arguments.world_size > 1 else ["rng_state.pth"]
    missing = [name for name in needed if not (checkpoint / name).is_file()]
    if missing:
        raise WorkerError(
            f"{checkpoint} cannot be continued: {', '.join(missing)} is missing; it was saved by another number of "
            "processes, with save_only_model, or not to its end"
        )


def link_checkpoints(output: Path, best: str | None, *, has_validation: bool) -> dict[str, str]:
    """Make the links in `output` and return what they point to. `best`: the trainer state's best_model_checkpoint.

    Raises WorkerError when no checkpoint was written to its end, or, with validation, when none is the best.
    """
    whole = {
        int(match[1]): path.name
        for path in output.iterdir()
        if (match := _CHECKPOINT.fullmatch(path.name)) and (path / "trainer_state.json").is_file()
    }
    if not whole:
        raise WorkerError(f"{output} holds no checkpoint: the training ended before the first one; lower save_steps")
    links = {"last": whole[max(whole)]}
    if has_validation:
        name = os.path.basename(best.rstrip("/")) if best else ""  # noqa: PTH119  the text of another process's path
        if name not in whole.values():
            raise WorkerError(
                f"{output}: no checkpoint is known as the best ({name or 'none was both evaluated and saved'}); "
                "let eval_steps and save_steps be equal"
            )
        links["best"] = name
    for name, target in links.items():
        replace_link(output / name, target)
    return links
