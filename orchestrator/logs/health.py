"""Logged losses → what is wrong with the training, if anything: NaN, and the 0 that transformers logs for NaN."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from orchestrator.events import Step

REPORTS = 3  # a single infinite gradient is ordinary under fp16's loss scaling


def find_loss_problem(steps: Sequence[Step]) -> str | None:
    """Return one sentence when the newest of `steps` shows a training that has diverged or learns nothing.

    A trainer of Hugging Face replaces NaN losses in its log (`logging_nan_inf_filter`), so a diverged training shows
    loss 0 for ever and ends with exit code 0; the gradient norm tells the truth where it is logged.
    """
    if not steps:
        return None
    newest = steps[-1]
    if newest.loss is not None and not math.isfinite(newest.loss):
        return f"the loss is {newest.loss}: the training has diverged (try a lower learning rate, or fp32)"
    last = steps[-REPORTS:]
    if len(last) < REPORTS:
        return None
    if all(step.grad_norm is not None and not math.isfinite(step.grad_norm) for step in last):
        return f"the gradient norm is {newest.grad_norm}: the training has diverged (try a lower learning rate)"
    if all(step.loss == 0 for step in last):
        return f"the loss was exactly 0 in {REPORTS} reports: NaN is logged so, and rows without a negative give it"
    return None
