"""Why `watch.on_oom: retry` cannot be had: what forbids smaller batches, of the loss and of the arguments beside it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from orchestrator.backends.deepspeed import load_deepspeed
from orchestrator.backends.protocol import Found, Job
from orchestrator.errors import Problem
from orchestrator.recipe.losses import find_batch_obstacle

_KEY = ("watch", "on_oom")
_OTHERWISE = "say watch: {on_oom: fail}"
_FIXED = ("train_batch_size", "train_micro_batch_size_per_gpu", "gradient_accumulation_steps")


def check_splitting(job: Job, train: Mapping[str, Any]) -> Iterator[Found]:
    """Yield why a batch that is too large cannot be split; `train` has the installed version's names."""
    recipe = job.recipe
    if recipe.watch.on_oom != "retry":
        return
    if obstacle := find_batch_obstacle(job.loss, train):
        message = f"on_oom: retry halves the batch, and that would change what is learnt: {obstacle}"
        yield _KEY, Problem(message, f"{_OTHERWISE}, or choose a batch that fits; gradient_checkpointing saves memory")
    if train.get("auto_find_batch_size"):
        message = "auto_find_batch_size halves the batch too, and does not accumulate: two would do it at once"
        yield _KEY, Problem(message, "remove train.auto_find_batch_size")
    if train.get("per_gpu_train_batch_size"):
        message = "on_oom: retry sets per_device_train_batch_size, and per_gpu_train_batch_size would go before it"
        yield _KEY, Problem(message, "say train.per_device_train_batch_size")
    config = load_deepspeed(job)
    fixed = [] if isinstance(config, Problem) else [name for name in _FIXED if config.get(name, "auto") != "auto"]
    if fixed:
        message = f"on_oom: retry changes batch and accumulation, and the DeepSpeed file fixes {', '.join(fixed)}"
        yield _KEY, Problem(message, f'say "auto" there, or {_OTHERWISE}')
