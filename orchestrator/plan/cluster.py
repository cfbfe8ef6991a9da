"""A recipe and a profile → the job that an engine is given: as a file's text. Reads profiles, starts nothing.

An engine is a row of `ENGINES` and a template in templates/cluster/: what it repeats is one line, `orch resume
--or-run`, whose exit code says whether it shall.
"""

from __future__ import annotations

import difflib
import json
import re
import sys
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from orchestrator.backends.render import ShellText, quote, render_text
from orchestrator.errors import PreflightError, Problem, RecipeError
from orchestrator.machine.places import find_orch_config
from orchestrator.plan.load import LoadedRecipe, load_recipe
from orchestrator.recipe.plan import File
from orchestrator.recipe.schema import Cluster
from orchestrator.recipe.source import Source, load_source


@dataclass(frozen=True)
class Engine:
    """What starts jobs on machines: the template of its job, and the name of that file in a run folder's `job/`.

    `options`: (the engine's name of an option, the key of `cluster:` that gives it). An engine whose machines share no
    folder with this one also has `takes`, the keys of `cluster:` that it understands, `submit`, the command that is
    given the job's file, and `install`, what brings that command.
    """

    template: str
    file: str
    options: tuple[tuple[str, str], ...] = ()
    takes: frozenset[str] = frozenset()
    submit: tuple[str, ...] = ()
    install: str = ""


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
    "skypilot": Engine(
        "cluster/skypilot.yaml.j2",
        "job/skypilot.yaml",
        takes=frozenset({"gpus", "gres", "cpus", "mem", "setup", "container", "venv", "shared", "extra"}),
        submit=("sky", "jobs", "launch", "--yes", "--detach-run"),
        install="pip install skypilot, with the extra of your cloud, in an environment of its own",
    ),
    "kubernetes": Engine(
        "cluster/kubernetes.yaml.j2",
        "job/kubernetes.yaml",
        takes=frozenset({"gpus", "gres", "cpus", "mem", "setup", "container", "venv", "shared", "warn_s", "requeues"}),
        submit=("kubectl", "create", "-f"),
        install="install kubectl, or hand the file to whoever has it",
    ),
}
AWAY = "/orch"  # where the shared storage of machines elsewhere is mounted: runs lie in runs/ of it
_LABEL_CHARS = 47  # of the 63 of a label, less what Kubernetes appends to a job's name
_CLAIM = re.compile(r"[a-z0-9]([-a-z0-9.]*[a-z0-9])?")
_BUCKETS = ("s3://", "gs://", "r2://", "oci://", "nebius://", "cos://", "https://")


@dataclass(frozen=True)
class Repeated:
    """How a run is asked for, on one line: as a user types it, and as an engine repeats it."""

    recipe: Path
    run: Path
    overrides: tuple[str, ...] = ()
    smoke: bool = False
    hardware: str = "auto"
    away: bool = False

    def words(self) -> list[str]:
        """Return what an engine repeats, with absolute paths, or `away` those of the machines' own storage."""
        orch, recipe, run = str(Path(sys.executable).with_name("orch")), self.recipe.resolve(), str(self.run)
        if self.away:
            orch, recipe, run = "orch", self._from_here(), f"{AWAY}/runs/{self.run.name}"
        return [orch, "resume", "--or-run", str(recipe), "-o", run, *self._options()]

    def command(self) -> tuple[str, ...]:
        """Return what a user types for the same run."""
        return ("orch", "run", str(self.recipe), *self._options(), "-o", str(self.run))

    def _options(self) -> list[str]:
        words = [word for item in self.overrides for word in ("--set", item)]
        words += ["--smoke"] if self.smoke else []
        return [*words, "--hardware", self.hardware] if self.hardware != "auto" else words

    def _from_here(self) -> Path:
        """Return the recipe's path from the working directory, which travels. Raises RecipeError outside of it."""
        try:
            return self.recipe.resolve().relative_to(Path.cwd())
        except ValueError:
            hint = "submit from a folder that holds the recipe and its data: the job gets that folder"
            raise RecipeError(f"{self.recipe} does not lie below {Path.cwd()}", hint=hint) from None


def require_engine(name: str) -> Engine:
    """Return an engine's row. Raises RecipeError, with the nearest name, where there is none."""
    if name in ENGINES:
        return ENGINES[name]
    hint = suggest(name, ENGINES, f"one of: {', '.join(ENGINES)}")
    raise RecipeError(f"no engine is called {name!r}", hint=hint)


def suggest(word: str, known: Iterable[str], otherwise: str) -> str:
    """Return the hint that names the known word most like this one, or `otherwise` where none is."""
    near = difflib.get_close_matches(word, list(known), n=1)
    return f"did you mean {near[0]}?" if near else otherwise


