"""The learning rate's phases: warm-up, a stable part, decay; their lengths in steps are known to the trainer alone."""

from __future__ import annotations

from orchestrator.workers.failure import WorkerError

NAME = "warmup_stable_decay"


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
