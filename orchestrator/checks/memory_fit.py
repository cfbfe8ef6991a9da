"""Whether a training fits into the memory of the GPUs, or of a CPU, by the estimate, and what would make it fit.

What to lower is named with what it saves; of other ways of training only those that Orch takes and whose own estimate
fits. The stages beside the training load the whole model on one GPU, however the training fits.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any

import msgspec
from msgspec.structs import replace

from orchestrator.backends.protocol import Job
from orchestrator.checks import memory
from orchestrator.checks.model_size import ModelSize, find_model_size
from orchestrator.checks.settings import read_train_values
from orchestrator.errors import OrchError, Problem
from orchestrator.machine.hardware import find_memory
from orchestrator.plan.pipeline import build_plan
from orchestrator.recipe.losses import find_batch_obstacle
from orchestrator.recipe.plan import Plan

_LIGHT = 0.8  # of a GPU: what weights may take where the rest must fit too
_CLEAR_MARGIN = 1.5  # the estimate may be this far off
_WORTH_SAYING = 0.05  # of the estimate
_MOST_REMEDIES = 4
_MIB = 1024**2
_SHARDED, _ALL_SHARDED = 2, 3
_OLD_TUNER = "train_type"
_MOST_WAYS = 3
_HALF = 2  # bytes of a weight as models are measured on a GPU
_LOADING = ("baseline", "package", "evaluate", "guard")
_MANY_WEIGHTS = 200_000_000  # a base-sized encoder has half as many, the smallest of the usual LLMs three times as many


class PlannedMemory(msgspec.Struct, frozen=True):
    """The estimate of a plan's training, all that it was made from, and the bytes that one process may take."""

    estimate: memory.MemoryEstimate
    model: ModelSize
    training: memory.TrainingSize
    values: Mapping[str, str]
    kind: str = "cuda"
    assumed: str | None = None
    room: int | None = None

    def lacks_room_for(self, size: int) -> bool:
        """Tell whether so many bytes are known to be too many."""
        return self.room is not None and size > self.room

    def __str__(self) -> str:
        said = self.estimate.describe("GPU memory" if self.kind == "cuda" else "memory")
        return said + (f" ({self.assumed})" if self.assumed else "")

    def to_data(self) -> dict[str, int | str | None]:
        """Return the estimate in bytes, for programs."""
        return {**self.estimate.to_data(), "assumed": self.assumed}


def plan_memory(job: Job, plan: Plan) -> PlannedMemory | None:
    """Return the estimate; None for a smoke run, and where neither files nor name tell the model's sizes."""
    if job.smoke or (model := find_model_size(job.model)) is None:
        return None
    values, kind = read_train_values(plan), job.hardware.kind
    training = memory.find_training_size(job, values, model)
    assumed = [f"{memory.ASSUMED_DOCUMENTS} documents a query assumed"] if memory.assumes_documents(job) else []
    assumed += [] if job.model.folder else ["sizes by its name"]
    told, estimate = ", ".join(assumed) or None, memory.estimate_memory(model, training)
    if kind == "cuda":  # the smallest GPU decides
        room = min(job.hardware.memory_mib) * _MIB if job.hardware.memory_mib else None
    else:
        free = find_memory().get("MemAvailable")
        room = free and free // job.processes()
    return PlannedMemory(estimate, model, training, values, kind, told, room)


def check_memory(job: Job, plan: Plan) -> Iterator[Problem]:
    """Yield that the weights alone are more than a GPU holds: no batch is small enough."""
    planned = plan_memory(job, plan)
    if planned is None or job.hardware.kind != "cuda" or not planned.lacks_room_for(planned.estimate.weights):
        return
    needed, there = memory.show_gib(planned.estimate.weights), memory.show_gib(planned.room or 0)
    message = f"{job.model.name}: its weights alone take {needed} of GPU memory here, and a GPU has {there}"
    changes = ((way.say, _change(job, way)) for way in _list_ways(job))  # the smallest first
    others = ((say, plan_memory(*changed)) for say, changed in changes if changed)
    light = (say for say, one in others if one and one.room and one.estimate.weights <= _LIGHT * one.room)
    ways = "\n".join(islice(light, _MOST_WAYS))
    yield Problem(message, ways or f"take a smaller model, or GPUs of more than {needed}")


