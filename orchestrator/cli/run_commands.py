"""Commands on runs: run, sweep, resume, reproduce, stop; and what only reads them: ls, show, logs, compare, bundle."""

from __future__ import annotations

import os
import shlex
import sys
import time
from collections.abc import Iterator
from contextlib import nullcontext, suppress
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from orchestrator.cli import options as option
from orchestrator.cli.output import Result, format_advice, prints, tell
from orchestrator.errors import GateMissedError, OrchError, PreflightError, Problem, RecipeError, StageFailedError
from orchestrator.machine.rundir import RunDir
from orchestrator.machine.terminal import current_language, hand_on, say, say_lines
from orchestrator.recipe.plan import Plan
from orchestrator.run.folder import (
    adopt_run,
    create_run,
    find_run,
    list_tags,
    load_own_plan,
    load_plan,
    load_run_object,
    require_same_recipe,
    understood,
)
from orchestrator.run.runs import RunSummary, follow_logs, list_runs, stop_run, summarise
from orchestrator.run.slurm import SLURM, add_jobs, find_job_id, hand_over, is_coming, resubmit, submit
from orchestrator.run.slurm import stop as stop_job
from orchestrator.run.state import find_state, load_result, wait_for_lost_holder
from orchestrator.run.sweep import Sweep, find_others, is_over, is_sweep, load_sweep, trial_dir, write_sweep

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
    from orchestrator.run.again import TRIES, judge

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
    return Result(data, _verdict_lines(folder, report), state.exit_code or 0)


def _resume(run: str, asked: Asked) -> Result:
    from orchestrator.recipe.schema import Launch
    from orchestrator.report.reproduction import is_rerun
    from orchestrator.run.again import find_scheduler

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
    from orchestrator.report.compare_runs import choose_trial
    from orchestrator.report.wording import format_sweep

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
    from orchestrator.run.again import AGAIN

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
        return run_plan(plan, run, listener=hear, residents=residents, others=find_others(run)).exit_code


def _finish(plan: Plan, run: RunDir, asked: Asked) -> Result:

    exit_code = _supervise(plan, run, asked)
    report = load_run_object(run.report_json)
    if asked.open_report:
        click.launch(str(run.report_html))
    data = {"run": str(run.root), "exit_code": exit_code, "report": report}
    return Result(data, _verdict_lines(run, report), exit_code)


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


def _verdict_lines(run: RunDir, report: dict[str, Any]) -> Iterator[str]:
    """Yield a finished run's verdict and where things are."""
    from orchestrator.report.publish import build_lines

    with understood(run.report_json):
        lines = build_lines(report, current_language())
    yield "\n" + "\n".join(lines)
    if run.model.is_dir():
        yield f"model:  {run.model}"
    yield f"report: {run.report_html}"


@click.command("ls")
@click.option("--models", is_flag=True, help="Packaged models only, with their tags and what each was made of.")
@click.option("--html", type=option.PATH, help="Write the page of `orch board` to this file instead.")
@option.runs
@prints("ls")
def ls_command(models: bool, html: Path | None, runs: Path) -> Result:
    """List runs, newest first."""
    if models and html:
        raise click.UsageError("--models and --html go one at a time")
    if html:
        return _write_board((runs,), html)
    if models:
        from orchestrator.serving.registry import format_models, list_models

        packaged = list_models(runs)
        none = (f"no packaged models in {runs}",)
        return Result(packaged, format_models(packaged) if packaged else none)
    found = add_jobs(list_runs(runs))

    def lines() -> Iterator[str]:
        width = max((len(run.name) for run in found), default=0)
        for run in found:
            when = time.strftime("%Y-%m-%d %H:%M", time.localtime(run.started)) if run.started else "-"
            words = run.verdict or run.message or run.stage or ""
            yield f"{run.name:<{width}}  {run.status:<11}  {when:<16}  {words}".rstrip()

    if not found:
        return Result([], lambda: say(f"no runs in {runs}", err=True))
    return Result([_summary_data(run) for run in found], lines())


