"""Commands on run folders: ls, show, logs, stop, compare, predict. They read the folder only, and predict scores."""

from __future__ import annotations

import json
import sys
import time
from typing import TYPE_CHECKING, Any

import click

from orchestrator.cli.options import as_json, runs_option
from orchestrator.cli.output import print_json
from orchestrator.errors import RunFolderError, StageFailedError

if TYPE_CHECKING:
    from pathlib import Path


@click.command("ls")
@runs_option
@as_json
def ls_command(runs: Path, as_json: bool) -> None:
    """List runs, newest first."""
    from orchestrator.supervise.runs import list_runs

    found = list_runs(runs)
    if as_json:
        print_json("ls", [_summary_data(run) for run in found])
        return
    if not found:
        click.echo(f"no runs in {runs}", err=True)
    width = max((len(run.name) for run in found), default=0)
    for run in found:
        when = time.strftime("%Y-%m-%d %H:%M", time.localtime(run.started)) if run.started else "-"
        say = run.verdict or run.message or run.stage or ""
        click.echo(f"{run.name:<{width}}  {run.status:<11}  {when:<16}  {say}".rstrip())


@click.command("show")
@click.argument("run", default="last")
@runs_option
@as_json
def show_command(run: str, runs: Path, as_json: bool) -> None:
    """Show RUN (a folder, a name, or `last`): its stages, times and verdict."""
    from orchestrator.launch import find_run, load_plan
    from orchestrator.supervise.runs import summarise
    from orchestrator.supervise.state import load_result

    folder = find_run(run, runs)
    plan, summary = load_plan(folder), summarise(folder)
    results = {stage.name: load_result(folder.stage(stage.name)) for stage in plan.stages}
    report = json.loads(folder.report_json.read_text(encoding="utf-8")) if folder.report_json.exists() else None
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

    click.echo(f"{summary.name}: {summary.status}" + (f" ({summary.message})" if summary.message else ""))
    width = max(len(stage.name) for stage in plan.stages)
    for stage in plan.stages:
        result = results[stage.name]
        mark, words = ("✓", show_seconds(result.seconds)) if result else ("·", "")
        if not result and stage.name == summary.stage:
            mark, words = ("▸", "running") if summary.status == "running" else ("✗", summary.status)
        click.echo(f"  {mark} {stage.name:<{width}}  {words}".rstrip())
    if report:
        print_verdict(folder, report)


@click.command("logs")
@click.argument("run", default="last")
@click.argument("stage", required=False)
@click.option("-f", "--follow", is_flag=True, help="Go on until the run is over.")
@runs_option
def logs_command(run: str, stage: str | None, follow: bool, runs: Path) -> None:
    """Print the logs of RUN, of one STAGE (such as 04-train) or of all."""
    from orchestrator.launch import find_run
    from orchestrator.supervise.runs import follow_logs

    current = None
    for line in follow_logs(find_run(run, runs), stage, follow=follow):
        if line.stage != current:
            current = line.stage
            click.echo(f"── {current}", err=True)
        click.echo(line.text)


@click.command("stop")
@click.argument("run", default="last")
@click.option("--now", is_flag=True, help="Kill the stage at once instead of asking it to end.")
@runs_option
def stop_command(run: str, now: bool, runs: Path) -> None:
    """Stop RUN; `orch resume` continues it."""
    from orchestrator.launch import find_run
    from orchestrator.supervise.runs import stop_run

    folder = find_run(run, runs)
    click.echo(f"{folder.root.name}: {stop_run(folder, now=now)}")


@click.command("compare")
@click.argument("first")
@click.argument("second")
@runs_option
@as_json
def compare_command(first: str, second: str, runs: Path, as_json: bool) -> None:
    """Compare the tuned models of two runs that were measured on the same data, query by query."""
    from orchestrator.launch import find_run
    from orchestrator.report.compare_runs import compare_runs

    result = compare_runs(find_run(first, runs), find_run(second, runs))
    if as_json:
        print_json("compare", result.to_json())
    else:
        click.echo(result.to_text())


@click.command("predict")
@click.argument("run", default="last")
@click.option("-q", "--query", help="The query.")
@click.option("-d", "--document", "documents", multiple=True, help="A document; may be repeated.")
@runs_option
@as_json
def predict_command(run: str, query: str | None, documents: tuple[str, ...], runs: Path, as_json: bool) -> None:
    """Score documents for a query with RUN's packaged model, as a service would: best first.

    Without --query, pairs are read from stdin as JSON Lines: {"query": …, "document": …}.
    """
    from orchestrator.launch import find_run, load_plan
    from orchestrator.process import run as run_process

    folder = find_run(run, runs)
    if not (folder.model / "scoring.json").exists():
        raise RunFolderError(
            f"{folder.root.name} has no packaged model yet", hint=f"finish it: orch resume {folder.root}"
        )
    if query is not None and not documents:
        raise click.UsageError("give at least one --document")
    pairs = [{"query": query, "document": text} for text in documents] if query is not None else _read_pairs()
    package = load_plan(folder).stage("package")
    if package is None:
        raise RunFolderError(f"{folder.root.name} packages no model", hint="its recipe says merge: false")
    python, workers = package.command.argv[:2]
    done = run_process(
        (python, workers, "predict", "--model", str(folder.model)),
        3600.0,
        env=dict(package.command.env),
        stdin="".join(json.dumps(pair, ensure_ascii=False) + "\n" for pair in pairs),
    )
    if done.exit_code != 0:
        raise StageFailedError("the model cannot be scored", hint=done.stderr.strip()[-2000:] or None)
    scores = [json.loads(line)["score"] for line in done.stdout.splitlines() if line.startswith("{")]
    rows = [{**pair, "score": score} for pair, score in zip(pairs, scores, strict=True)]
    if query is not None:
        rows.sort(key=lambda row: -float(row["score"]))
    if as_json:
        print_json("predict", rows)
        return
    for row in rows:
        click.echo(f"{float(row['score']):10.4f}  {row['document']}")


def _read_pairs() -> list[dict[str, Any]]:
    from orchestrator.errors import DataError, Where

    pairs = []
    for number, line in enumerate(sys.stdin, start=1):
        if not line.strip():
            continue
        try:
            pair = json.loads(line)
            pairs.append({"query": str(pair["query"]), "document": str(pair["document"])})
        except (ValueError, KeyError, TypeError):
            hint = 'a line reads {"query": "…", "document": "…"}'
            raise DataError("not a pair", hint=hint, where=Where("<stdin>", number)) from None
    if not pairs:
        raise DataError("no pairs on stdin", hint="give --query and --document")
    return pairs


def _summary_data(run: Any) -> dict[str, Any]:
    return {
        "name": run.name, "path": str(run.path), "status": run.status, "stage": run.stage, "started": run.started,
        "finished": run.finished, "message": run.message, "verdict": run.verdict,
    }  # fmt: skip
