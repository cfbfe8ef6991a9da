"""Commands that train: run, resume, sweep, submit and reproduce."""

from __future__ import annotations

import os
import shlex
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from orchestrator.cli import options as option
from orchestrator.cli.folder_commands import verdict_lines
from orchestrator.cli.output import Result, format_advice, prints, tell
from orchestrator.errors import GateMissedError, OrchError, PreflightError, Problem, RecipeError
from orchestrator.machine.rundir import RunDir
from orchestrator.machine.terminal import current_language, say, say_lines
from orchestrator.recipe.plan import Plan
from orchestrator.run.folder import (
    adopt_run,
    create_run,
    find_run,
    load_own_plan,
    load_run_object,
    require_same_recipe,
)
from orchestrator.run.runs import summarise
from orchestrator.run.slurm import SLURM, find_job_id, hand_over, resubmit, submit
from orchestrator.run.state import find_state, wait_for_lost_holder
from orchestrator.run.sweep import Sweep, find_others, is_over, is_sweep, load_sweep, write_sweep

if TYPE_CHECKING:
    from orchestrator.recipe.schema import Cluster, Launch

_MOST_SHOWN = 12  # differences
_OUTCOMES = {"identical": "the same, bit for bit", "different": "another result"}

_folder_option = click.option("-o", "--output", type=option.PATH, help="The run folder (default: runs/NAME-TIME-ID).")
_warm_option = click.option(
    "--warm/--no-warm", default=True, help="Fork stages from a process with their libraries imported (default), or not."
)
_start_options = option.join(
    option.plan, option.trusted_run,
    click.option("--open", "open_report", is_flag=True, help="Open the report in a browser at the end."), _warm_option,
)  # fmt: skip


@dataclass(frozen=True)
class Asked:
    """What the commands that start a run are asked for; `output` is the run's folder, absolute, or where to name one.

    `overrides` are texts of `--set`. Programs are told nothing while it runs (`as_json`).
    """

    output: Path | None
    trust_run: bool
    runs: Path
    warm: bool
    as_json: bool
    open_report: bool = False
    overrides: tuple[str, ...] = ()
    smoke: bool = False
    hardware: str = "auto"

    def folder(self, name: str) -> Path:
        """Return the folder of a fresh run or sweep of that name."""
        from orchestrator.plan.jobs import new_run_dir

        return self.output.absolute() if self.output else new_run_dir(self.runs, name, smoke=self.smoke)


@click.command("run")
@option.recipe
@_folder_option
@_start_options
@prints("run")
def run_command(recipe: Path, as_json: bool, **options: Any) -> Result:
    """Take RECIPE from data to verdict. Exit code 8 says that the gate was missed; Ctrl-C leaves a run to resume."""
    return _start(recipe, Asked(as_json=as_json, **options))


def _start(recipe: Path, asked: Asked) -> Result:
    """Plan a recipe and run it."""
    from orchestrator.checks import require_runnable
    from orchestrator.plan.jobs import build_job
    from orchestrator.plan.load import load_recipe
    from orchestrator.plan.pipeline import build_plan
    from orchestrator.run import provenance

    loaded = load_recipe(recipe, asked.overrides)
    if rank := _find_rank(loaded.recipe.launch):
        return _join(asked.output, rank, loaded.recipe.launch, trust_run=asked.trust_run)
    found = option.resolve_hardware(asked.hardware, smoke=asked.smoke)
    job = build_job(loaded, asked.folder(loaded.recipe.name), found, smoke=asked.smoke)
    plan = build_plan(job)
    advice = require_runnable(job, plan)
    say(f"planned for: {found}", err=True)
    if loaded.recipe.sweep.model_fields_set:
        say("sweep: is for `orch sweep`; this trains the recipe as it stands, once", err=True)
    say_lines(map(format_advice, advice), err=True)
    origin = provenance.Asked(recipe, asked.overrides, asked.hardware)
    return _finish(plan, create_run(plan, origin, found, trust_run=asked.trust_run), asked)


def _find_rank(launch: Launch) -> int:
    """Return which host of several this is, 0 where there is one; where they meet is told to the stages."""
    from orchestrator.plan.jobs import find_place

    place = find_place(launch)
    os.environ.update(place)
    return int(place.get("NODE_RANK", "0"))


def _join(folder: Path | None, rank: int, launch: Launch, *, trust_run: bool) -> Result:
    """Take part in the run of host 0."""
    from orchestrator.run.joining import WAIT_S, join_run

    if folder is None:
        raise PreflightError(f"host {rank} joins the run of host 0", hint="name its folder: -o RUN, on a shared disk")
    say(f"host {rank}: joins the run in {folder}", err=True)
    join_run(RunDir(folder.absolute()), rank, wait_s=launch.ddp_timeout_s or WAIT_S, trust_run=trust_run)
    data = {"run": str(folder.absolute()), "host": rank, "exit_code": 0}
    return Result(data, (f"host {rank}: its part of {folder} is over",))