@click.command("board")
@click.argument("folders", nargs=-1, type=option.PATH, metavar="[FOLDER]...")
@click.option("-o", "--output", type=option.PATH, help="The page (default: board.html).")
@click.option("--serve", is_flag=True, help="Serve it on 127.0.0.1 until Ctrl-C, renewed while runs go on.")
@click.option("--port", type=click.IntRange(0, 65535), default=0, help="With --serve (default: the system's choice).")
@option.runs
@prints("board")
def board_command(
    folders: tuple[Path, ...], output: Path | None, serve: bool, port: int, runs: Path, as_json: bool
) -> Result:
    """Show the runs and sweeps of each FOLDER (default: all runs) on one page that needs no network.

    It shows measures with their intervals, settings against measures, and losses over each other; and it leads to each
    run's report. Served, it answers this machine alone, and changes nothing.
    """
    if not serve:
        if port:
            raise click.UsageError("--port goes with --serve")
        return _write_board(folders or (runs,), output or Path("board.html"))
    if output or as_json:
        raise click.UsageError("--serve goes without -o and --json")
    from orchestrator.report.board import LOOPBACK, BoardServer

    def show() -> None:
        with BoardServer(folders or (runs,), port) as server, suppress(KeyboardInterrupt):
            say(f"http://{LOOPBACK}:{server.server_port}/ (Ctrl-C ends it)")
            server.serve_forever()

    return Result(None, show)


def _write_board(folders: tuple[Path, ...], output: Path) -> Result:
    from orchestrator.report.board import write_board
    from orchestrator.report.wording import counted

    count = write_board(folders, output)
    return Result({"path": str(output.absolute()), "runs": count}, (f"{output}: {counted(count, 'run')}",))


@click.command("tag")
@click.argument("run", required=False, shell_complete=option.complete_runs)
@click.argument("name", required=False)
@click.option("--list", "lists", is_flag=True, help="List tags.")
@click.option("-d", "--delete", metavar="NAME", help="Remove a tag; its run stays.")
@click.option("--even-if-worse", is_flag=True, help="Tag a model that its own run found worse, or that missed a gate.")
@option.runs
@prints("tag")
def tag_command(
    run: str | None, name: str | None, lists: bool, delete: str | None, even_if_worse: bool, runs: Path
) -> Result:
    """Let NAME, such as production, mean the packaged model of RUN. A tag that exists moves.

    Tags are files in RUNS/tags. Every command that takes a run takes a tag.
    """
    from orchestrator.serving.registry import remove_tag, set_tag

    if (run is not None) + lists + (delete is not None) != 1 or (run is None) != (name is None):
        raise click.UsageError("say RUN NAME, or --list, or -d NAME")
    if lists:
        tags = {tag: str(folder.root) for tag, folder in list_tags(runs).items()}
        lines = [f"{tag}  {folder}" for tag, folder in tags.items()]
        return Result(tags, lines or (f"no tags in {runs}",))
    if delete is not None:
        remove_tag(delete, runs)
        return Result({"removed": delete}, (f"{delete}: removed",))
    tag, before = set_tag(str(name), find_run(str(run), runs), runs, even_if_worse=even_if_worse)
    words = f" (before: {before})" if before not in {None, tag.run} else ""
    return Result({"name": name, **asdict(tag), "before": before}, (f"{name}: {tag.run}{words}",))


@click.command("show")
@option.run
@option.runs
@prints("show")
def show_command(run: str, runs: Path) -> Result:
    """Show RUN (a folder, a name, or `last`): its stages, times and verdict."""
    from orchestrator.cli.progress import show_seconds

    folder = find_run(run, runs)
    [summary] = add_jobs([summarise(folder)])
    begun = folder.plan_json.exists() or find_job_id(folder) is None
    planned = load_plan(folder).stages if begun else ()
    results = {stage.name: load_result(folder.stage(stage.name)) for stage in planned}
    report = load_run_object(folder.report_json) if folder.report_json.exists() else None

    def lines() -> Iterator[str]:
        yield f"{summary.name}: {summary.status}" + (f" ({summary.message})" if summary.message else "")
        width = max(map(len, results), default=0)
        for name, result in results.items():
            mark, words = ("✓", show_seconds(result.seconds)) if result else ("·", "")
            if not result and name == summary.stage:
                mark, words = ("▸", "running") if summary.status == "running" else ("✗", summary.status)
            yield f"  {mark} {name:<{width}}  {words}".rstrip()
        if report is not None:
            yield from _verdict_lines(folder, report)

    times = {name: result.seconds if result else None for name, result in results.items()}
    stages = [{"name": stage.name, "title": stage.title, "seconds": times[stage.name]} for stage in planned]
    return Result({**_summary_data(summary), "stages": stages, "report": report}, lines())


@click.command("logs")
@option.run
@click.argument("stage", required=False)
@click.option("-f", "--follow", is_flag=True, help="Go on until the run is over.")
@option.runs
@prints("logs")
def logs_command(run: str, stage: str | None, follow: bool, runs: Path, as_json: bool) -> Result:
    """Print the logs of RUN, of one STAGE (such as 04-train) or of all."""
    if as_json and follow:
        raise click.UsageError("--json goes without --follow: its envelope is printed when every line is known")
    folder = find_run(run, runs)
    if as_json:
        return Result([asdict(line) for line in follow_logs(folder, stage, follow=False)])

    def show() -> None:
        current = None
        exact = not sys.stdout.isatty()
        for line in follow_logs(folder, stage, follow=follow, exact=exact, is_coming=is_coming):
            if line.stage != current:
                current = line.stage
                say(f"── {current}", err=True)
            hand_on(line.text, nl=not exact)  # a file or a pipe gets the log's own bytes

    return Result(None, show)


