"""Commands that run a plan: run and resume."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from orchestrator.cli import exit_with
from orchestrator.cli.options import (
    as_json,
    hardware_option,
    resolve_hardware,
    runs_option,
    set_option,
    smoke_option,
    trust_run_option,
)
from orchestrator.cli.output import format_advice, print_json
from orchestrator.cli.supervising import supervise
from orchestrator.machine.rundir import RunDir
from orchestrator.machine.terminal import say
from orchestrator.recipe.plan import Plan

open_option = click.option("--open", "open_report", is_flag=True, help="Open the report in a browser at the end.")


@click.command("run")
@click.argument("recipe", type=click.Path(path_type=Path))
@click.option("-o", "--output", type=click.Path(path_type=Path), help="The run folder (default: runs/NAME-TIME-ID).")
@set_option
@smoke_option
@hardware_option
@trust_run_option
@runs_option
@open_option
@as_json
def run_command(
    recipe: Path,
    output: Path | None,
    overrides: tuple[str, ...],
    smoke: bool,
    hardware: str,
    trust_run: bool,
    runs: Path,
    open_report: bool,
    as_json: bool,
) -> None:
    """Take RECIPE from data to verdict. Exit code 8 says that the gate was missed; Ctrl-C leaves a run to resume."""
    from orchestrator.checks import require_runnable
    from orchestrator.plan.jobs import build_job, new_run_dir
    from orchestrator.plan.load import load_recipe
    from orchestrator.plan.pipeline import build_plan
    from orchestrator.run.folder import create_run
    from orchestrator.run.provenance import Asked

    loaded = load_recipe(recipe, overrides)
    folder = output.absolute() if output else new_run_dir(runs, loaded.recipe.name, smoke=smoke)
    found = resolve_hardware(hardware, smoke=smoke)
    job = build_job(loaded, folder, found, smoke=smoke)
    plan = build_plan(job)
    advice = require_runnable(job, plan)
    say(f"planned for: {found}", err=True)
    for problem in advice:
        say(format_advice(problem), err=True)
    run = create_run(plan, Asked(recipe, overrides, hardware), found, trust_run=trust_run)
    _finish(plan, run, command="run", open_report=open_report, as_json=as_json)


@click.command("resume")
@click.argument("run", default="last")
@trust_run_option
@runs_option
@open_option
@as_json
def resume_command(run: str, trust_run: bool, runs: Path, open_report: bool, as_json: bool) -> None:
    """Continue RUN (a folder, a name, or `last`): finished stages are skipped, training goes on from its checkpoint."""
    from orchestrator.cli.reproduce_command import finish_again
    from orchestrator.report.reproduction import is_rerun
    from orchestrator.run.folder import adopt_run, find_run, load_own_plan

    found = find_run(run, runs)
    plan = load_own_plan(found, trust_run=trust_run)
    if trust_run:
        adopt_run(found)
    if is_rerun(found):
        finish_again(plan, found, as_json=as_json)
    _finish(plan, found, command="resume", open_report=open_report, as_json=as_json)


def _finish(plan: Plan, run: RunDir, *, command: str, open_report: bool, as_json: bool) -> None:
    from orchestrator.run.folder import load_run_object

    outcome = supervise(plan, run, quiet=as_json)
    report = load_run_object(run.report_json)
    if as_json:
        print_json(command, {"run": str(run.root), "exit_code": outcome.exit_code, "report": report})
    else:
        print_verdict(run, report)
    if open_report:
        click.launch(str(run.report_html))
    exit_with(outcome.exit_code)


def print_verdict(run: RunDir, report: dict[str, Any]) -> None:
    """Print a finished run's verdict and where things lie."""
    from orchestrator.machine.language import current_language
    from orchestrator.report.publish import build_lines
    from orchestrator.run.folder import understood

    with understood(run.report_json):
        lines = build_lines(report, current_language())
    say("\n" + "\n".join(lines))
    if run.model.is_dir():
        say(f"model:  {run.model}")
    say(f"report: {run.report_html}")
