"""Commands on run folders: ls, show, logs, stop, compare, bundle. They read the folder only."""

from __future__ import annotations

import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from orchestrator.cli.options import as_json, runs_option
from orchestrator.cli.output import print_json
from orchestrator.machine.terminal import hand_on, say
from orchestrator.run.runs import RunSummary


@click.command("ls")
@runs_option
@as_json
def ls_command(runs: Path, as_json: bool) -> None:
    """List runs, newest first."""
    from orchestrator.run.runs import list_runs

    found = list_runs(runs)
    if as_json:
        print_json("ls", [_summary_data(run) for run in found])
        return
    if not found:
        say(f"no runs in {runs}", err=True)
    width = max((len(run.name) for run in found), default=0)
    for run in found:
        when = time.strftime("%Y-%m-%d %H:%M", time.localtime(run.started)) if run.started else "-"
        words = run.verdict or run.message or run.stage or ""
        say(f"{run.name:<{width}}  {run.status:<11}  {when:<16}  {words}".rstrip())


@click.command("show")
@click.argument("run", default="last")
@runs_option
@as_json
def show_command(run: str, runs: Path, as_json: bool) -> None:
    """Show RUN (a folder, a name, or `last`): its stages, times and verdict."""
    from orchestrator.run.folder import find_run, load_plan, load_run_object
    from orchestrator.run.runs import summarise
    from orchestrator.run.state import load_result

    folder = find_run(run, runs)
    plan, summary = load_plan(folder), summarise(folder)
    results = {stage.name: load_result(folder.stage(stage.name)) for stage in plan.stages}
    report = load_run_object(folder.report_json) if folder.report_json.exists() else None
    if as_json:
        stages = [
            {
                "name": stage.name,
                "title": stage.title,
                "seconds": result.seconds if (result := results[stage.name]) else None,
            }
            for stage in plan.stages
        ]
        print_json("show", {**_summary_data(summary), "stages": stages, "report": report})
        return
    from orchestrator.cli.progress import show_seconds
    from orchestrator.cli.run_commands import print_verdict

    say(f"{summary.name}: {summary.status}" + (f" ({summary.message})" if summary.message else ""))
    width = max((len(stage.name) for stage in plan.stages), default=0)
    for stage in plan.stages:
        result = results[stage.name]
        mark, words = ("✓", show_seconds(result.seconds)) if result else ("·", "")
        if not result and stage.name == summary.stage:
            mark, words = ("▸", "running") if summary.status == "running" else ("✗", summary.status)
        say(f"  {mark} {stage.name:<{width}}  {words}".rstrip())
    if report is not None:
        print_verdict(folder, report)


@click.command("logs")
@click.argument("run", default="last")
@click.argument("stage", required=False)
@click.option("-f", "--follow", is_flag=True, help="Go on until the run is over.")
@runs_option
@as_json
def logs_command(run: str, stage: str | None, follow: bool, runs: Path, as_json: bool) -> None:
    """Print the logs of RUN, of one STAGE (such as 04-train) or of all."""
    from orchestrator.run.folder import find_run
    from orchestrator.run.runs import follow_logs

    if as_json and follow:
        raise click.UsageError("--json goes without --follow: its envelope is printed when every line is known")
    if as_json:
        lines = [asdict(line) for line in follow_logs(find_run(run, runs), stage, follow=False)]
        print_json("logs", lines)
        return
    current = None
    exact = not sys.stdout.isatty()
    for line in follow_logs(find_run(run, runs), stage, follow=follow, exact=exact):
        if line.stage != current:
            current = line.stage
            say(f"── {current}", err=True)
        hand_on(line.text, nl=not exact)  # a file or a pipe gets the log's own bytes


@click.command("stop")
@click.argument("run", default="last")
@click.option("--now", is_flag=True, help="Kill the stage at once instead of asking it to end.")
@runs_option
@as_json
def stop_command(run: str, now: bool, runs: Path, as_json: bool) -> None:
    """Stop RUN; `orch resume` continues it."""
    from orchestrator.run.folder import find_run
    from orchestrator.run.runs import stop_run

    folder = find_run(run, runs)
    done = stop_run(folder, now=now)
    if as_json:
        print_json("stop", {"run": str(folder.root), "done": done})
        return
    say(f"{folder.root.name}: {done}")


@click.command("compare")
@click.argument("first")
@click.argument("second")
@runs_option
@as_json
def compare_command(first: str, second: str, runs: Path, as_json: bool) -> None:
    """Compare the tuned models of two runs that were measured on the same data, query by query."""
    from orchestrator.report.compare_runs import compare_runs
    from orchestrator.run.folder import find_run, understood

    one, two = find_run(first, runs), find_run(second, runs)
    with understood(one.metrics_json), understood(two.metrics_json):
        result = compare_runs(one, two)
    if as_json:
        print_json("compare", result.to_json())
    else:
        say(result.to_text())


@click.command("bundle")
@click.argument("run", default="last")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="The archive (default: RUN.zip, here).")
@click.option("--with-data", is_flag=True, help="Also what quotes your rows: data, scores, report.html.")
@runs_option
@as_json
def bundle_command(run: str, output: Path | None, with_data: bool, runs: Path, as_json: bool) -> None:
    """Pack RUN for an issue: recipe, commands, logs, versions, measures; no weights, and no rows of yours."""
    from orchestrator.run.bundle import write_bundle
    from orchestrator.run.folder import find_run

    folder = find_run(run, runs)
    bundle = write_bundle(folder, output or Path(f"{folder.root.name}.zip"), with_data=with_data)
    size = bundle.path.stat().st_size
    if as_json:
        files = [entry.path for entry in bundle.entries]
        print_json("bundle", {"path": str(bundle.path.absolute()), "bytes": size, "files": files})
        return
    left = f"{bundle.left_out} files ({_megabytes(bundle.left_out_bytes)}) are left out: weights, rows, caches"
    say(f"{bundle.path}: {len(bundle.entries)} files, {_megabytes(size)}. {left}.")
    say("Trainers may quote rows in their logs: look through them before you publish it.", err=True)


def _megabytes(count: int) -> str:
    return f"{count / 1e6:.1f} MB"


def _summary_data(run: RunSummary) -> dict[str, Any]:
    return {
        "name": run.name, "path": str(run.path), "status": run.status, "stage": run.stage, "started": run.started,
        "finished": run.finished, "message": run.message, "verdict": run.verdict,
    }  # fmt: skip
