"""Whether a training fits into the memory of the GPUs, or of a CPU, by the estimate, and what to lower."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from orchestrator.backends.protocol import Job
from orchestrator.checks.memory import GIB, MemoryEstimate, TrainingSize, estimate_memory, show_gib
from orchestrator.checks.memory_ways import find_ways
from orchestrator.checks.model_size import ModelSize, load_model_size
from orchestrator.checks.train_values import read_train_values
from orchestrator.checks.training_size import ASSUMED_DOCUMENTS, assumes_documents, find_training_size
from orchestrator.errors import Problem
from orchestrator.machine.hardware import find_memory
from orchestrator.recipe.losses import find_batch_obstacle
from orchestrator.recipe.plan import Plan

_LIGHT = 0.8  # of a GPU: what weights may take where the rest shall fit too
_CLEAR_MARGIN = 1.5  # the estimate may be this far off
_WORTH_SAYING = 0.05  # of the estimate
_MOST_REMEDIES = 4
_MIB = 1024**2
_SHARDED, _ALL_SHARDED = 2, 3


@dataclass(frozen=True)
class PlannedMemory:
    """The estimate of a plan's training, and all that it was made from."""

    estimate: MemoryEstimate
    model: ModelSize
    training: TrainingSize
    values: Mapping[str, str]
    kind: str = "cuda"
    assumed: str | None = None

    def __str__(self) -> str:
        """Return the estimate in words, with what it assumes."""
        said = self.estimate.describe("GPU memory" if self.kind == "cuda" else "memory")
        return said + (f" ({self.assumed})" if self.assumed else "")

    def to_data(self) -> dict[str, int | str | None]:
        """Return the estimate in bytes, for programs."""
        return {**self.estimate.to_data(), "assumed": self.assumed}


def plan_memory(job: Job, plan: Plan) -> PlannedMemory | None:
    """Return the estimate; None for a smoke run, and for a model of unknown sizes: it is not here yet, or odd."""
    if job.smoke or job.model.folder is None:
        return None
    model = load_model_size(job.model.folder)
    if model is None:
        return None
    values = read_train_values(plan)
    training = find_training_size(job, values, model)
    assumed = f"{ASSUMED_DOCUMENTS} documents a query assumed" if assumes_documents(job) else None
    return PlannedMemory(estimate_memory(model, training), model, training, values, job.hardware.kind, assumed)


def check_memory(job: Job, plan: Plan) -> Iterator[Problem]:
    """Yield that the weights alone are more than a GPU holds: no batch is small enough."""
    if job.hardware.kind != "cuda":
        return
    planned, there = plan_memory(job, plan), _find_room(job)
    if planned is None or there is None or planned.estimate.weights <= there:
        return
    message = (
        f"{job.model.name}: its weights alone take {show_gib(planned.estimate.weights)} of GPU memory here, "
        f"and a GPU has {show_gib(there)}"
    )
    ways = find_ways(job, _is_light)
    needed = show_gib(planned.estimate.weights)
    yield Problem(message, "\n".join(ways) or f"take a smaller model, or GPUs of more than {needed}")


def _is_light(job: Job, plan: Plan) -> bool:
    """Tell whether a training's weights leave room on a GPU for all that is not theirs."""
    planned, there = plan_memory(job, plan), _find_room(job)
    return planned is not None and there is not None and planned.estimate.weights <= _LIGHT * there


def advise_memory(job: Job, plan: Plan) -> Iterator[Problem]:
    """Yield that the training may not fit, with what to lower. An estimate forbids nothing."""
    planned, there = plan_memory(job, plan), _find_room(job)
    if planned is None or there is None or planned.estimate.total <= there:
        return
    if job.hardware.kind == "cuda" and planned.estimate.weights > there:
        return  # check_memory has refused it
    certain = planned.estimate.total > _CLEAR_MARGIN * there
    has = f"a GPU has {show_gib(there)}" if job.hardware.kind == "cuda" else f"{show_gib(there)} are free here"
    message = f"the training needs {planned}; {has}: it will {'hardly' if certain else 'perhaps not'} fit"
    yield Problem(message, "\n".join(_remedies(job, planned)) or None)


def _find_room(job: Job) -> int | None:
    """Return the bytes that one process may take, by the smallest GPU, or what of the memory is free at the moment."""
    if job.hardware.kind != "cuda":
        free = find_memory().get("MemAvailable")
        return free and free // job.processes()
    return min(job.hardware.memory_mib) * _MIB if job.hardware.memory_mib else None


def _remedies(job: Job, planned: PlannedMemory) -> list[str]:
    """Return what to lower, what saves most first."""
    training, values = planned.training, planned.values
    found: list[tuple[int, str]] = []

    def consider(say: str, **changes: object) -> None:
        other = estimate_memory(planned.model, replace(training, **changes))  # type: ignore[arg-type]
        found.append((planned.estimate.total - other.total, say))

    if not training.checkpointing:
        consider("gradient_checkpointing: true", checkpointing=True)
    batch = int(values.get("per_device_train_batch_size", "8"))
    if batch > 1:
        lower = batch // 2
        smaller = f"per_device_train_batch_size: {lower} instead of {batch}{_warn_of_batch(job)}"
        consider(smaller, rows=training.rows * lower // batch)
    group = int(values.get("train_group_size", "0"))
    if group > _SHARDED:
        less = group // 2
        consider(f"train_group_size: {less} instead of {group}", rows=training.rows * less // group)
    for name in ("passage_max_len", "max_length"):
        if name in values:
            longest = int(values[name])
            consider(f"{name}: {longest // 2} instead of {longest}", tokens=training.tokens - longest // 2)
    saved = sorted(found, reverse=True)
    worth = [(size, say) for size, say in saved if size > max(_WORTH_SAYING * planned.estimate.total, GIB / 10)]
    lines = [f"{say} saves {show_gib(size)}" for size, say in worth[:_MOST_REMEDIES]]
    static = planned.estimate.weights + planned.estimate.gradients + planned.estimate.optimizer
    return lines + (_static_remedies(job, planned) if static > planned.estimate.total / 2 else [])


def _warn_of_batch(job: Job) -> str:
    """Return that a smaller batch is another objective, where it is."""
    return " (another objective)" if find_batch_obstacle(job.loss, job.recipe.train) else ""


def _static_remedies(job: Job, planned: PlannedMemory) -> list[str]:
    """Return what lowers weights, gradients and optimizer: other methods, and more GPUs."""
    training, lines = planned.training, []
    if training.adapter is None and job.backend.lora and job.model.family == "decoder":
        lines.append(f"train LoRA: {job.backend.describe_lora()}")
    if training.processes > 1 and training.shards < _ALL_SHARDED and "zero3" in job.backend.deepspeed_names:
        lines.append("deepspeed: zero3 shares the weights between the GPUs")
    elif training.processes > 1 and training.shards < _SHARDED and training.adapter is None:
        lines.append("deepspeed: zero2 shares optimizer and gradients between the GPUs")
    return lines
