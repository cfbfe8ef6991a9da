"""The command that serves a packaged model, or checks that a server gives the numbers that were measured."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import click

from orchestrator.cli import exit_with
from orchestrator.cli.options import as_json, runs_option, trust_code_option, trust_run_option
from orchestrator.cli.output import print_json
from orchestrator.errors import InterruptedRunError, PreflightError, StageFailedError
from orchestrator.machine.terminal import hand_on, say
from orchestrator.serving.artefact import Artefact
from orchestrator.serving.commands import Address


@click.command("serve")
@click.argument("run", default="last")
@click.option("--host", default="127.0.0.1", show_default=True, help="The address to listen on.")
@click.option("--port", type=click.IntRange(1, 65535), default=8000, show_default=True)
@click.option("--backend", type=click.Choice(["auto", "vllm", "swift"]), default="auto", show_default=True)
@click.option("--python", help="The Python that has the server (default: the run's own).")
@click.option("--dry-run", is_flag=True, help="Print the server's command; start nothing.")
@click.option("--check", is_flag=True, help="Start it on a free port, compare it with scoring.json, stop it.")
@click.option("--timeout", "timeout_s", type=float, default=600.0, show_default=True, help="Seconds to wait for it.")
@trust_code_option
@trust_run_option
@runs_option
@as_json
def serve_command(
    run: str,
    host: str,
    port: int,
    backend: str,
    python: str | None,
    dry_run: bool,
    check: bool,
    timeout_s: float,
    trust_remote_code: bool,
    trust_run: bool,
    runs: Path,
    as_json: bool,
) -> None:
    """Serve RUN's packaged model (or a packaged folder) over HTTP until Ctrl-C, with vLLM or else ms-swift.

    An API key is taken from the environment variable ORCH_API_KEY. Exit code 6: --check found other numbers.
    """
    from orchestrator.cli.loadable import require_artefact_loads
    from orchestrator.serving.artefact import find_artefact, require_trusted_code
    from orchestrator.serving.commands import KEY_VARIABLE, Address, choose_backend, find_server_versions
    from orchestrator.serving.server import find_free_port

    if as_json and not (dry_run or check):
        raise click.UsageError("--json goes with --dry-run or --check: a server's log is no JSON")
    artefact = find_artefact(
        run, runs, _absolute(python),
        trust_remote_code=trust_remote_code, trust_run=trust_run, is_only_read=dry_run,
    )  # fmt: skip
    require_trusted_code(artefact, is_run_anyway=True)
    key = os.environ.get(KEY_VARIABLE) or None
    chosen = choose_backend(
        backend, artefact, find_server_versions(artefact.python, may_run=not dry_run), dry_run=dry_run
    )
    address = Address("127.0.0.1", find_free_port()) if check and not dry_run else Address(host, port)
    if dry_run:
        _print_command(artefact, chosen, address, key, as_json=as_json)
        return
    require_artefact_loads(artefact)
    if check:
        _check(artefact, chosen, address, key, timeout_s=timeout_s, as_json=as_json)
    else:
        _serve(artefact, chosen, address, key, timeout_s=timeout_s)


def _absolute(python: str | None) -> str | None:
    """Return the absolute path of the interpreter. Raises PreflightError where there is none."""
    if python is None:
        return None
    from orchestrator.machine.places import find_python

    found = find_python(Path(), python)
    if found is None:
        raise PreflightError(f"--python: no such interpreter: {python}", hint="name the python of an environment")
    return found


def _print_command(artefact: Artefact, backend: str, address: Address, key: str | None, *, as_json: bool) -> None:
    from orchestrator.backends.render import format_command
    from orchestrator.serving.commands import build_command

    command = build_command(backend, artefact, address, name=artefact.name, with_key=bool(key))
    _warn(address, key)
    if as_json:
        print_json("serve", {**_describe(artefact, backend, address), "argv": command.argv, "env": dict(command.env)})
    else:
        hand_on(str(format_command(command)))


def _serve(artefact: Artefact, backend: str, address: Address, key: str | None, *, timeout_s: float) -> None:
    from orchestrator.run.interrupts import counted_interrupts
    from orchestrator.serving.client import Client
    from orchestrator.serving.commands import build_command
    from orchestrator.serving.foreground import started, wait_until_over
    from orchestrator.serving.server import LOOPBACK, build_environment, require_free_port, wait_until_ready

    _warn(address, key)
    require_free_port(address.port)
    command = build_command(backend, artefact, address, name=artefact.name, with_key=bool(key))
    here = address.host if address.host in LOOPBACK else "127.0.0.1"
    client = Client(here, address.port, artefact.name, key)
    _tell(f"{artefact.name} with {backend}; Ctrl-C stops it")
    with (
        counted_interrupts() as interrupts,
        started(command, build_environment(command, backend), interrupts, quiet=False) as server,
    ):
        try:
            seconds = wait_until_ready(server, client.is_ready, interrupts, timeout_s=timeout_s, tell=_tell)
        except InterruptedRunError:
            return
        _tell(f"ready after {seconds:.0f} s: http://{address.host}:{address.port} serves {artefact.name}")
        code = wait_until_over(server, interrupts)
        if code is not None:
            raise StageFailedError(f"the server ended with exit code {code}", hint="its last words are above")
    _tell("stopped")


def _check(
    artefact: Artefact, backend: str, address: Address, key: str | None, *, timeout_s: float, as_json: bool
) -> None:
    from orchestrator.run.interrupts import counted_interrupts
    from orchestrator.serving.check import check_server, format_table, load_probes
    from orchestrator.serving.client import Client
    from orchestrator.serving.commands import build_command
    from orchestrator.serving.foreground import started
    from orchestrator.serving.server import build_environment, wait_until_ready

    load_probes(artefact)  # before a model is loaded for nothing
    # a name that no other server has: what answers on the port must be ours
    name = f"{artefact.name}-{os.getpid()}"
    command = build_command(backend, artefact, address, name=name, with_key=bool(key))
    client = Client(address.host, address.port, name, key)
    _tell(f"checking {artefact.name} with {backend} on port {address.port}")
    with (
        counted_interrupts() as interrupts,
        started(command, build_environment(command, backend), interrupts, quiet=True) as server,
    ):
        seconds = wait_until_ready(server, client.is_ready, interrupts, timeout_s=timeout_s, tell=_tell)
        checked = check_server(artefact, backend, client)
    if as_json:
        described = {
            **_describe(artefact, backend, address),
            "argv": command.argv,
            "seconds_to_start": round(seconds, 1),
        }
        print_json("serve", {**described, "check": checked.to_json()})
    else:
        for line in format_table(checked):
            say(line)
        right = sum(row.passed for row in checked.rows)
        say(f"{right} of {len(checked.rows)} probes as measured (compared: {checked.scale})")
    if not checked.passed:
        if not as_json:
            say("    → serve it as docs/serving.md says, or package the run again", err=True)
        exit_with(StageFailedError.exit_code)


def _describe(artefact: Artefact, backend: str, address: Address) -> dict[str, Any]:
    return {
        "model": str(artefact.folder), "name": artefact.name, "kind": artefact.kind, "backend": backend,
        "host": address.host, "port": address.port,
    }  # fmt: skip


def _warn(address: Address, key: str | None) -> None:
    from orchestrator.serving.server import LOOPBACK

    if address.host not in LOOPBACK and not key:
        _tell(f"{address.host} is reached from other machines and there is no API key: set ORCH_API_KEY, or put a "
              "gateway in front")  # fmt: skip


def _tell(text: str) -> None:
    say(f"orch: {text}", err=True)
