"""A recipe and a profile → the job that an engine is given: as a file's text. Reads profiles, starts nothing.

An engine is a row of `ENGINES` and a template in templates/cluster/: what it repeats is one line, `orch resume
--or-run`, whose exit code says whether it shall.
"""

from __future__ import annotations

import difflib
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from orchestrator.backends.render import ShellText, quote, render_text
from orchestrator.errors import PreflightError, Problem, RecipeError
from orchestrator.machine.places import find_orch_config
from orchestrator.recipe.plan import File
from orchestrator.recipe.schema import Cluster
from orchestrator.recipe.source import Source, load_source


@dataclass(frozen=True)
class Engine:
    """What starts jobs on machines: the template of its job, and the name of that file in a run folder's `job/`.

    `options`: (the engine's name of an option, the key of `cluster:` that gives it).
    """

    template: str
    file: str
    options: tuple[tuple[str, str], ...] = ()


ENGINES: dict[str, Engine] = {
    "slurm": Engine(
        "cluster/slurm.sh.j2",
        "job/slurm.sh",
        (
            *((key, key) for key in ("partition", "account", "qos", "time", "gres", "mem", "constraint")),
            ("gpus-per-node", "gpus"),
            ("cpus-per-task", "cpus"),
        ),
    ),
}


@dataclass(frozen=True)
class Repeated:
    """The one line that an engine repeats."""

    recipe: Path
    run: Path
    overrides: tuple[str, ...] = ()
    smoke: bool = False
    hardware: str = "auto"

    def words(self) -> list[str]:
        """Return it as an argument list, with absolute paths: it may be read on another machine."""
        orch = str(Path(sys.executable).with_name("orch"))
        words = [orch, "resume", "--or-run", str(self.recipe.resolve()), "-o", str(self.run)]
        words += [word for item in self.overrides for word in ("--set", item)]
        words += ["--smoke"] if self.smoke else []
        return words + (["--hardware", self.hardware] if self.hardware != "auto" else [])


def require_engine(name: str) -> Engine:
    """Return an engine's row. Raises RecipeError, with the nearest name, where there is none."""
    if name in ENGINES:
        return ENGINES[name]
    near = difflib.get_close_matches(name, ENGINES, n=1)
    hint = f"did you mean {near[0]}?" if near else f"one of: {', '.join(ENGINES)}"
    raise RecipeError(f"no engine is called {name!r}", hint=hint)


def render_job(engine: Engine, name: str, cluster: Cluster, line: Repeated, *, again: tuple[int, ...]) -> File:
    """Return the engine's job. `again`: the exit codes after which it begins anew."""
    values = cluster.model_dump()
    options = [(option, values[key]) for option, key in engine.options if values[key] not in (None, 0)]
    words = quote(line.words())
    text = render_text(
        engine.template,
        name=name,
        run=str(line.run),
        cluster=values,
        options=options,
        command=ShellText(f"{cluster.container} {words}") if cluster.container else words,
        again=" ".join(map(str, again)),
        raw=ShellText,
        quote=quote,
    )
    return File(engine.file, text)


def find_cluster(asked: Cluster, profile: str | None = None) -> Cluster:
    """Return what a job asks for: a profile's values, and above them those that the recipe gives.

    The profile is `profile`, else the recipe's, else the one called `default` where there is one. Raises RecipeError.
    """
    path = find_orch_config() / "clusters.yaml"
    name = profile or asked.profile
    source = load_source(path) if path.exists() else Source(str(path), {}, {})
    if name is None and "default" not in source.data:
        return asked
    name = name or "default"
    if name not in source.data:
        near = difflib.get_close_matches(name, source.data, n=1)
        hint = f"did you mean {near[0]}?" if near else f"it has: {', '.join(source.data) or 'none yet'}"
        raise RecipeError(f"{path} has no profile {name!r}", hint=hint)
    given = asked.model_dump(include=asked.model_fields_set, exclude={"profile"})
    return _validate(source, name, given)


def _validate(source: Source, name: str, given: dict[str, Any]) -> Cluster:
    values = source.data[name]
    try:
        profile = Cluster.model_validate(values)
        return Cluster.model_validate({**profile.model_dump(include=profile.model_fields_set), **given})
    except ValidationError as error:
        raise RecipeError.from_problems([_explain(source, name, item) for item in error.errors()]) from error


def _explain(source: Source, name: str, item: Any) -> Problem:
    key = str(item["loc"][0]) if item["loc"] else ""
    where = source.where((name, key))
    if item["type"] != "extra_forbidden":
        return Problem(f"{name}.{key}: {item['msg']}", Cluster.describe_key(key), where)
    near = difflib.get_close_matches(key, Cluster.model_fields, n=1)
    known = ", ".join(Cluster.model_fields)
    return Problem(f"unknown key {key!r}", f"did you mean {near[0]}?" if near else f"one of: {known}", where)


def require_shared(cluster: Cluster, run: Path) -> None:
    """Raise PreflightError where a run folder does not lie in what every machine sees."""
    if cluster.shared and Path(cluster.shared).resolve() not in run.resolve().parents:
        hint = f"name one below it with -o or --runs; cluster.shared says that every machine sees {cluster.shared}"
        raise PreflightError(f"{run} does not lie in {cluster.shared}", hint=hint)
