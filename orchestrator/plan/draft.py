"""A plan that grows: its stages, numbered as they come, its rendered files, and how its own commands are rendered."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from orchestrator.backends.models import BaseModel
from orchestrator.backends.protocol import Job, SmokeScale, eval_kind
from orchestrator.backends.render import render_command
from orchestrator.machine.rundir import RunDir
from orchestrator.recipe.plan import Command, File, Note, Stage


@dataclass
class Draft:
    """What is known of one plan so far; every path in it is absolute or relative to the run folder.

    `job` is the job as it runs: with `scale`, the smoke version of what was asked for.
    """

    job: Job
    scale: SmokeScale | None
    run: RunDir
    stages: list[Stage] = field(default_factory=list)
    files: list[File] = field(default_factory=list)
    notes: list[Note] = field(default_factory=list)

    def add(self, kind: str, title: str, command: Command, **fields: Any) -> Stage:
        """Add a stage; `fields` are those of Stage."""
        name = self._name(kind)
        stage = Stage(
            name=name, kind=kind, title=title, command=command, timeout_s=self.job.recipe.launch.timeout_s, **fields
        )
        self.stages.append(stage)
        return stage

    def output(self, kind: str, after: int = 0) -> str:
        """Return the output folder of the stage of that kind that is added once `after` others have been."""
        return str(self.run.stage(self._name(kind, after)).output)

    def add_file(self, path: str, text: str) -> str:
        """Add a rendered file, once, and return its path."""
        if all(file.path != path for file in self.files):
            self.files.append(File(path, text))
        return path

    def render_orch(self, template: str, **values: Any) -> Command:
        """Return a command of Orch's own Python."""
        env = {"PYTHONUNBUFFERED": "1", "PYTHONFAULTHANDLER": "1"} | self.job.recipe.launch.env
        return render_command(template, env=env, cwd=str(self.run.root), python=self.job.orch_python, **values)

    def render_worker(self, template: str, *, loads: BaseModel | None = None, **values: Any) -> Command:
        """Return a command of the backend's Python, in an environment for the model that it loads (the base)."""
        return self.render_in(self.job.environment(loads), template, **values)

    def render_in(self, env: dict[str, str], template: str, **values: Any) -> Command:
        """Return a command of the backend's Python in this environment."""
        python, workers = self.job.backend_python, self.job.workers
        return render_command(template, env=env, cwd=str(self.run.root), python=python, workers=workers, **values)

    @property
    def device(self) -> str | None:
        """The device that workers are told to use; None leaves it to them."""
        return "cpu" if self.job.hardware.kind == "cpu" else None

    @property
    def searches_corpus(self) -> bool:
        """Whether the run's evaluation is a retrieval: each query searches every document of it."""
        return eval_kind(self.job) == "retrieval"

    @property
    def columns(self) -> list[str]:
        """The recipe's renamed columns, as commands take them: NEW=OLD."""
        return [f"{new}={old}" for new, old in self.job.recipe.data.columns.items()]

    @property
    def ignored(self) -> list[str]:
        """The keys of rows whose texts the recipe does not need."""
        return list(self.job.recipe.data.ignore)

    def cache(self, name: str) -> str | None:
        """Return a folder of this user's cache; a smoke run's random models leave nothing worth keeping."""
        return None if self.job.smoke else f"{self.job.cache_dir}/{name}"

    def _name(self, kind: str, after: int = 0) -> str:
        return f"{len(self.stages) + after + 1:02d}-{kind}"
