"""Checkpoints of a training: whether one can be continued, and the links `last` and `best` to them."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from orchestrator.workers.failure import WorkerError
from orchestrator.workers.folders import replace_link

_CHECKPOINT = re.compile(r"checkpoint-([0-9]{1,18})")


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
