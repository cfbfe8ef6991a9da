"""A plan that grows: its stages, numbered as they come, its rendered files, and how its own commands are rendered."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec

from orchestrator.backends.models import BaseModel
from orchestrator.backends.protocol import Job, SmokeScale, eval_kind
from orchestrator.backends.render import render_command
from orchestrator.machine.rundir import RunDir
from orchestrator.recipe.plan import Command, File, Note, Stage


class Draft(msgspec.Struct):
    """What is known of one plan so far; every path in it is absolute or relative to the run folder.

    `job` is the job as it runs: with `scale`, the smoke version of what was asked for.
    """

    job: Job
    scale: SmokeScale | None
    run: RunDir
    stages: list[Stage] = []
    files: list[File] = []
    notes: list[Note] = []

    def add(self, kind: str, title: str, command: Command, **fields: Any) -> Stage:
        """Add a stage; `fields` are those of Stage."""
        timeout_s = self.job.recipe.launch.timeout_s
        stage = Stage(name=self._name(kind), kind=kind, title=title, command=command, timeout_s=timeout_s, **fields)
        self.stages.append(stage)
        return stage

    def add_own(self, kind: str, title: str, template: str, values: dict[str, Any], **fields: Any) -> Stage:
        """Add a stage that runs in Orch's own Python; `values` are those of its template, `fields` those of Stage."""
        env = {"PYTHONUNBUFFERED": "1", "PYTHONFAULTHANDLER": "1"} | self.job.recipe.launch.env
        return self.add(kind, title, self._render(template, env, self.job.orch_python, values), **fields)

    def add_worker(
        self,
        kind: str,
        title: str,
        template: str,
        values: dict[str, Any],
        *,
        loads: BaseModel | None = None,
        env: dict[str, str] | None = None,
        python: str | None = None,
        **fields: Any,
    ) -> Stage:
        """Add a stage that runs in the backend's Python, in an environment for the model that it loads (the base)."""
        env, python = self.job.environment(loads) if env is None else env, python or self.job.backend_python
        return self.add(kind, title, self._render(template, env, python, values), **fields)

    def output(self, kind: str, after: int = 0) -> str:
        """Return the output folder of the stage of that kind that is added once `after` others have been."""
        return str(self.run.stage(self._name(kind, after)).output)

    def place(self, path: str) -> str:
        """Return the absolute path of what lies in the run folder."""
        return str(self.run.root / path)

    def name_all(self, paths: Iterable[Path]) -> tuple[str, ...]:
        """Return absolute paths below the run folder as they are called from there."""
        return tuple(str(path.relative_to(self.run.root)) for path in paths)

    def add_file(self, path: str, text: str) -> str:
        """Add a rendered file, once, and return its path."""
        if all(file.path != path for file in self.files):
            self.files.append(File(path, text))
        return path

    @property
    def searches_corpus(self) -> bool:
        """Whether the run's evaluation is a retrieval: each query searches every document of it."""
        return eval_kind(self.job) == "retrieval"

    def cache(self, name: str) -> str | None:
        """Return a folder of this user's cache; a smoke run's random models leave nothing worth keeping."""
        return None if self.job.smoke else f"{self.job.cache_dir}/{name}"

    def _render(self, template: str, env: dict[str, str], python: str, values: dict[str, Any]) -> Command:
        data = self.job.recipe.data
        known = {
            "workers": self.job.workers,
            "columns": [f"{new}={old}" for new, old in data.columns.items()],
            "ignore": list(data.ignore),
            "encoding": data.encoding,
            "device": "cpu" if self.job.hardware.kind == "cpu" else None,  # None leaves it to the worker
        }
        return render_command(template, env=env, cwd=str(self.run.root), python=python, **{**known, **values})

    def _name(self, kind: str, after: int = 0) -> str:
        return f"{len(self.stages) + after + 1:02d}-{kind}"
