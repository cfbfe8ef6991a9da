"""A verb from outside: what a newcomer writes to add one to the command line."""

from __future__ import annotations

import click

from orchestrator.cli.output import Result, prints
from orchestrator.errors import DataError


@click.command("greet")
@click.argument("name")
@prints("greet")
def greet_command(name: str) -> Result:
    """Greet NAME."""
    if name == "nobody":
        raise DataError("there is nobody to greet", hint="name somebody")
    return Result({"name": name}, (f"hello, {name}",), exit_code=8 if name == "later" else 0)
