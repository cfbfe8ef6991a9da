"""Commands on the folders of runs: list, show, follow and compare them, stop one, name, send and pack what it made."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from orchestrator.cli import options as option
from orchestrator.cli.output import Result, prints
from orchestrator.errors import StageFailedError
from orchestrator.machine.rundir import RunDir
from orchestrator.machine.terminal import current_language, hand_on, say
from orchestrator.run.folder import find_run, list_tags, load_plan, load_run_object, understood
from orchestrator.run.runs import RunSummary, follow_logs, list_runs, stop_run, summarise
from orchestrator.run.slurm import add_jobs, find_job_id, is_coming
from orchestrator.run.slurm import stop as stop_job
from orchestrator.run.state import load_result
from orchestrator.run.sweep import is_over, is_sweep, load_sweep, trial_dir


def verdict_lines(run: RunDir, report: dict[str, Any]) -> Iterator[str]:
    """Yield a finished run's verdict and where things are."""
    from orchestrator.report.wording import build_lines

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
            yield from verdict_lines(folder, report)

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
    from orchestrator.report.compare_runs import compare_runs, format_comparison

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
