"""argv → one call → text or JSON → exit code; the only catcher of OrchError."""

from __future__ import annotations

import importlib
import os
import sys
from typing import Any

import click

from orchestrator import __version__
from orchestrator.errors import InterruptedRunError, OrchError

# command: (module under orchestrator.cli, one line of help). Modules load when their command runs: help stays fast.
_COMMANDS = {
    "run": ("run_commands", "Data → baseline → train → merge → package → evaluate → report."),
    "resume": ("run_commands", "Continue a run from its last checkpoint; finished stages are skipped."),
    "render": ("recipe_commands", "Show every command and file of a recipe; run nothing."),
    "check": ("recipe_commands", "Check a recipe: every problem at once."),
    "init": ("recipe_commands", "Write a commented starter recipe."),
    "schema": ("recipe_commands", "Print the recipe's JSON Schema, for editors."),
    "data": ("data_commands", "Check, split, convert and sample data files."),
    "ls": ("folder_commands", "List runs."),
    "show": ("folder_commands", "Show one run: stages, times, verdict."),
    "logs": ("folder_commands", "Print a run's logs; -f follows them."),
    "stop": ("folder_commands", "Stop a run; it can be resumed."),
    "compare": ("folder_commands", "Compare two runs, query by query."),
    "reproduce": ("reproduce_command", "Run a finished run once more, and say whether the same came out."),
    "bundle": ("folder_commands", "Pack what an issue needs of a run into one archive, without weights."),
    "evaluate": ("evaluate_command", "Measure any models on any data, without a recipe."),
    "predict": ("predict_command", "Ask a run's packaged model: scores, similarities or answers."),
    "serve": ("serve_commands", "Serve a packaged model over HTTP, or check that a server gives its numbers."),
    "merge": ("merge_command", "Merge a checkpoint of a run, or an adapter, into a whole model."),
}


class _LazyGroup(click.Group):
    """A group that imports a command's module when the command is used."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            import difflib

            near = difflib.get_close_matches(cmd_name, _COMMANDS, n=1)
            ctx.fail(f"no such command: {cmd_name}" + (f"; did you mean {near[0]}?" if near else ""))
        module = importlib.import_module(f"orchestrator.cli.{_COMMANDS[cmd_name][0]}")
        command: click.Command = getattr(module, f"{cmd_name}_command")
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in _COMMANDS.items()])


@click.group(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="orch")
def orch() -> None:
    """Fine-tune rerankers, embedding models and LLMs with the native tools: one recipe, one proven model."""


def main(argv: list[str] | None = None) -> None:
    """Run the command line and exit with its code; every failure of the user's becomes one clear message."""
    arguments = sys.argv[1:] if argv is None else argv
    try:
        code = orch.main(arguments, prog_name="orch", standalone_mode=False)
    except OrchError as error:
        from orchestrator.cli.output import print_error

        print_error(error, as_json="--json" in arguments)
        code = error.exit_code
    except click.ClickException as error:
        error.show()
        code = error.exit_code
    except (click.Abort, KeyboardInterrupt):
        click.echo("interrupted", err=True)
        code = InterruptedRunError.exit_code
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python complains once more at exit
        code = 141
    except Exception as error:  # noqa: BLE001  (the boundary: what is left is a bug)
        code = _report_bug(error)
    sys.exit(code if isinstance(code, int) else 0)


def _report_bug(error: Exception) -> int:
    import tempfile
    import traceback

    descriptor, path = tempfile.mkstemp(prefix="orch-bug-", suffix=".txt")
    with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
        stream.write(f"orch {__version__}, Python {sys.version}\n{traceback.format_exc()}")
    click.echo(f"a bug in Orch: {type(error).__name__}: {error}\n    the traceback is kept in {path}", err=True)
    return OrchError.exit_code


def exit_with(code: int) -> Any:
    """End the current command with an exit code."""
    raise click.exceptions.Exit(code)
