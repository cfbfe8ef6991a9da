"""orch reproduce: run a finished run once more, from its own plan, and compare."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from orchestrator.cli import exit_with
from orchestrator.cli.options import as_json, runs_option, trust_run_option
from orchestrator.cli.output import print_json
from orchestrator.errors import GateMissedError, PreflightError, Problem
from orchestrator.machine.rundir import RunDir
from orchestrator.machine.terminal import say
from orchestrator.recipe.plan import Plan
from orchestrator.report.reproduction import Difference, Reproduction

_MOST_SHOWN = 12


@click.command("reproduce")
@click.argument("run", default="last")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="The new run's folder (default: in the runs).")
@click.option("--anyway", is_flag=True, help="Go on although data or model have changed since.")
@click.option("--dry-run", is_flag=True, help="Only say what has changed since.")
@trust_run_option
@runs_option
@as_json
def reproduce_command(
    run: str, output: Path | None, anyway: bool, dry_run: bool, trust_run: bool, runs: Path, as_json: bool
) -> None:
    """Run RUN once more, with the same commands, and say whether the same came out.

    Exit code 0: the same bytes, or no measurable difference. Exit code 8: another result. Interrupted, it goes on with
    `orch resume`.
    """
    from orchestrator.report.reproduction import begin_rerun
    from orchestrator.run.folder import find_run, load_own_plan

    first = find_run(run, runs)
    plan = load_own_plan(first, trust_run=trust_run or dry_run)
    rerun = begin_rerun(first, plan, output.absolute() if output else None, runs, may_run=not dry_run)
    _tell(rerun.differences)
    changed = [item for item in rerun.differences if item.is_input]
    if dry_run:
        if as_json:
            print_json("reproduce", {"run": str(first.root), "differences": [str(item) for item in rerun.differences]})
        elif not rerun.differences:
            say("nothing has changed since")
        return
    if changed and not anyway:
        hint = "bring back what the run was made with, or say --anyway"
        raise PreflightError.from_problems([Problem(f"it has changed since: {item}", hint) for item in changed])
    finish_again(rerun.plan, rerun.write(), as_json=as_json)


def finish_again(plan: Plan, second: RunDir, *, as_json: bool) -> None:
    """Run what is not done of a run that repeats another, compare the two, and end with the code for the outcome."""
    from orchestrator.cli.supervising import supervise
    from orchestrator.report.reproduction import finish_rerun

    supervise(plan, second, quiet=as_json)
    result = finish_rerun(second)
    if as_json:
        print_json("reproduce", result.to_json())
    else:
        _print(result)
    exit_with(0 if result.is_reproduced else GateMissedError.exit_code)


def _tell(differences: Sequence[Difference]) -> None:
    for item in differences[:_MOST_SHOWN]:
        say(f"changed since: {item}", err=True)
    if len(differences) > _MOST_SHOWN:
        say(f"changed since: {len(differences) - _MOST_SHOWN} more, in reproduction.json", err=True)


def _print(result: Reproduction) -> None:
    words = {"identical": "the same, bit for bit", "different": "another result"}
    say(f"\nreproduced: {words.get(result.outcome, result.outcome)}")
    width = max(len(finding.what) for finding in result.findings)
    for finding in result.findings:
        say(f"  {'=' if finding.same else '≠'} {finding.what:<{width}}  {finding.words}")
    say(f"  first   {result.first}\n  second  {result.second}")
