"""What a finished run took: tokens a second, share of the GPU's peak, and how long each stage waited to begin."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.backends.models import find_model
from orchestrator.backends.protocol import Job
from orchestrator.checks import memory
from orchestrator.checks.cost import count_training, find_gpu, measure_share
from orchestrator.checks.model_size import load_model_size
from orchestrator.checks.settings import is_on, read_train_values
from orchestrator.checks.workload import count_lines, find_passes, read_side
from orchestrator.errors import OrchError
from orchestrator.logs.events import Event, Progress, StageStarted, Step
from orchestrator.machine.hardware import Hardware
from orchestrator.machine.rundir import RunDir
from orchestrator.recipe.plan import Plan
from orchestrator.recipe.schema import ModelRef, Recipe


@dataclass
class Pace:
    """When a stage's newest attempt began, did its first and its last unit of work (unix seconds), and how many."""

    began: float
    first: Progress | None = None
    last: Progress | None = None
    epoch: float | None = None

    @property
    def start_s(self) -> float | None:
        """Seconds until the first unit was done: imports, loading of model and data, and that unit."""
        return self.first.t - self.began if self.first else None

    @property
    def units_per_s(self) -> float | None:
        """Units a second after the first report, so without what came before it."""
        if not self.first or not self.last or self.last.t <= self.first.t:
            return None
        return (self.last.done - self.first.done) / (self.last.t - self.first.t) or None


def find_paces(events: Iterable[Event]) -> dict[str, Pace]:
    """Return the pace of each stage that ran, by its name."""
    paces: dict[str, Pace] = {}
    for event in events:
        if isinstance(event, StageStarted):
            paces[event.stage] = Pace(event.t)
        elif isinstance(event, Progress | Step) and (pace := paces.get(event.stage)):
            if isinstance(event, Step):
                pace.epoch = event.epoch or pace.epoch
                event = Progress(event.step or 0, event.max_steps or 0, event.stage, event.t)  # noqa: PLW2901
            if event.done > max(0, pace.last.done if pace.last else 0):
                pace.first, pace.last = pace.first or event, event
    return paces


def measure_training(
    run: RunDir, plan: Plan, stats: Mapping[str, Any], provenance: Mapping[str, Any], paces: Mapping[str, Pace]
) -> dict[str, Any] | None:
    """Return report.json's `cost`: device, tokens a second, FLOPS of a GPU, share of its peak where that is known.

    None where tokens were not counted, or the training was too short for two reports.
    """
    with suppress(OrchError, ValueError, KeyError, TypeError, OSError):  # a damaged piece is left out
        return _measure(run, plan, stats, provenance, paces)
    return None


def _measure(
    run: RunDir, plan: Plan, stats: Mapping[str, Any], provenance: Mapping[str, Any], paces: Mapping[str, Pace]
) -> dict[str, Any] | None:
    train = plan.stage("train")
    pace = paces.get(train.name) if train else None
    lines = count_lines(run.train_jsonl)
    side = read_side(stats.get("train") or {}, lines=lines)
    if not (side and lines and pace and pace.last and pace.epoch and pace.units_per_s):
        return None
    machine = dict(provenance["hardware"])
    hardware = Hardware(machine["kind"], machine.get("count") or 1, names=tuple(machine.get("names") or ()))
    model = find_model(ModelRef.model_validate({"path": str(run.model)}), run.root, otherwise="encoder")
    recipe = Recipe.model_validate(plan.recipe)
    job = Job(recipe, Path(run.root), Path(run.root), model, hardware, dict(plan.versions), "", "", "")
    values = read_train_values(plan)
    texts = None if memory.assumes_documents(job) else memory.count_texts_of_a_row(job, values)
    sequences, tokens = side.count_training(texts)
    rows_per_s = lines * pace.epoch / pace.last.done * pace.units_per_s
    name = next(iter(hardware.names), "")
    found = {"device": name or hardware.kind, "tokens_per_s": tokens * rows_per_s}
    if size := load_model_size(run.model):
        flops = count_training(size, find_passes(job, values, size), tokens, tokens / sequences) * rows_per_s
        half = is_on(values, "bf16") or is_on(values, "fp16")
        found |= measure_share(flops, 1.0, find_gpu(name), half=half, gpus=job.processes())
    return found
