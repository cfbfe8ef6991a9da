"""Commands on the machine: doctor says what it has and lacks, env builds an environment for a backend."""

from __future__ import annotations

import json
import shlex
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from orchestrator.backends import BACKENDS
from orchestrator.checks.doctor import Finding
from orchestrator.checks.environments import Environment
from orchestrator.cli import options as option
from orchestrator.cli.output import Result, format_advice, print_error, prints
from orchestrator.errors import OrchError, PreflightError, Problem
from orchestrator.machine.terminal import clean, say, say_lines
from orchestrator.plan.load import LoadedRecipe

_MARKS = {"ok": ("✓", "green"), "note": ("!", "yellow"), "missing": ("✗", "bold red")}
_PIPED_WIDTH = 160


@click.command("doctor")
@click.argument("recipe", type=option.PATH, required=False)
@option.python("The backends' own Python (default: launch.python of RECIPE, or all that are known).")
@option.overrides
@option.runs
@prints("doctor")
def doctor_command(recipe: Path | None, python: str | None, overrides: tuple[str, ...], runs: Path) -> Result:
    """Say what this machine has for a run (of RECIPE, or any) and what to install. Exit code 4: none could start.

    With RECIPE it ends as `orch run` would before its first stage.
    """
    from orchestrator.checks.doctor import can_start, examine

    backend: str | None = None
    downloads: tuple[str, ...] = ()
    refusal: OrchError | None = None
    advice: tuple[Problem, ...] = ()
    if recipe is not None:
        from orchestrator.plan.jobs import find_backend_python, find_downloads
        from orchestrator.plan.load import load_recipe

        asked = (*overrides, f"launch.python={json.dumps(python)}") if python else overrides
        loaded = load_recipe(recipe, asked)
        backend, downloads = loaded.recipe.backend, find_downloads(loaded)
        python = find_backend_python(loaded)
        refusal, advice = _ask(loaded, runs)
    findings = examine(runs, python=python, backend=backend, downloads=downloads)
    ready = can_start(findings) and refusal is None

    def show() -> None:
        _print_table(findings)
        what = str(recipe) if recipe else "a run"
        see = "what follows" if refusal else "✗"
        say(f"{what} could start" if ready else f"{what} cannot start: see {see}")
        if refusal:
            print_error(refusal, as_json=False)
        say_lines(map(format_advice, advice), err=True)

    problems = [asdict(problem) for problem in refusal.problems] if refusal else []
    data = {"ready": ready, "findings": [asdict(finding) for finding in findings], "problems": problems}
    data["advice"] = [{"message": problem.message, "hint": problem.hint} for problem in advice]
    return Result(data, show, 0 if ready else (refusal or PreflightError).exit_code)


def _ask(loaded: LoadedRecipe, runs: Path) -> tuple[OrchError | None, tuple[Problem, ...]]:
    """Return what `orch run` would end with before its first stage, or None and the advice that it would give."""
    from orchestrator.checks import require_runnable
    from orchestrator.machine.hardware import find_hardware
    from orchestrator.plan.jobs import build_job, new_run_dir
    from orchestrator.plan.pipeline import build_plan

    try:
        job = build_job(loaded, new_run_dir(runs, loaded.recipe.name), find_hardware())
        return None, require_runnable(job, build_plan(job))
    except OrchError as error:
        return error, ()


def _print_table(findings: tuple[Finding, ...]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(highlight=False)
    area = None
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    for finding in findings:
        if finding.area != area:
            area = finding.area
            table.add_row(Text(""), Text(clean(area), style="bold", no_wrap=True), Text(""))
        value = Text(clean(finding.value))
        if finding.remedy:
            value.append(clean("".join(f"\n→ {line}" for line in finding.remedy.splitlines())), style="cyan")
        mark, style = _MARKS[finding.state]
        table.add_row(Text(mark, style=style), Text(clean(f"  {finding.name}")), value)
    if console.is_terminal:
        console.print(table)
        return
    console = Console(highlight=False, width=_PIPED_WIDTH)
    with console.capture() as captured:
        console.print(table)
    say_lines(line.rstrip() for line in captured.get().splitlines())


@click.group("env")
def env_command() -> None:
    """Build an environment of its own for a backend, or list those that there are."""


@env_command.command("create")
@click.argument("backend", type=click.Choice(sorted(BACKENDS)))
@click.option("--path", type=option.PATH, help="The folder (default: BACKEND in the folder of all).")
@click.option("--python", help="The Python that it is built with (default: Orch's own).")
@click.option("--dry-run", is_flag=True, help="Print the commands; run nothing.")
@prints("env create")
def create_command(backend: str, path: Path | None, python: str | None, dry_run: bool) -> Result:
    """Build an environment for BACKEND with the tested versions, in a folder of its own.

    A mirror is set where pip reads it: pip config set global.index-url URL. What fails can be repeated.
    """
    from orchestrator.checks.environments import create_environment, environments_home, plan_environment

    folder = (path or environments_home() / backend).expanduser().absolute()
    plan = plan_environment(BACKENDS[backend], folder, python)
    commands = [shlex.join(command) for command in plan.commands]
    built = plan.environment if dry_run else create_environment(plan)
    lines = commands if dry_run else [f"  {name} {version}" for name, version in built.versions.items()]
    recipe = ["", "# in the recipe:", "launch:", f"  python: {built.python}"]
    return Result({**_to_data(built), "commands": commands}, [*lines, *recipe])


@env_command.command("list")
@prints("env list")
def list_command() -> Result:
    """List the environments that were built in the folder of all."""
    from orchestrator.checks.environments import environments_home, list_environments

    home = environments_home()
    if not (found := list_environments(home)):
        return Result([], lambda: say(f"no environments in {home}", err=True))
    states = {True: "complete", False: "not finished: the same `orch env create` goes on"}
    lines = [f"{one.folder.name:<24}  {one.backend:<22}  {states[one.complete]}  {one.python}" for one in found]
    return Result([_to_data(environment) for environment in found], lines)


def _to_data(environment: Environment) -> dict[str, Any]:
    return {
        "backend": environment.backend, "folder": str(environment.folder), "python": str(environment.python),
        "complete": environment.complete, "versions": environment.versions,
    }  # fmt: skip