def advise_memory(job: Job, plan: Plan) -> Iterator[Problem]:
    """Yield that the training may not fit, with what to lower. An estimate forbids nothing."""
    planned, on_gpu = plan_memory(job, plan), job.hardware.kind == "cuda"
    if planned is None or planned.room is None or planned.estimate.total <= planned.room:
        return
    if on_gpu and planned.lacks_room_for(planned.estimate.weights):
        return  # check_memory has refused it
    certain = planned.estimate.total > _CLEAR_MARGIN * planned.room
    there = memory.show_gib(planned.room)
    has = f"a GPU has {there}" if on_gpu else f"{there} are free here"
    message = f"the training needs {planned}; {has}: it will {'hardly' if certain else 'perhaps not'} fit"
    yield Problem(message, "\n".join(_remedies(job, planned)) or None)


def advise_measuring(job: Job, plan: Plan) -> Iterator[Problem]:
    """Yield that a model which is trained quantised or shared is measured whole, and does not fit so."""
    planned = plan_memory(job, plan)
    if planned is None or job.hardware.kind != "cuda" or planned.model.stored_bits is not None:
        return
    whole = planned.model.parameters * _HALF
    loading = [stage for stage in plan.stages if stage.kind.startswith(_LOADING) and not stage.kind.endswith("-data")]
    if not loading or planned.lacks_room_for(planned.estimate.weights) or not planned.lacks_room_for(whole):
        return
    message = (
        f"the training fits, and {', '.join(stage.name for stage in loading)} load the whole model on one GPU: "
        f"{memory.show_gib(whole)} in half precision, and a GPU has {memory.show_gib(planned.room or 0)}"
    )
    hint = (
        "train the adapter alone here: merge: false, evaluate: {baselines: []} and no gate; "
        "then `orch merge` and `orch evaluate` where there is room"
    )
    yield Problem(message, hint)


def advise_on_cpu(job: Job, plan: Plan) -> Iterator[Problem]:  # noqa: ARG001
    """Yield that there is no GPU for a model of many weights; an LLM that is not here yet counts as one."""
    if job.hardware.kind == "cuda" or job.smoke:
        return
    size = find_model_size(job.model)
    if size.parameters < _MANY_WEIGHTS if size else job.model.family != "decoder":
        return
    weights = f" with its {size.parameters / 1e9:.1f} billion weights" if size else ""
    message = f"no GPU is used: {job.model.name}{weights} is trained on the CPU, in float32, which takes very long"
    yield Problem(message, "orch doctor shows why there is none; --smoke tries the recipe with a tiny model")