def render_job(engine: Engine, name: str, cluster: Cluster, line: Repeated, *, again: tuple[int, ...]) -> File:
    """Return the engine's job. `again`: the exit codes after which it begins anew."""
    values = cluster.model_dump()
    if engine.takes:
        values |= _require_taken(engine, cluster)
        line = replace(line, away=True)
    options = [(option, values[key]) for option, key in engine.options if values[key] not in (None, 0)]
    words = quote(line.words())
    text = render_text(
        engine.template,
        name=name,
        run=str(line.run),
        cluster=values,
        options=options,
        command=ShellText(f"{cluster.container} {words}") if cluster.container else words,
        bare=words,
        again=" ".join(map(str, again)),
        raw=ShellText,
        quote=quote,
        yaml=lambda value: ShellText(json.dumps(value, ensure_ascii=False)),  # JSON's values are YAML's
        codes=sorted(again),
        label="orch-" + re.sub(r"[^a-z0-9]+", "-", name.lower())[:_LABEL_CHARS].strip("-"),
        away=AWAY,
        home=str(Path.cwd()),
    )
    return File(engine.file, text)


def _require_taken(engine: Engine, cluster: Cluster) -> dict[str, Any]:
    """Return the GPUs' name and number. Raises RecipeError for what the engine has no word for, or what it lacks."""
    name = next(key for key, row in ENGINES.items() if row is engine)
    asked = {key for key in cluster.model_fields_set if getattr(cluster, key) != Cluster.model_fields[key].default}
    problems = [
        Problem(f"cluster.{key} means nothing to {name}", f"remove it; it takes {', '.join(sorted(engine.takes))}")
        for key in sorted(asked - engine.takes - {"profile"})
    ]
    kind, _, count = (cluster.gres or "").removeprefix("gpu:").rpartition(":")
    if cluster.gres and not (cluster.gres.startswith("gpu:") and kind and count.isdigit()):
        problems.append(Problem(f"cluster.gres: {cluster.gres!r} names no GPU", "such as gpu:A100:4"))
    if name == "skypilot" and cluster.gpus and not cluster.gres:
        problems.append(Problem("SkyPilot asks for GPUs by name", "cluster.gres, such as gpu:A100:4, in place of gpus"))
    if name == "skypilot" and not (cluster.shared or "").startswith(_BUCKETS):
        problems.append(Problem("cluster.shared names no bucket", "where runs lie, such as s3://my-bucket"))
    if name == "kubernetes" and not _CLAIM.fullmatch(cluster.shared or ""):
        problems.append(Problem("cluster.shared names no claim", "the PersistentVolumeClaim with recipes and runs"))
    if name == "kubernetes" and not cluster.container:
        problems.append(Problem("cluster.container names no image", "an image with Orch: the Dockerfile makes one"))
    if problems:
        raise RecipeError.from_problems(problems)
    return {"gpu_kind": kind or None, "gpus": int(count) if kind else cluster.gpus}


def load_for_job(
    recipe: Path, overrides: tuple[str, ...], profile: str | None
) -> tuple[LoadedRecipe, Cluster, tuple[str, ...]]:
    """Return a recipe, what its job asks for, and the overrides by which as many hosts train as the job has machines.

    Raises RecipeError where the recipe says another number of hosts, or that each of them is the same one.
    """
    loaded = load_recipe(recipe, overrides)
    cluster, launch = find_cluster(loaded.recipe.cluster, profile), loaded.recipe.launch
    asked = launch.nnodes if "nnodes" in launch.model_fields_set else "auto"
    if asked not in ("auto", cluster.nodes):
        message = f"launch.nnodes is {asked}, and cluster.nodes {cluster.nodes}"
        where = loaded.source.where(("launch", "nnodes"))
        raise RecipeError(message, hint="leave launch.nnodes out: it follows cluster.nodes", where=where)
    if cluster.nodes > 1 and launch.node_rank != "auto":
        message = f"launch.node_rank: {launch.node_rank} would be said to all {cluster.nodes} machines of the job"
        where = loaded.source.where(("launch", "node_rank"))
        raise RecipeError(message, hint="leave it out: the engine says which machine is which", where=where)
    if launch.nnodes != cluster.nodes:
        overrides = (*overrides, f"launch.nnodes={cluster.nodes}")
        loaded = load_recipe(recipe, overrides)
    return loaded, cluster, overrides


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
        hint = suggest(name, source.data, f"it has: {', '.join(source.data) or 'none yet'}")
        raise RecipeError(f"{path} has no profile {name!r}", hint=hint)
    given = asked.model_dump(include=asked.model_fields_set, exclude={"profile"})
    try:
        kept = Cluster.model_validate(source.data[name])
        return Cluster.model_validate({**kept.model_dump(include=kept.model_fields_set), **given})
    except ValidationError as error:
        raise RecipeError.from_problems([_explain(source, name, item) for item in error.errors()]) from error


def _explain(source: Source, name: str, item: Any) -> Problem:
    key = str(item["loc"][0]) if item["loc"] else ""
    where = source.where((name, key))
    if item["type"] != "extra_forbidden":
        return Problem(f"{name}.{key}: {item['msg']}", Cluster.describe_key(key), where)
    hint = suggest(key, Cluster.model_fields, f"one of: {', '.join(Cluster.model_fields)}")
    return Problem(f"unknown key {key!r}", hint, where)


def require_shared(cluster: Cluster, run: Path) -> None:
    """Raise PreflightError where a run folder does not lie in what every machine sees."""
    if cluster.shared and Path(cluster.shared).resolve() not in run.resolve().parents:
        hint = f"name one below it with -o or --runs; cluster.shared says that every machine sees {cluster.shared}"
        raise PreflightError(f"{run} does not lie in {cluster.shared}", hint=hint)
