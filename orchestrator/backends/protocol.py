"""What a backend must offer, and what it is told about a job."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from orchestrator.backends.models import BaseModel
from orchestrator.errors import Problem
from orchestrator.machine.hardware import Hardware
from orchestrator.recipe.plan import Command, File, Note, Resume
from orchestrator.recipe.schema import Recipe

Found = tuple[tuple[str, ...], Problem]  # the path of the key to change, and what is wrong with it


@dataclass(frozen=True)
class Job:
    """Everything that decides a plan: the recipe, and what was found out about the machine."""

    recipe: Recipe
    recipe_folder: Path
    run_dir: Path
    model: BaseModel
    hardware: Hardware
    versions: dict[str, str]
    backend_python: str
    orch_python: str
    workers: str
    smoke: bool = False
    kind: str = "group"  # of the data: group, labelled, pair or chat
    deepspeed_text: str | None = None
    cache_dir: str = ""  # this user's cache of things that are built once a machine
    teacher: BaseModel | None = None
    guard_kinds: Mapping[str, str] = field(default_factory=dict)  # guard → the kind of its rows

    def processes(self) -> int:
        """Return how many processes train on this machine: one a GPU, one on a CPU, unless the recipe says it."""
        asked = self.recipe.launch.nproc_per_node
        if asked != "auto":
            return asked
        if self.hardware.kind == "cpu":
            return 1
        chosen = self.chosen_gpus()
        return self.hardware.count if chosen is None else max(1, min(len(chosen), self.hardware.count))

    def chosen_gpus(self) -> tuple[str, ...] | None:
        """Return the GPUs that the recipe's CUDA_VISIBLE_DEVICES leaves to every stage; None where it says nothing."""
        visible = self.recipe.launch.env.get("CUDA_VISIBLE_DEVICES")
        return None if visible is None else tuple(name for name in visible.split(",") if name.strip())

    def environment(self, model: BaseModel | None = None) -> dict[str, str]:
        """Return the environment of every stage that loads the model (the base); the recipe's own variables win."""
        env = {"PYTHONUNBUFFERED": "1", "PYTHONFAULTHANDLER": "1", "TOKENIZERS_PARALLELISM": "false"}
        if (model or self.model).is_local or self.smoke:
            env["HF_HUB_OFFLINE"] = "1"
        if self.hardware.kind == "cpu":
            env["CUDA_VISIBLE_DEVICES"] = ""
        if self.smoke:
            env["OMP_NUM_THREADS"] = "1"  # on tiny matrices threads only wait for one another
        teacher = self.recipe.teacher if model is not None and model == self.teacher else None
        if (teacher or self.recipe.model).allow_pickle:
            env["ORCH_ALLOW_PICKLE"] = "1"  # workers/environment.py reads it
        return env | self.recipe.launch.env


def eval_kind(job: Job) -> str:
    """Return how the job is measured: group, retrieval (a query searches the whole corpus), pair or chat."""
    return _measured_as(job, job.kind)


def guard_eval_kind(job: Job, guard: str) -> str:
    """Return how one of the job's guards is measured, in the words of `eval_kind`."""
    return _measured_as(job, job.guard_kinds[guard])


def _measured_as(job: Job, kind: str) -> str:
    if kind == "labelled":
        return "group"
    return "retrieval" if job.recipe.task == "embedding" and kind == "group" else kind


def name_checkpoint(job: Job, *, last: str) -> str:
    """Return which checkpoint of the output folder becomes the model; `last` is what the trainer calls the newest."""
    asked = job.recipe.checkpoint
    if isinstance(asked, int) and not job.smoke:
        return f"checkpoint-{asked}"
    best = asked == "best" or (asked is None and job.recipe.data.validation_ratio is not None)
    return "best" if best else last


@dataclass(frozen=True)
class Training:
    """A backend's train stage, and what follows from its arguments."""

    command: Command
    files: tuple[File, ...]
    notes: tuple[Note, ...]
    outputs: tuple[str, ...]
    lora: bool
    prepare: dict[str, Any]  # flags of the prepare stage: what the trainer will cut, what its loss needs
    scoring: dict[str, Any]  # how a model trained so must be scored
    weights: str  # the folder that holds the trained adapter, or the whole model
    resume: Resume | None = None
    full_batch_rows: int = 1  # rows that one optimizer step needs on all processes
    counts_rows: bool = False  # whether the trainer's log says how many rows it has loaded
    batch: int = 1  # rows of one process's forward pass
    accumulation: int = 1  # forward passes of one optimizer step
    flat_loss: float | None = None  # the loss of a model that scores everything alike, where that is one number


@dataclass(frozen=True)
class SmokeScale:
    """What `--smoke` sets: few rows and steps, short texts, nothing that a CPU cannot do."""

    train: dict[str, Any] = field(default_factory=dict)
    leave_out: frozenset[str] = frozenset()  # arguments that make no sense on a tiny model
    recipe: dict[str, Any] = field(default_factory=dict)  # other parts of the recipe that a tiny model needs smaller
    limit_train: int = 16
    limit_eval: int = 12


class Backend(Protocol):
    """A tool that trains. One file in `backends/`, one folder in `templates/`, one writer in `data/`."""

    @property
    def name(self) -> str:
        """Return the name that recipes use."""
        ...

    @property
    def extra(self) -> str:
        """Return the extra of pyproject.toml that installs it."""
        ...

    @property
    def distributions(self) -> tuple[str, ...]:
        """Return what must be installed in the backend's Python."""
        ...

    @property
    def tasks(self) -> tuple[str, ...]:
        """Return the tasks that it trains."""
        ...

    @property
    def deepspeed_names(self) -> tuple[str, ...]:
        """Return the DeepSpeed configurations that it brings along and knows by name."""
        ...

    def data_form(self, job: Job) -> str:
        """Return which writer of orchestrator.data makes its train file."""
        ...

    def argument_names(self) -> frozenset[str]:
        """Return every name that `train:` may hold, old spellings included."""
        ...

    def json_schema(self) -> dict[str, dict[str, Any]]:
        """Return the JSON Schema of each name under `train:`."""
        ...

    def check_train(self, train: Mapping[str, Any]) -> list[tuple[str, Problem]]:
        """Return what is wrong with single values under `train:`, each with its key."""
        ...

    def check_job(self, job: Job) -> list[Found]:
        """Return what does not fit together, each with the path of the key to change."""
        ...

    def smoke_scale(self, job: Job) -> SmokeScale:
        """Return how a smoke run shrinks this job."""
        ...

    def build_training(self, job: Job, *, model: str, data: str, output: str) -> Training:
        """Return the train stage for the base model at `model` on the prepared folder `data`; all paths absolute."""
        ...

    def build_merge(self, job: Job, *, base: str, adapter: str, output: str) -> Command:
        """Return the command that folds the adapter into the base; `output` appears whole or not at all."""
        ...
