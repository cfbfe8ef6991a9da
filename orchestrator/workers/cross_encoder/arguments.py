"""train.json's arguments → CrossEncoderTrainingArguments, with what must hold for every training here."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from orchestrator.workers.cross_encoder.schedule import NAME
from orchestrator.workers.cross_encoder.sharding import add_layers
from orchestrator.workers.failure import WorkerError

if TYPE_CHECKING:
    from orchestrator.workers.cross_encoder.settings import Settings

# transformers looks for unused parameters unless told not to, and finds all of them unused: what a CrossEncoder returns
# hides its tensors from DistributedDataParallel, which then ends with "mark a variable ready only once"
DEFAULTS = {"report_to": "none", "ddp_find_unused_parameters": False}
# what train.json may not turn: a loss of NaN must be seen, and bars would flood the log
FIXED = {"logging_nan_inf_filter": False, "disable_tqdm": True}


def build_arguments(settings: Settings) -> Any:
    """Return the arguments. Raises WorkerError with transformers' own words for a name or value that it refuses."""
    from sentence_transformers.cross_encoder import CrossEncoderTrainingArguments

    wanted = {
        **DEFAULTS,
        **add_layers(settings, settings.arguments),
        **FIXED,
        "full_determinism": settings.deterministic,
    }
    if settings.validation:
        # without it there is no best checkpoint to link to
        wanted.setdefault("metric_for_best_model", "eval_loss")
        if wanted.get("eval_strategy", "no") == "no":
            raise WorkerError("there are validation rows, and eval_strategy is no; set eval_strategy to steps or epoch")
    elif wanted.get("eval_strategy", "no") != "no":
        raise WorkerError("eval_strategy is set, and there are no validation rows; set data.validation_ratio")
    if settings.stable_ratio is not None and wanted.setdefault("lr_scheduler_type", NAME) != NAME:
        raise WorkerError(f"stable_ratio belongs to lr_scheduler_type {NAME}, not {wanted['lr_scheduler_type']}")
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