@click.command("resume")
@option.run
@click.option(
    "--or-run", "recipe", type=option.PATH, metavar="RECIPE", help="For engines that repeat "
    "one command: run RECIPE in the folder -o, or go on with what is there, and end with 75 or 7 to be called again.",
)  # fmt: skip
@click.option("-o", "--output", type=option.PATH, help="With --or-run: the run folder.")
@click.option("--tries", type=option.COUNT, help="With --or-run: attempts that may get no further (default: 5).")
@_start_options
@prints("resume")
def resume_command(run: str, recipe: Path | None, tries: int | None, as_json: bool, **options: Any) -> Result:
    """Continue RUN (a folder, a name, or `last`): finished stages are skipped, training goes on from its checkpoint."""
    from orchestrator.run.failures import TRIES, judge

    asked = Asked(as_json=as_json, **options)
    if recipe is None:
        if asked.output or tries or (asked.overrides, asked.smoke, asked.hardware) != ((), False, "auto"):
            raise click.UsageError("-o, --tries, --set, --smoke and --hardware go with --or-run RECIPE")
        return _resume(run, asked)
    if asked.output is None or run != "last":
        raise click.UsageError("--or-run takes the run folder by -o, and no RUN")
    folder = RunDir(asked.output.absolute())
    try:
        return _resume_or_run(folder, recipe, asked)
    except OrchError as error:
        raise judge(error, folder, tries=tries or TRIES) from error


def _resume_or_run(folder: RunDir, recipe: Path, asked: Asked) -> Result:
    from orchestrator.plan.load import load_recipe

    launch = load_recipe(recipe, asked.overrides).recipe.launch
    if rank := _find_rank(launch):
        return _join(folder.root, rank, launch, trust_run=asked.trust_run)
    if not folder.plan_json.exists():
        return _start(recipe, asked)
    require_same_recipe(folder, recipe, asked.overrides, smoke=asked.smoke)
    wait_for_lost_holder(folder)
    state = find_state(folder)
    if state is None or state.status != "done" or not folder.report_json.exists():
        return _resume(str(folder.root), asked)
    report = load_run_object(folder.report_json)
    data = {"run": str(folder.root), "exit_code": state.exit_code, "report": report}
    return Result(data, verdict_lines(folder, report), state.exit_code or 0)


def _resume(run: str, asked: Asked) -> Result:
    from orchestrator.recipe.schema import Launch
    from orchestrator.report.reproduction import is_rerun
    from orchestrator.run.stopping import find_scheduler

    if is_sweep(folder := Path(run)):
        sweep = load_sweep(folder)
        return _sweep(Path(sweep.recipe), sweep.asked, replace(asked, output=folder))
    found = find_run(run, asked.runs)
    if find_job_id(found) and find_scheduler() is None and summarise(found).status != "done":
        name = resubmit(found)
        return Result({"run": str(found.root), "engine": SLURM, "id": name}, (f"{found.root}: {SLURM} {name}",))
    plan = load_own_plan(found, trust_run=asked.trust_run)
    if (plan.recipe.get("launch") or {}).get("nnodes", 1) != 1:
        launch = Launch.model_validate(plan.recipe["launch"])
        if rank := _find_rank(launch):
            return _join(found.root, rank, launch, trust_run=asked.trust_run)
    if asked.trust_run:
        adopt_run(found)
    return _finish_rerun(plan, found, asked) if is_rerun(found) else _finish(plan, found, asked)


@click.command("sweep")
@option.recipe
@click.option("-o", "--output", type=option.PATH, help="The sweep's folder (default: in the runs).")
@click.option("--set", multiple=True, metavar="A.B=V,W", help="Try each of these values; one value holds for all.")
@click.option("--seeds", type=option.COUNT, help="Trainings of each setting, with seeds of their own.")
@click.option("--random", type=option.COUNT, metavar="N", help="Draw N settings in place of all combinations.")
@click.option("--optuna", type=option.COUNT, metavar="N", help="Let Optuna choose N settings, one by one.")
@click.option("--max-trials", type=option.COUNT, metavar="N", help="Run no more than N trainings.")
@click.option("--max-hours", type=click.FloatRange(0, min_open=True), metavar="H", help="Begin none after H hours.")
@click.option("--parallel", type=option.COUNT, metavar="N", help="Run N trials at once, each on its share of GPUs.")
@click.option("--dry-run", is_flag=True, help="Only print the command of every trial.")
@option.job
@option.smoke
@option.hardware
@option.trusted_run
@_warm_option
@prints("sweep")
def sweep_command(
    recipe: Path, engine: str | None, profile: str | None, dry_run: bool, as_json: bool, **settings: Any
) -> Result:
    """Train RECIPE in many settings, and say which is best and what holds of it although it was chosen.

    Every trial is a run in SWEEP/trials. The same command on the same folder goes on where it was stopped; with --to
    slurm it hands in a job for each trial, and chooses once all are over. Exit code 8 says that the confirmed winner
    missed the gate.
    """
    how = {name: settings.pop(name) for name in ("output", "trust_run", "runs", "warm")}
    asked = Asked(as_json=as_json, smoke=settings["smoke"], hardware=settings["hardware"], **how)
    settings["set"] = list(settings["set"])
    return _sweep(recipe, settings, asked, dry_run=dry_run, at=(engine, profile) if engine or profile else None)


