"""Commands on recipes: check, render, init, schema. They run nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from orchestrator.cli import options as option
from orchestrator.cli.output import Result, format_advice, prints, tell
from orchestrator.errors import RunFolderError
from orchestrator.machine.terminal import hand_on, print_data, say, say_lines

_WIDEST_VALUE = 40
_EXAMPLES = frozenset({".yaml", ".json", ".jsonl", ".csv", ".md"})  # not the programs that made the data


@click.command("check")
@option.recipe
@click.option("--cost", is_flag=True, help="Say what the run costs: steps, tokens, FLOPs, hours.")
@click.option("--gpu", metavar="NAME", help="Plan for this GPU, such as a100, h100, 4090; with --cost.")
@option.runs
@option.overrides
@option.hardware
@prints("check")
def check_command(
    recipe: Path, overrides: tuple[str, ...], hardware: str, *, cost: bool, gpu: str | None, runs: Path
) -> Result:
    """Check RECIPE as `orch run` does before its first stage: every problem at once, with its exit code.

    Nothing is asked of a hub; nor, with --hardware or --gpu, of this machine. --gpu takes as many GPUs as --hardware
    says; earlier runs in --runs tell how much of the peak is reached.
    """
    from orchestrator.checks import require_runnable
    from orchestrator.checks.memory_fit import plan_memory
    from orchestrator.checks.workload import describe_group
    from orchestrator.plan.jobs import build_job
    from orchestrator.plan.load import load_recipe
    from orchestrator.plan.pipeline import build_plan

    found, named = option.resolve_hardware(hardware, smoke=False), None
    if gpu:
        from orchestrator.checks.cost import require_gpu

        named = require_gpu(gpu)
        found = named.describe(found.count if found.kind == "cuda" else 1)
    loaded = load_recipe(recipe, overrides)
    job = build_job(loaded, (Path("runs") / loaded.recipe.name).absolute(), found)
    plan = build_plan(job)
    advice = require_runnable(job, plan, this_machine=hardware == "auto" and not named, asks_hub=False)
    memory = plan_memory(job, plan)
    group = describe_group(job, plan)
    planned = None
    if cost or named:
        from orchestrator.checks.workload import plan_cost

        planned = plan_cost(job, plan, named, runs)

    def show() -> None:
        say(f"{recipe}: all right")
        for role, model in (("model", job.model), ("teacher", job.teacher)):
            if model:
                where = "on this machine" if model.is_local else "to be downloaded"
                say(f"  {role:<8}  {model.location} ({model.family}, {where})")
        for name, kind in job.guard_kinds.items():
            say(f"  guard     {name} ({kind} rows)")
        say(f"  hardware  {job.hardware}")
        say(f"  training  {group['world_size']} process(es), {group['step_rows']} rows a step")
        if memory:
            say(f"  memory    {memory}")
        say_lines(f"  {line}" for line in (planned.lines() if planned else ()))
        say_lines(map(format_advice, advice), err=True)

    data = {
        "recipe": str(recipe), "name": job.recipe.name,
        "model": job.model.location, "model_is_local": job.model.is_local,
        "family": job.model.family, "native": job.model.native, "hardware": str(job.hardware),
        "teacher": job.teacher.location if job.teacher else None, "guards": dict(job.guard_kinds),
        "training": group, "memory": memory.to_data() if memory else None,
        **({"cost": planned.to_data()} if planned else {}),
        "advice": [{"message": problem.message, "hint": problem.hint} for problem in advice],
    }  # fmt: skip
    return Result(data, show)


@click.command("render")
@option.recipe
@click.option("-o", "--output", type=option.PATH, help="Write the files here: the run folder.")
@option.job
@click.option("--explain", is_flag=True, help="Say of each argument where it comes from and why.")
@option.plan
@prints("render")
def render_command(
    recipe: Path, output: Path | None, engine: str | None, profile: str | None, explain: bool, **how: Any
) -> Result:
    """Show every command and file that RECIPE becomes; run nothing.

    With -o the files are written, and `bash run.sh` in that folder does the whole job. With --to it is the job that
    `orch submit` hands to that engine.
    """
    if engine or profile:
        return _render_job(recipe, output, engine or "slurm", profile, **how)
    from msgspec.structs import asdict

    from orchestrator.backends.render import render_files, render_run_script
    from orchestrator.plan.jobs import build_job
    from orchestrator.plan.load import load_recipe
    from orchestrator.plan.pipeline import build_plan
    from orchestrator.run.folder import write_run
    from orchestrator.run.provenance import Asked, build_provenance

    overrides, hardware, smoke = how["overrides"], how["hardware"], how["smoke"]
    loaded = load_recipe(recipe, overrides)
    folder = (output or Path("runs") / loaded.recipe.name).absolute()
    job = build_job(loaded, folder, option.resolve_hardware(hardware, smoke=smoke), smoke=smoke, may_run=False)
    if not job.versions:
        tell(
            f"what {job.backend_python} has installed is not known without starting it, which render does not; "
            "orch check does"
        )
    plan = build_plan(job)
    if output is not None:
        provenance = build_provenance(plan, job.hardware, Asked(recipe, overrides, hardware), may_run=False)
        write_run(plan, recipe.read_text(encoding="utf-8-sig"), provenance)

    def show() -> None:
        hand_on(render_run_script(plan), nl=False)
        for file in plan.files:
            hand_on(f"\n# ── {file.path}\n{file.text}", nl=False)

    files = {file.path: file.text for file in render_files(plan) if file.path != "plan.json"}
    data = {"plan": json.loads(plan.to_json()), "files": files}
    if explain:
        width = max((len(note.argument) for note in plan.notes), default=0)
        return Result(data, (_explain(asdict(note), width) for note in plan.notes))
    return Result(data, show if output is None else (f"{output}: written. Run it with: bash {output}/run.sh",))


def _render_job(
    recipe: Path, output: Path | None, engine: str, profile: str | None, overrides: tuple[str, ...], **how: Any
) -> Result:
    from orchestrator.machine.rundir import RunDir
    from orchestrator.plan.cluster import Repeated, load_for_job, render_job, require_engine
    from orchestrator.run.failures import AGAIN
    from orchestrator.run.slurm import write_job

    to = require_engine(engine)
    loaded, cluster, overrides = load_for_job(recipe, overrides, profile)
    folder = (output or Path("runs") / loaded.recipe.name).absolute()
    line = Repeated(recipe, folder, overrides, **how)
    job = render_job(to, folder.name, cluster, line, again=AGAIN)
    if output is None:
        return Result({"files": {job.path: job.text}}, lambda: hand_on(job.text, nl=False))
    return Result({"files": {job.path: job.text}}, (f"{write_job(RunDir(folder), job)}: written",))


@click.command("init")
@click.argument("path", type=option.PATH, required=False)
@click.option("--task", type=click.Choice(("reranker", "embedding", "sft")), default="reranker", show_default=True)
@click.option("--example", is_flag=True, help="Write the shipped recipes and their data to the folder PATH.")
@click.option("--force", is_flag=True, help="Replace files that exist.")
@prints("init")
def init_command(path: Path | None, task: str, *, example: bool, force: bool) -> Result:
    """Write a commented starter recipe to PATH (recipe.yaml), or with --example a folder of recipes that run."""
    from orchestrator.backends.render import find_templates
    from orchestrator.machine.files import write_bytes
    from orchestrator.machine.places import find_beside

    path = path or Path("orch-example" if example else "recipe.yaml")
    if example:  # recipes name their data as ../datasets_example: both folders keep their names
        shipped = [file for name in ("recipes", "datasets_example") for file in sorted(find_beside(name).iterdir())]
        files = {path / file.parent.name / file.name: file for file in shipped if file.suffix in _EXAMPLES}
        text = f"{path}: recipes and their data. There: orch run recipes/qwen3_reranker.yaml --smoke"
    else:
        files = {path: find_templates() / "recipe" / f"starter.{task}.yaml"}
        text = f"{path}: written. Fill in the model and the data, then: orch check {path}"
    if not force and (there := next(filter(Path.exists, files), None)):
        raise RunFolderError(f"{there} exists", hint="choose another name, or say --force")
    for target, source in files.items():
        write_bytes(target, source.read_bytes())
    return Result({"path": str(path), **({"files": len(files)} if example else {"task": task})}, (text,))


@click.command("schema")
def schema_command() -> None:
    """Print the recipe's JSON Schema; recipes name it in their first line for editors."""
    from orchestrator.backends import BACKENDS
    from orchestrator.recipe.schema import build_json_schema

    arguments = {name: backend.json_schema() for name, backend in BACKENDS.items()}
    print_data(build_json_schema(arguments))


def _explain(note: dict[str, str], width: int) -> str:
    """Return what is known of an argument: its stage, name, value, origin and why."""
    value = note["value"] if len(note["value"]) <= _WIDEST_VALUE else "…" + note["value"][1 - _WIDEST_VALUE :]
    return f"{note['stage']:<9} {note['argument']:<{width}}  {value:<40}  {note['origin']:<10}  {note['why']}"