def _remedies(job: Job, planned: PlannedMemory) -> list[str]:
    """Return what to lower, what saves most first."""
    training, values = planned.training, planned.values
    found: list[tuple[int, str]] = []

    def consider(say: str, **changes: object) -> None:
        other = memory.estimate_memory(planned.model, replace(training, **changes))
        found.append((planned.estimate.total - other.total, say))

    if training.logits == "scores" and "last_logits" in job.backend.speedups(job):
        consider("speedups: [last_logits]", logits="none")
    if not training.checkpointing:
        consider("gradient_checkpointing: true", checkpointing=True)
    batch = int(values.get("per_device_train_batch_size", "8"))
    part = job.loss.facts.at_once(job.loss) if job.loss else None
    if part and part > 1:
        consider(f"loss.mini_batch_size: {part // 2} instead of {part}", rows=training.rows // 2)
    elif batch > 1:
        lower = batch // 2
        warning = " (another objective)" if find_batch_obstacle(job.loss, job.recipe.train) else ""
        smaller = f"per_device_train_batch_size: {lower} instead of {batch}{warning}"
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
    worth = [(size, say) for size, say in saved if size > max(_WORTH_SAYING * planned.estimate.total, memory.GIB / 10)]
    lines = [f"{say} saves {memory.show_gib(size)}" for size, say in worth[:_MOST_REMEDIES]]
    static = planned.estimate.weights + planned.estimate.gradients + planned.estimate.optimizer
    return lines + (_static_remedies(job, planned) if static > planned.estimate.total / 2 else [])


def _static_remedies(job: Job, planned: PlannedMemory) -> list[str]:
    """Return what lowers weights, gradients and optimizer: other methods, and more GPUs."""
    training, lines = planned.training, []
    if training.adapter is None and job.backend.lora and job.model.family in job.backend.lora_families:
        lines.append(f"train LoRA: {job.backend.describe_lora()}")
    if training.processes > 1 and training.shards < _ALL_SHARDED and "zero3" in job.backend.deepspeed_names:
        lines.append("deepspeed: zero3 shares the weights between the GPUs")
    elif training.processes > 1 and training.shards < _SHARDED and training.adapter is None:
        lines.append("deepspeed: zero2 shares optimizer and gradients between the GPUs")
    return lines


class Way(msgspec.Struct, frozen=True):
    """Changes of a recipe, and how they are said; `deepspeed` and `processes` are left as they are where None."""

    say: str
    train: Mapping[str, Any]
    deepspeed: str | None = None
    processes: int | None = None


def _list_ways(job: Job) -> Iterator[Way]:
    """Yield what may be tried: sharing the weights, LoRA, quantised weights, and these together."""
    backend, several = job.backend, job.processes() > 1
    able = job.model.family in backend.lora_families and bool(backend.lora)
    lora = backend.lora if able and not backend.trains_lora(job) else {}
    shared = Way("deepspeed: zero3 shares the weights between the GPUs", {}, deepspeed="zero3")
    shares = "zero3" in backend.deepspeed_names and several
    if shares:
        yield shared
    if backend.spreads_layers and several:
        yield Way("launch: {nproc_per_node: 1} spreads the layers over the GPUs, without deepspeed", {}, processes=1)
    if lora:
        say = backend.describe_lora()
        yield Way(f"train LoRA: {say}", lora)
        if shares:
            yield replace(shared, say=f"train LoRA: {say}, with deepspeed: zero3", train=lora)
    if "quant_method" in backend.arguments and able:
        say = f"train QLoRA: {backend.describe_lora()}, " if lora else "train QLoRA: "
        for bits in (8, 4):
            train = {**lora, "quant_method": "bnb", "quant_bits": bits}
            way = Way(f"{say}quant_method: bnb, quant_bits: {bits} (it needs the package bitsandbytes)", train)
            yield way
        if several:
            yield replace(way, say=f"{way.say}, and launch: {{nproc_per_node: 1}}", processes=1)


def _change(job: Job, way: Way) -> tuple[Job, Plan] | None:
    """Return the job and the plan of the changed recipe; None where that recipe is refused."""
    recipe = job.recipe
    train = {name: value for name, value in recipe.train.items() if name != _OLD_TUNER or "tuner_type" not in way.train}
    launch = recipe.launch
    if way.processes is not None:
        launch = launch.model_copy(update={"nproc_per_node": way.processes})
    shared = None if way.processes == 1 else way.deepspeed or recipe.deepspeed
    text = job.deepspeed_text if shared == recipe.deepspeed else None
    recipe = recipe.model_copy(update={"train": {**train, **way.train}, "launch": launch, "deepspeed": shared})
    changed = replace(job, recipe=recipe, deepspeed_text=text)
    try:
        return None if changed.backend.check_job(changed) else (changed, build_plan(changed))
    except OrchError:
        return None