def _sweep(
    recipe: Path, settings: dict[str, Any], asked: Asked, *, dry_run: bool = False,
    at: tuple[str | None, str | None] | None = None
) -> Result:  # fmt: skip
    """Plan a sweep, or take it up, run what is not over, here or `at` an engine by a profile's name, and choose."""
    from orchestrator.cli.progress import listening
    from orchestrator.plan.sweep import plan_sweep
    from orchestrator.run.sweeping import Runner, Trials, share_gpus

    hardware, cluster, at_once = settings["hardware"], None, settings.get("parallel") or 1
    if at:
        from orchestrator.plan.cluster import find_cluster, require_engine, require_shared
        from orchestrator.plan.load import load_recipe

        engine, cluster = require_engine(at[0] or SLURM), find_cluster(load_recipe(recipe).recipe.cluster, at[1])
        if engine.takes or cluster.nodes > 1 or at_once > 1:
            hint = (
                "leave --parallel out, and cluster.nodes at 1; elsewhere: --dry-run prints the command of every trial"
            )
            raise RecipeError("a sweep is handed to slurm, one machine and one job for each trial", hint=hint)
        hardware = _find_hardware(cluster, hardware)
    found = option.resolve_hardware(hardware, smoke=settings["smoke"])
    planned = plan_sweep(recipe.resolve(), settings, found, here=cluster is None)
    folder = asked.folder(f"{planned.name}-sweep")
    trials = Trials.take_up(planned, folder)
    if dry_run:
        if planned.optuna:
            say(f"Optuna chooses {planned.optuna} settings as it goes", err=True)
        commands = [trials.line(trial).command() for trial in trials.sweep.trials]
        return Result({"sweep": str(folder), "commands": commands}, map(shlex.join, commands))
    listen = partial(listening, quiet=asked.as_json)
    runner = Runner(trials, listen, tell, warm=asked.warm, trust_run=asked.trust_run)
    if cluster:
        require_shared(cluster, folder)
        runner.hand_in(engine, cluster)
        if waiting := sum(not is_over(trial) for trial in trials.sweep.trials):
            lines = [f"{folder}: {waiting} trials wait or run"]
            lines.append(f"once they are over, the same command with -o {folder} chooses")
            return Result({"sweep": str(folder), "engine": SLURM, "waiting": waiting}, lines)
        return _choose(folder, trials.sweep)
    say(f"sweep folder: {folder}", err=True)
    if at_once > 1:
        runner.run_beside(share_gpus(planned.hardware, at_once))
    else:
        runner.run()
    return _choose(folder, trials.sweep)


def _choose(folder: Path, sweep: Sweep) -> Result:
    """Write down what wins, and say it."""
    from orchestrator.report.compare_runs import choose_trial, format_sweep

    sweep.choice = choose_trial(folder, sweep)
    write_sweep(folder, sweep)
    gate = sweep.choice["gate"]["passed"] if sweep.choice else None
    code = GateMissedError.exit_code if gate is False else 0
    data = {"sweep": str(folder), "exit_code": code, **asdict(sweep)}
    return Result(data, format_sweep(sweep, current_language()), code)


@click.command("submit")
@option.recipe
@option.job
@_folder_option
@option.plan
@option.runs
@prints("submit")
def submit_command(
    recipe: Path, engine: str | None, profile: str | None, overrides: tuple[str, ...], smoke: bool, hardware: str,
    output: Path | None, runs: Path
) -> Result:  # fmt: skip
    """Hand RECIPE to an engine: checked here, tried by the engine, queued. ls, show, logs, stop and resume work on it.

    A run that was taken away begins again by itself and goes on from its checkpoint; one that is wrong does not.
    """
    from orchestrator.checks import require_runnable
    from orchestrator.plan.cluster import Repeated, load_for_job, render_job, require_engine, require_shared
    from orchestrator.plan.jobs import build_job, new_run_dir
    from orchestrator.plan.pipeline import build_plan
    from orchestrator.run.failures import AGAIN

    to = require_engine(engine or SLURM)
    loaded, cluster, overrides = load_for_job(recipe, overrides, profile)
    folder = output.absolute() if output else new_run_dir(runs, loaded.recipe.name, smoke=smoke)
    if not to.takes:
        require_shared(cluster, folder)
    planned = option.resolve_hardware(_find_hardware(cluster, hardware), smoke=smoke)
    job = build_job(loaded, folder, planned, smoke=smoke)
    advice = require_runnable(job, build_plan(job), this_machine=False, asks_hub=False)
    say_lines(map(format_advice, advice), err=True)
    line = Repeated(recipe, folder, overrides, smoke, hardware)
    file = render_job(to, folder.name, cluster, line, again=AGAIN)
    if to.takes:
        said = hand_over(RunDir(folder), to, file)
        return Result({"run": str(folder), "engine": engine, "id": said}, (f"{folder / file.path}: {said}",))
    name = submit(RunDir(folder), file)
    lines = (f"{folder}: {SLURM} {name}", f"follow it with: orch logs -f {folder}")
    return Result({"run": str(folder), "engine": SLURM, "id": name}, lines)


