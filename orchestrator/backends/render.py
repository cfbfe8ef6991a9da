"""Strict Jinja → shell text → argument lists. Renders, never writes.

Every `{{ }}` in a command template passes `quote`, so that a template's author cannot forget to: text is inert in bash,
lists expand, and None is an error. The argument list that runs is what shlex reads from that text.
"""

from __future__ import annotations

import json
import shlex
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.errors import RenderError
from orchestrator.machine.places import find_beside
from orchestrator.machine.process import SAFE_PATH
from orchestrator.recipe.plan import Command, File, Plan, Stage

if TYPE_CHECKING:
    from jinja2 import Environment


class ShellText(str):
    """Text that is quoted already."""

    __slots__ = ()


def quote(value: Any) -> ShellText:
    """Return `value` as bash words: text quoted, lists expanded.

    Raises RenderError for what no command line carries.
    """
    if isinstance(value, ShellText):
        return value
    if isinstance(value, list | tuple):
        return ShellText(" ".join(quote(item) for item in value))
    if isinstance(value, bool | int | float):
        return ShellText(value)
    if not isinstance(value, str):
        raise RenderError(f"a command line cannot hold {value!r}", hint="give the value, or leave the key out")
    if "\0" in value:
        raise RenderError(f"a command line cannot hold the NUL character in {value!r}", hint="remove it")
    return ShellText(shlex.quote(value))


def flag(name: str, value: Any) -> ShellText:
    """Return `--name value` as bash words.

    Text that begins with a dash is bound with `=`, or argparse would take it for a flag.
    """
    option = quote(f"--{name}")
    if isinstance(value, list | tuple):
        if not value:
            raise RenderError(f"{name} is an empty list", hint="leave the key out instead")
        dashed = [item for item in value if str(item).startswith("-")]
        if dashed and len(value) > 1:
            raise RenderError(f"{name} lists {dashed[0]!r}, which begins with a dash", hint="a list cannot carry it")
        return flag(name, value[0]) if dashed else ShellText(f"{option} {quote(value)}")
    if isinstance(value, dict):
        value = json.dumps(value, ensure_ascii=False, sort_keys=True)
    if isinstance(value, str) and value.startswith("-"):
        return ShellText(f"{option}={quote(value)}")
    return ShellText(f"{option} {quote(value)}")


def find_templates() -> Path:
    """Return the folder of templates: inside the wheel, or beside the package in a checkout."""
    return find_beside("templates")


@cache
def _environment() -> Environment:
    from jinja2 import FileSystemLoader, StrictUndefined, Undefined
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    def finalize(value: Any) -> ShellText:
        # Reading a strict undefined raises with the name that is missing, which says more than "cannot hold Undefined".
        return quote(str(value) if isinstance(value, Undefined) else value)

    environment = ImmutableSandboxedEnvironment(
        loader=FileSystemLoader(find_templates()),
        undefined=StrictUndefined,
        finalize=finalize,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,  # shell text, not HTML: `quote` is its escape
    )
    environment.globals["flag"] = flag
    return environment


def render_text(template: str, **values: Any) -> str:
    """Return one rendered template. Raises RenderError for undefined names and for values that cannot be carried."""
    from jinja2 import TemplateError

    try:
        return _environment().get_template(template).render(**values)
    except TemplateError as error:
        raise RenderError(f"{template}: {error}", hint="the template and its values do not fit") from error


def render_command(template: str, *, env: dict[str, str], cwd: str, **values: Any) -> Command:
    """Return the command that a template describes: one argument or flag a line, in bash words.

    No Python that it starts imports what lies in its working directory, unless `env` says otherwise.
    """
    argv = tuple(shlex.split(render_text(template, **values)))
    if not argv:
        raise RenderError(f"{template} renders to an empty command")
    return Command(argv, tuple(sorted({**SAFE_PATH, **env}.items())), cwd)


def format_command(command: Command) -> ShellText:
    """Return a command as bash text, one flag a line; running it equals running its argument list."""
    words = [f"{key}={shlex.quote(value)}" for key, value in command.env]
    lines = [" ".join(["env", *words])] if words else []
    line: list[str] = []
    for word in command.argv:
        if line and (word.startswith("--") or (word == "-m" and line[0].startswith("--"))):
            lines.append(" ".join(line))
            line = []
        line.append(shlex.quote(word))
    lines.append(" ".join(line))
    return ShellText(" \\\n  ".join(lines))


def render_stage_script(plan: Plan, stage: Stage) -> str:
    """Return the text of a stage's command.sh."""
    return render_text("run/command.sh.j2", plan=plan, stage=stage, command=format_command(stage.command))


def render_run_script(plan: Plan) -> str:
    """Return the text of run.sh: every stage, in order, without Orch's process."""
    commands = [(stage, format_command(stage.command)) for stage in plan.stages]
    return render_text("run/run.sh.j2", plan=plan, commands=commands, total=len(commands))


def render_files(plan: Plan) -> tuple[File, ...]:
    """Return every file of a run folder that is known before the run starts."""
    scripts = tuple(File(f"{stage.folder}/command.sh", render_stage_script(plan, stage)) for stage in plan.stages)
    return (File("run.sh", render_run_script(plan)), File("plan.json", plan.to_json()), *plan.files, *scripts)
