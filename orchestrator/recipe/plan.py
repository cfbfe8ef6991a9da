"""Plan, Stage, Command and File: plain data that says everything a run will do."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import msgspec

from orchestrator.machine.json_files import build_record, parse_json

PLAN_VERSION = 1


class File(msgspec.Struct, frozen=True):
    """A rendered file: `path` relative to the run folder, and its exact text."""

    path: str
    text: str


class Command(msgspec.Struct, frozen=True):
    """One native process: argument list, the environment that the recipe adds, working directory."""

    argv: tuple[str, ...]
    env: tuple[tuple[str, str], ...] = ()
    cwd: str = "."


class Resume(msgspec.Struct, frozen=True):
    """How a stage continues: `flag` and the newest complete checkpoint of `checkpoints` are appended to its argv.

    `checkpoints` is a folder that holds `checkpoint-N/`; relative to the run folder.
    """

    flag: str
    checkpoints: str


class Fallback(msgspec.Struct, frozen=True):
    """The same training in smaller batches, for a machine whose memory ran out: as many rows a step, the same loss.

    `title` says what differs from the stage's own command; `script` is that command as a rendered file of the plan.
    """

    title: str
    argv: tuple[str, ...]
    script: str


class Stage(msgspec.Struct, frozen=True):
    """One step of the run. Paths are relative to the run folder unless absolute.

    `inputs` are files or folders whose contents decide the result (hashed into the digest);
    `outputs` must exist after success; `done_codes` are the exit codes that count as finished. With `counts_rows` its
    log says how many rows it has loaded, and they must be those of the ledger. `flat_loss` is the loss of a model that
    scores everything alike, where that is one number. `fallbacks` are tried in their order when memory runs out.
    """

    name: str
    kind: str
    title: str
    command: Command
    inputs: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    files: tuple[str, ...] = ()
    done_codes: tuple[int, ...] = (0,)
    timeout_s: float | None = None
    resume: Resume | None = None
    counts_rows: bool = False
    flat_loss: float | None = None
    fallbacks: tuple[Fallback, ...] = ()

    @property
    def folder(self) -> str:
        """The stage's own folder, relative to the run folder."""
        return f"stages/{self.name}"


class Note(msgspec.Struct, frozen=True):
    """One translated, defaulted or chosen argument, for `orch render --explain`."""

    stage: str
    argument: str
    value: str
    origin: str  # recipe | translated | default | hardware | orch
    why: str


class Plan(msgspec.Struct, frozen=True):
    """Everything that a run will do, in order. `run_dir` is absolute."""

    name: str
    run_dir: str
    task: str
    backend: str
    smoke: bool
    recipe: dict[str, Any]
    stages: tuple[Stage, ...]
    files: tuple[File, ...]
    notes: tuple[Note, ...] = ()
    versions: dict[str, str] = {}
    version: int = PLAN_VERSION

    def stage(self, kind: str) -> Stage | None:
        """Return the first stage of that kind, or None."""
        return next((stage for stage in self.stages if stage.kind == kind), None)

    @property
    def model_name(self) -> str | None:
        """The base model as the recipe names it: a hub id, a folder or a package; None where a plan names none."""
        model = self.recipe.get("model")
        return model.get("path") or model.get("package") if isinstance(model, dict) else model

    def file(self, path: str) -> File | None:
        """Return the rendered file of that path, or None."""
        return next((file for file in self.files if file.path == path), None)

    def digest(self) -> str:
        """Return a hash of all that decides what the run does."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()

    def to_json(self) -> str:
        """Return the plan as the text of plan.json."""
        return json.dumps(msgspec.to_builtins(self), ensure_ascii=False, indent=2, sort_keys=True) + "\n"


def plan_from_json(text: str) -> Plan:
    """Return the plan that `Plan.to_json` wrote. Raises DamagedJsonError for any other text."""
    return build_record(Plan, parse_json(text))
