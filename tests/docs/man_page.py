"""Prints the man page orch(1), made from the command line itself: `python -m tests.docs.man_page > docs/orch.1`."""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Iterator

import click

from orchestrator import __version__
from orchestrator.cli import orch
from orchestrator.errors import OrchError

_ENVIRONMENT = {
    "ORCH_RUNS": "the folder of all runs, as --runs",
    "ORCH_LANG": "zh or en: the language of messages, where the locale's is not wanted",
    "HF_ENDPOINT": "a mirror of the Hugging Face hub",
    "XDG_CONFIG_HOME, XDG_CACHE_HOME": "where the key of the user's runs and what is kept between runs lie, in orch/",
}


def quote(text: str) -> str:
    """Return text as roff prints it: no backslash, dash or leading dot has a meaning."""
    text = text.replace("\\", "\\e").replace("-", "\\-")
    return re.sub(r"^(?=[.'])", r"\\&", text, flags=re.MULTILINE)


def build_entries(context: click.Context) -> Iterator[str]:
    """Yield the lines of a command and of its own commands: usage, text, options."""
    command = context.command
    usage = " ".join(command.collect_usage_pieces(context))
    yield f'.SS "{quote(context.command_path)} {quote(usage)}"'
    for paragraph in inspect.cleandoc(command.help or "").split("\n\n"):
        yield f".PP\n{quote(' '.join(paragraph.split()))}"
    for option in command.get_params(context):
        record = option.get_help_record(context)
        if record is not None and isinstance(option, click.Option) and "--help" not in option.opts:
            yield f".TP\n\\fB{quote(record[0])}\\fR\n{quote(' '.join(record[1].split()))}"
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            child = command.get_command(context, name)
            assert child is not None
            yield from build_entries(click.Context(child, info_name=name, parent=context))


def build_man_page() -> str:
    """Return the page. Its commands stand in the order of `orch --help`."""
    root = click.Context(orch, info_name="orch")
    _, *commands = "\n".join(build_entries(root)).split(".SS ")
    codes = {kind.exit_code: inspect.cleandoc(kind.__doc__ or "") for kind in (OrchError, *OrchError.__subclasses__())}
    lines = [
        f'.TH ORCH 1 "" "orch {__version__}" "User Commands"',
        f".SH NAME\norch \\- {quote(inspect.cleandoc(orch.help or '').splitlines()[0])}",
        ".SH SYNOPSIS\n.B orch\n.I COMMAND\n[options]",
        ".SH COMMANDS",
        *(f".SS {command.rstrip()}" for command in commands[1:]),
        '.SH "EXIT STATUS"',
        ".TP\n.B 0\nDone, and the gate (if any) passed.",
        *(f".TP\n.B {code}\n{quote(text.splitlines()[0])}" for code, text in sorted(codes.items())),
        ".SH ENVIRONMENT",
        *(f".TP\n.B {quote(name)}\n{quote(text)}" for name, text in _ENVIRONMENT.items()),
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.stdout.write(build_man_page())
