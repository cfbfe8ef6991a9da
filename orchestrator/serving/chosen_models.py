"""Models as commands name them: which model each is, how it reads and scores texts, and that it can be loaded."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from orchestrator.backends.models import BaseModel, find_named_model
from orchestrator.backends.scorers import DTYPES, build_scoring, find_use, load_own_spec
from orchestrator.checks.model_loading import NamedModel, Permissions, require_loadable
from orchestrator.errors import PreflightError, Problem, RunFolderError
from orchestrator.machine.places import WORKERS
from orchestrator.recipe.plan import Command
from orchestrator.serving.worker import Words, run_worker

MAX_LENGTH = 512


@dataclass(frozen=True)
class Reading:
    """How models read texts that do not say it themselves; None is each model's own way.

    `max_length` is in tokens (None: 512), see `scorers.build_scoring`. A packaged folder says itself what it reads, and
    of these only `family`, `batch_size`, `trust_remote_code` and `allow_pickle` are for it.
    """

    format: str | None = None
    pooling: str | None = None
    family: str | None = None
    max_length: int | None = None
    instruction: str | None = None
    batch_size: int | None = None
    trust_remote_code: bool = False
    allow_pickle: bool = False

    @property
    def permissions(self) -> Permissions:
        """What its user lets a model do, beside running code."""
        return Permissions(self.allow_pickle)


@dataclass(frozen=True)
class ChosenModel:
    """A model, how it is read, and its scoring spec; `build_spec` gives that of the model once more is known of it."""

    model: BaseModel
    reading: Reading
    spec: dict[str, Any]
    build_spec: Callable[[BaseModel], dict[str, Any] | Problem] = field(repr=False, compare=False)

    @property
    def name(self) -> str:
        """What it is called in its command's results."""
        return str(self.spec["name"])

    @property
    def packaged(self) -> bool:
        """Whether it says itself how it is scored."""
        return load_own_spec(self.model) is not None

    @property
    def compares_vectors(self) -> bool:
        """Whether it can search a corpus and compare pairs of texts; others rank the candidates of a query."""
        return bool(self.spec["scorer"] == "embedding")


def find_model(name: str, reading: Reading) -> BaseModel:
    """Return the model that is a folder, a run, a hub id or an installed package. Raises PreflightError."""
    return find_named_model(
        name, family=reading.family, format=reading.format, trust_remote_code=reading.trust_remote_code
    )


def choose_model(
    model: BaseModel, name: str, reading: Reading, *, precision: str, vectors: bool = False
) -> ChosenModel:
    """Return a model with its scoring spec as `name`; `vectors` as in build_scoring.

    Raises PreflightError for one that cannot be scored so.
    """

    def build(seen: BaseModel, form: str | None) -> dict[str, Any] | Problem:
        return build_scoring(
            seen,
            dtype=DTYPES[precision],
            name=name,
            max_length=reading.max_length or MAX_LENGTH,
            instruction=reading.instruction,
            batch_size=reading.batch_size,
            format=form,
            pooling=reading.pooling,
            vectors=vectors,
        )

    spec = build(model, reading.format)
    if isinstance(spec, Problem):
        raise PreflightError.from_problems([spec])
    return ChosenModel(model, reading, spec, lambda seen: build(seen, spec["scorer"]))


def require_absent(out: Path) -> None:
    """Raise RunFolderError where something lies already in the place of a command's output."""
    if out.exists() or out.is_symlink():
        raise RunFolderError(f"{out} exists already", hint="name a fresh folder with -o, or remove it")


def require_chosen_load(chosen: Sequence[ChosenModel], python: str = sys.executable) -> None:
    """Raise PreflightError with everything that keeps the models from being loaded, or scored as is planned."""

    def name_model(item: ChosenModel) -> NamedModel:
        return NamedModel(
            item.model, python, permissions=item.reading.permissions, use=find_use(item.spec["scorer"]),
            find_misfit=lambda seen: spec if isinstance(spec := item.build_spec(seen), Problem) else None,
        )  # fmt: skip

    require_loadable([name_model(item) for item in chosen])


def run_on_models(
    worker: str,
    options: Mapping[str, object],
    chosen: Sequence[ChosenModel],
    words: Words,
    *,
    python: str = sys.executable,
    on_cpu: bool = False,
    on_progress: Callable[[int, int], None] | None = None,
) -> None:
    """Run a worker on these models to its end, in the foreground; an option that is None is left out.

    `on_cpu` it sees no GPU. No hub is asked where all models are here. Raises what `serving.worker.run_worker` does.
    """
    added = {"PYTHONUNBUFFERED": "1", "TOKENIZERS_PARALLELISM": "false"}
    if all(item.model.is_local for item in chosen):
        added["HF_HUB_OFFLINE"] = "1"
    if on_cpu:
        added["CUDA_VISIBLE_DEVICES"] = ""
        options = {**options, "device": "cpu"}
    for item in chosen:
        added |= item.reading.permissions.env
    flags = [part for flag, value in options.items() if value is not None for part in (f"--{flag}", str(value))]
    command = Command((python, str(WORKERS), worker, *flags), cwd=str(Path.cwd()))
    run_worker(command, words, env=added, on_progress=on_progress)