def _find_hardware(cluster: Cluster, asked: str) -> str:
    """Return the hardware that a job is planned for: the machines' own is found out there."""
    if asked != "auto":
        return asked
    return f"gpu:{cluster.gpus}" if cluster.gpus else "gpu" if "gpu" in (cluster.gres or "") else "cpu"


@click.command("reproduce")
@option.run
@click.option("-o", "--output", type=option.PATH, help="The new run's folder (default: in the runs).")
@click.option("--anyway", is_flag=True, help="Go on although data or model have changed since.")
@click.option("--dry-run", is_flag=True, help="Only say what has changed since.")
@option.trusted_run
@_warm_option
@prints("reproduce")
def reproduce_command(run: str, anyway: bool, dry_run: bool, as_json: bool, **options: Any) -> Result:
    """Run RUN once more, with the same commands, and say whether the same came out.

    Exit code 0: the same bytes, or no measurable difference. Exit code 8: another result. Interrupted, it goes on with
    `orch resume`.
    """
    from orchestrator.report.reproduction import begin_rerun

    asked = Asked(as_json=as_json, **options)
    first = find_run(run, asked.runs)
    plan = load_own_plan(first, trust_run=asked.trust_run or dry_run)
    folder = asked.output.absolute() if asked.output else None
    rerun = begin_rerun(first, plan, folder, asked.runs, may_run=not dry_run)
    differences = rerun.differences
    for item in differences[:_MOST_SHOWN]:
        say(f"changed since: {item}", err=True)
    if len(differences) > _MOST_SHOWN:
        say(f"changed since: {len(differences) - _MOST_SHOWN} more, in reproduction.json", err=True)
    if dry_run:
        data = {"run": str(first.root), "differences": list(map(str, differences))}
        return Result(data, () if differences else ("nothing has changed since",))
    changed = [item for item in differences if item.is_input]
    if changed and not anyway:
        hint = "bring back what the run was made with, or say --anyway"
        raise PreflightError.from_problems([Problem(f"it has changed since: {item}", hint) for item in changed])
    return _finish_rerun(rerun.plan, rerun.write(), asked)


def _supervise(plan: Plan, run: RunDir, asked: Asked) -> int:
    """Run every stage of a plan that is not done, telling its progress; return the exit code."""
    from orchestrator.cli.progress import listening
    from orchestrator.run.launching import Residents, find_imports
    from orchestrator.run.loop import run_plan

    say(f"run folder: {run.root}", err=True)
    warmed = Residents(find_imports(plan)) if asked.warm else nullcontext()
    with listening(plan, run, quiet=asked.as_json) as hear, warmed as residents:
        return run_plan(plan, run, listener=hear, residents=residents, reusable_runs=find_others(run)).exit_code


def _finish(plan: Plan, run: RunDir, asked: Asked) -> Result:
    exit_code = _supervise(plan, run, asked)
    report = load_run_object(run.report_json)
    if asked.open_report:
        click.launch(str(run.report_html))
    data = {"run": str(run.root), "exit_code": exit_code, "report": report}
    return Result(data, verdict_lines(run, report), exit_code)


def _finish_rerun(plan: Plan, second: RunDir, asked: Asked) -> Result:
    """Run what is not done of a run that repeats another, and compare the two."""
    from orchestrator.report.reproduction import finish_rerun

    _supervise(plan, second, asked)
    result = finish_rerun(second)
    width = max(len(finding.what) for finding in result.findings)
    lines = [
        f"\nreproduced: {_OUTCOMES.get(result.outcome, result.outcome)}",
        *(f"  {'=' if item.same else '≠'} {item.what:<{width}}  {item.words}" for item in result.findings),
        f"  first   {result.first}\n  second  {result.second}",
    ]
    return Result(asdict(result), lines, 0 if result.reproduced else GateMissedError.exit_code)
