"""argv → one call → text or JSON → exit code; the only catcher of OrchError.

It is a command among others, with streams that the caller closed or nobody reads any more, and signals that end it.
A terminal that was closed answers every write with EIO, and a pipe without a reader with EPIPE. Neither may hide how a
command ended, nor put a traceback in the place of a message.
"""

from __future__ import annotations

import errno
import gc
import importlib
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from types import FrameType

import click

from orchestrator import __version__
from orchestrator.errors import InterruptedRunError, OrchError, PreflightError, TakenAwayError, Where

_OBJECTS = 100_000  # new ones before Python looks for circles among them: its 700 cost a tenth of the start
GONE_CODE = 141  # what a shell says of a program that SIGPIPE ended
_STDOUT, _STDERR = 1, 2
_GONE = frozenset({errno.EPIPE, errno.EIO})
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
# command: (module under orchestrator.cli, one line of help). Modules load when their command runs: help stays fast.
_COMMANDS = {
    "run": ("run_commands", "Data → baseline → train → merge → package → evaluate → report."),
    "sweep": ("run_commands", "Run a recipe in many settings, and choose one by what can be confirmed."),
    "resume": ("run_commands", "Continue a run from its last checkpoint; finished stages are skipped."),
    "submit": ("run_commands", "Hand a recipe to a cluster's engine: the same run, on its machines."),
    "render": ("recipe_commands", "Show every command and file of a recipe; run nothing."),
    "check": ("recipe_commands", "Check a recipe: every problem at once."),
    "init": ("recipe_commands", "Write a commented starter recipe, or the example recipes and their data."),
    "schema": ("recipe_commands", "Print the recipe's JSON Schema, for editors."),
    "data": ("data_commands", "Check, split, convert and sample data files."),
    "ls": ("folder_commands", "List runs."),
    "show": ("folder_commands", "Show one run: stages, times, verdict."),
    "logs": ("folder_commands", "Print a run's logs; -f follows them."),
    "stop": ("folder_commands", "Stop a run; it can be resumed."),
    "compare": ("folder_commands", "Compare runs, query by query."),
    "board": ("folder_commands", "Show runs and sweeps on one page, as a file or served on this machine."),
    "tag": ("folder_commands", "Name a run's packaged model, such as production; every command takes the name."),
    "track": ("folder_commands", "Send finished runs to experiment trackers: settings, curves, verdict, report."),
    "reproduce": ("run_commands", "Run a finished run once more, and say whether the same came out."),
    "bundle": ("folder_commands", "Pack what an issue needs of a run into one archive, without weights."),
    "evaluate": ("model_commands", "Measure any models on any data, without a recipe."),
    "predict": ("model_commands", "Ask a run's packaged model: scores, similarities or answers."),
    "serve": ("model_commands", "Serve a packaged model over HTTP, or check that a server gives its numbers."),
    "push": ("model_commands", "Send a run's packaged model and its verdict to a hub."),
    "export": ("model_commands", "Write a model in another form, and measure what that cost."),
    "merge": ("model_commands", "Merge a checkpoint of a run, or an adapter, into a whole model."),
    "doctor": ("environment_commands", "Say what this machine has for a run, and what to install."),
    "env": ("environment_commands", "Build an environment of its own for a backend."),
}


class _LazyGroup(click.Group):
    """A group that imports a command's module when the command is used."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            if ctx.resilient_parsing:  # a shell that completes a line
                return None
            import difflib

            near = difflib.get_close_matches(cmd_name, _COMMANDS, n=1)
            ctx.fail(f"no such command: {cmd_name}" + (f"; did you mean {near[0]}?" if near else ""))
        module = importlib.import_module(f"orchestrator.cli.{_COMMANDS[cmd_name][0]}")
        command: click.Command = getattr(module, f"{cmd_name}_command")
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in _COMMANDS.items()])


def open_missing() -> None:
    """Open the null device where a standard stream is closed: a run's own file would get its number."""
    for number in (0, _STDOUT, _STDERR):
        try:
            os.fstat(number)
        except OSError:
            _redirect(number)
    for name, number in (("stdout", _STDOUT), ("stderr", _STDERR)):
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(number, "w", encoding="utf-8", closefd=False))


