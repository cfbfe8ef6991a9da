"""A checkpoint can be continued exactly, or not at all: transformers starts without a word from what is missing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from orchestrator.workers.failure import WorkerError


def require_resumable(checkpoint: Path, arguments: Any) -> None:
    """Raise WorkerError unless the checkpoint holds all that makes the rest of the training the same.

    DeepSpeed and FSDP keep optimizer and weights in files of their own, and complain themselves.
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
