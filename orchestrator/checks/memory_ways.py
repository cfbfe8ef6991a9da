"""Which other ways of training fit into a GPU: only those that Orch takes and whose own estimate fits are named."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from orchestrator.backends import BACKENDS
from orchestrator.backends.protocol import Job
from orchestrator.errors import OrchError
from orchestrator.plan.pipeline import build_plan
from orchestrator.recipe.plan import Plan

_OLD_TUNER = "train_type"
_MOST = 3


@dataclass(frozen=True)
class Way:
    """Changes of a recipe, and how they are said; `deepspeed` and `processes` are left as they are where None."""

    say: str
    train: Mapping[str, Any]
    deepspeed: str | None = None
    processes: int | None = None


def find_ways(job: Job, fits: Callable[[Job, Plan], bool]) -> list[str]:
    """Return at most three changes of the recipe, the smallest first, after each of which `fits` says yes."""
    found: list[str] = []
    for way in _list_ways(job):
        changed = _change(job, way)
        if changed is not None and fits(*changed):
            found.append(way.say)
        if len(found) == _MOST:
            break
    return found


def _list_ways(job: Job) -> Iterator[Way]:
    """Yield what may be tried: sharing the weights, LoRA, quantised weights, and these together."""
    backend, several = job.backend, job.processes() > 1
    able = job.model.family == "decoder" and bool(backend.lora)
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
    if "quant_method" in backend.argument_names() and able:
        say = f"train QLoRA: {backend.describe_lora()}, " if lora else "train QLoRA: "
        say += "quant_method: bnb, quant_bits: "
        for bits in (8, 4):
            train = {**lora, "quant_method": "bnb", "quant_bits": bits}
            yield Way(f"{say}{bits} (it needs the package bitsandbytes)", train)
        if several:
            train = {**lora, "quant_method": "bnb", "quant_bits": 4}
            yield Way(
                f"{say}4 (it needs the package bitsandbytes), and launch: {{nproc_per_node: 1}}", train, processes=1
            )


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
        if BACKENDS[recipe.backend].check_job(changed):
            return None
        return changed, build_plan(changed)
    except OrchError:
        return None