def is_gone(error: OSError) -> bool:
    """Tell whether the error says that nobody reads a stream any more."""
    return error.errno in _GONE


@contextmanager
def may_be_gone() -> Iterator[None]:
    """Write in this block to streams that may have lost their reader: then what is written is lost, and no more."""
    try:
        yield
    except OSError as error:
        if not is_gone(error):
            raise
    finally:
        let_go()


def let_go() -> None:
    """Point the streams that cannot be written at the null device, or Python complains once more at its exit."""
    for stream, number in ((sys.stdout, _STDOUT), (sys.stderr, _STDERR)):
        try:
            stream.flush()
        except OSError:
            _redirect(number)
            with suppress(OSError):
                stream.flush()


def raise_on_stop_signals() -> None:
    """Let TERM, HUP and USR1 end a command as Ctrl-C does, with the probe that it waits for. Ignored ones stay so.

    The exception carries the signal's number.
    """

    def handle(number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt(number)

    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1):
        if signal.getsignal(number) == signal.SIG_DFL:
            signal.signal(number, handle)


def _redirect(number: int) -> None:
    descriptor = os.open(os.devnull, os.O_RDWR)
    if descriptor != number:
        os.dup2(descriptor, number)
        os.close(descriptor)


@click.group(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="orch")
def orch() -> None:
    """Fine-tune rerankers, embedding models and LLMs with the native tools: one recipe, one proven model."""


def main(argv: list[str] | None = None) -> None:
    """Run the command line and exit with its code; every failure of the user's becomes one clear message."""
    gc.set_threshold(_OBJECTS)
    arguments = sys.argv[1:] if argv is None else argv
    # Runs hold data and logs. Whatever the shell allows, only their owner may write them; stages inherit this.
    os.umask(os.umask(0o077) | 0o022)
    if argv is None:
        open_missing()
        raise_on_stop_signals()
    try:
        code = orch.main(arguments, prog_name="orch", standalone_mode=False)
    except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001  (the boundary: what is left is a bug)
        code, show = _explain(error, as_json="--json" in arguments)
        with may_be_gone():
            show()
    sys.exit(code if isinstance(code, int) else 0)


def _explain(error: BaseException, *, as_json: bool) -> tuple[int, Callable[[], None]]:
    """Return the exit code of a failure, and what prints it."""
    from orchestrator.cli.output import INTERRUPTED, print_error
    from orchestrator.machine.terminal import current_language, say

    if isinstance(error, OSError) and (error.filename or error.errno in _FULL):
        # A write that fails does not say to which file: it may be standard output, which then takes no JSON either.
        where = Where(str(error.filename)) if error.filename else None
        as_json = as_json and where is not None
        hint = "check the path, its permissions and the free space"
        error = PreflightError(f"{error.strerror}", hint=hint, where=where)
    if isinstance(error, OrchError):
        return error.exit_code, partial(print_error, error, as_json=as_json)
    if isinstance(error, click.ClickException):
        return error.exit_code, partial(_show, error)
    if isinstance(error, click.Abort | KeyboardInterrupt):
        code = InterruptedRunError.exit_code
        if numbers := (error.__cause__ or error).args:  # a stop signal's, not that of a key
            from orchestrator.run.stopping import is_taken_away

            code = TakenAwayError.exit_code if is_taken_away(numbers[0]) else code
        return code, lambda: say(INTERRUPTED.say(current_language()), err=True)
    if isinstance(error, OSError) and is_gone(error):
        return GONE_CODE, lambda: None
    return OrchError.exit_code, partial(_report_bug, error)


def _show(error: click.ClickException) -> None:
    """Print what click says of a command line, which may quote names of files that others have chosen."""
    import io

    from orchestrator.machine.terminal import say

    said = io.StringIO()
    error.show(said)
    say(said.getvalue(), err=True, nl=False)


def _report_bug(error: BaseException) -> None:
    import tempfile
    import traceback

    from orchestrator.machine.terminal import clean, say

    descriptor, path = tempfile.mkstemp(prefix="orch-bug-", suffix=".txt")
    with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
        stream.write(clean(f"orch {__version__}, Python {sys.version}\n{''.join(traceback.format_exception(error))}"))
    say(f"a bug in Orch: {type(error).__name__}: {error}\n    the traceback is kept in {path}", err=True)
