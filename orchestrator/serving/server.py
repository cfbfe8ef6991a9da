"""What a server needs around it: a port, its environment with the key, and patience until it answers."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable

from orchestrator.errors import InterruptedRunError, PreflightError
from orchestrator.machine.secrets import rename_hub_token
from orchestrator.recipe.plan import Command
from orchestrator.run.interrupts import Interrupts
from orchestrator.serving.commands import KEY_VARIABLE
from orchestrator.serving.foreground import POLL_S, Started, find_exit_code
from orchestrator.serving.worker import build_stalled, explain_failure

LOOPBACK = ("127.0.0.1", "localhost", "::1")
_TELL_EVERY_S = 10.0


def find_free_port() -> int:
    """Return a port that nobody listens on, on any interface."""
    with socket.socket() as probe:
        probe.bind(("", 0))
        return int(probe.getsockname()[1])


def require_free_port(port: int) -> None:
    """Raise PreflightError when the port cannot be bound.

    swift's own test is this one (swift/utils/utils.py find_free_port, every interface, no SO_REUSEADDR), and where it
    fails swift takes the next port without asking.
    """
    with socket.socket() as probe:
        try:
            probe.bind(("", port))
        except OSError as error:
            raise PreflightError(
                f"port {port} cannot be used: {error.strerror}",
                hint="name another with --port; a port that was just given up is free again within a minute",
            ) from None


def build_environment(command: Command, backend: str) -> dict[str, str]:
    """Return the whole environment of a server, its API key under the name that it reads."""
    env = rename_hub_token({**os.environ, **dict(command.env)})
    key = env.pop(KEY_VARIABLE, "")
    if key:
        env["VLLM_API_KEY" if backend == "vllm" else KEY_VARIABLE] = key
    return env


def wait_until_ready(
    server: Started,
    is_ready: Callable[[], bool],
    interrupts: Interrupts,
    *,
    timeout_s: float,
    tell: Callable[[str], None],
) -> float:
    """Return after how many seconds the server answered.

    Raises StageFailedError with the diagnosis when it ends instead, StalledError after `timeout_s`, and
    InterruptedRunError when the user does not want to wait.
    """
    begin = told = time.monotonic()
    while not is_ready():
        now = time.monotonic()
        if interrupts.count:
            raise InterruptedRunError("stopped before the server was ready")
        if (code := find_exit_code(server)) is not None:
            raise explain_failure(server, "the server ended before it was ready", code)
        if now - begin > timeout_s:
            message = f"the server was not ready after {timeout_s:.0f} s"
            raise build_stalled(server, message, "give it longer with --timeout")
        if now - told >= _TELL_EVERY_S:
            tell(f"waiting for the server: {now - begin:.0f} s")
            told = now
        time.sleep(POLL_S)
    return time.monotonic() - begin