@click.command("stop")
@option.run
@click.option("--now", is_flag=True, help="Kill the stage at once instead of asking it to end.")
@option.runs
@prints("stop")
def stop_command(run: str, now: bool, runs: Path) -> Result:
    """Stop RUN, or every trial of a sweep; `orch resume` continues it."""
    if not is_sweep(root := Path(run)):
        folder = find_run(run, runs)
        done = _stop(folder, now=now)
        return Result({"run": str(folder.root), "done": done}, (f"{folder.root.name}: {done}",))
    trials = [trial for trial in load_sweep(root).trials if not is_over(trial) and trial_dir(root, trial).root.exists()]
    told = {trial.run: _stop(trial_dir(root, trial), now=now) for trial in trials}
    return Result(
        {"sweep": str(root), "done": told}, [f"{name}: {done}" for name, done in told.items()] or ["nothing runs"]
    )


def _stop(run: RunDir, *, now: bool) -> str:
    """End a run here or its job, and say in a sentence what was done."""
    job = find_job_id(run)
    return stop_job(run, job) if job else stop_run(run, now=now)


@click.command("compare")
@click.argument("first", shell_complete=option.complete_runs)
@click.argument("others", nargs=-1, required=True, metavar="OTHER...", shell_complete=option.complete_runs)
@option.runs
@prints("compare")
def compare_command(first: str, others: tuple[str, ...], runs: Path) -> Result:
    """Compare tuned models of runs that were measured on the same data with the first run's, query by query.

    With three runs or more the intervals hold for all of them at once, and the best one is named together with those
    that are not measurably worse.
    """
    from orchestrator.report.compare_runs import compare_runs
    from orchestrator.report.wording import format_comparison

    result = compare_runs(*(find_run(run, runs) for run in (first, *others)))
    return Result(result, (format_comparison(result),))


@click.command("track")
@click.argument("names", nargs=-1, required=True, metavar="RUN...", shell_complete=option.complete_runs)
@click.option("--to", metavar="NAME,...", help="Trackers, with commas (default: the recipe's).")
@click.option("--project", help="The project in each of them (default: the recipe's, or orch).")
@click.option("--python", type=option.PATH, help="The Python that has them (default: the run's).")
@option.runs
@prints("track")
def track_command(names: tuple[str, ...], runs: Path, **where: Any) -> Result:
    """Send finished runs to experiment trackers: settings, curves, verdict, report.

    A tracker does not get the curves that it has once more. Exit code 6: one of them did not take all.
    """
    from orchestrator.serving.track import send_run

    folders = [find_run(name, runs) for name in names]
    said = {str(run.root): send_run(run, **where) for run in folders}
    lines = [line for told in said.values() for line in told]
    return Result(said, lines, StageFailedError.exit_code if any(line.startswith("caution") for line in lines) else 0)


@click.command("bundle")
@option.run
@click.option("-o", "--output", type=option.PATH, help="The archive (default: RUN.zip, here).")
@click.option("--with-data", is_flag=True, help="Also what quotes your rows: data, scores, report.html.")
@option.runs
@prints("bundle")
def bundle_command(run: str, output: Path | None, with_data: bool, runs: Path) -> Result:
    """Pack RUN for an issue: recipe, commands, logs, versions, measures; no weights, and no rows of yours."""
    from orchestrator.run.bundle import write_bundle

    folder = find_run(run, runs)
    bundle = write_bundle(folder, output or Path(f"{folder.root.name}.zip"), with_data=with_data)
    size = bundle.path.stat().st_size

    def show() -> None:
        left = f"{bundle.left_out} files ({_megabytes(bundle.left_out_bytes)}) are left out: weights, rows, caches"
        say(f"{bundle.path}: {len(bundle.entries)} files, {_megabytes(size)}. {left}.")
        say("Trainers may quote rows in their logs: look through them before you publish it.", err=True)

    files = [entry.path for entry in bundle.entries]
    return Result({"path": str(bundle.path.absolute()), "bytes": size, "files": files}, show)


def _megabytes(count: int) -> str:
    return f"{count / 1e6:.1f} MB"


def _summary_data(run: RunSummary) -> dict[str, Any]:
    return {**asdict(run), "path": str(run.path)}
