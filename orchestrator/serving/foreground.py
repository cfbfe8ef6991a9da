"""One command in the foreground: a process group of its own, its output to a log or to us, nothing of it left after."""

from __future__ import annotations

import os
import re
import secrets
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from orchestrator.errors import PreflightError
from orchestrator.machine import process
from orchestrator.machine.process import Child, Launch
from orchestrator.recipe.plan import Command
from orchestrator.run.interrupts import Interrupts
from orchestrator.run.stopping import StopTimeouts, SupervisorDeps, stop_stage

STOP_TIMEOUTS = StopTimeouts(interrupt_s=15.0, terminate_s=5.0, kill_s=5.0)
POLL_S = 0.2
OWN_FOLDER = ""  # as a command's cwd: an empty folder that lives as long as it
_CHUNK_BYTES = 1 << 16
_LAST_WORDS_S = 5.0
_PROGRESS = re.compile(rb"^orch-progress ([0-9]{1,18})/([0-9]{1,18})\s*$", re.MULTILINE)


@dataclass(frozen=True)
class Started:
    """A started command. `log` has what it says (None: our standard error has), `stdout` its output if kept apart."""

    child: Child
    exit_code: Path
    log: Path | None
    stdout: Path | None


@contextmanager
def started(
    command: Command, env: dict[str, str], interrupts: Interrupts, *, quiet: bool, split: bool = False
) -> Iterator[Started]:
    """Run the command inside the block; nothing that it started is left afterwards.

    With `quiet` its output goes to a log that lives as long as the block, else to our standard error; with `split` its
    standard output goes to a file of its own. Raises PreflightError when it cannot be started.
    """
    with tempfile.TemporaryDirectory(prefix="orch-") as folder, ExitStack() as stack:
        log = Path(folder, "output.log") if quiet else None
        output = log or stack.enter_context(_copied_to_stderr())
        stdout = Path(folder, "stdout.log") if split else None
        exit_code = Path(folder, "exit_code")
        own = Path(folder, "work")
        own.mkdir()
        launch = Launch(
            argv=command.argv, env=env, cwd=Path(command.cwd) if command.cwd else own, stdout=stdout or output,
            stderr=output,
            exit_code=exit_code,
            token=secrets.token_hex(8),
        )  # fmt: skip
        try:
            child = process.spawn(launch)
        except OSError as error:
            raise PreflightError(f"{command.argv[0]} cannot be started: {error.strerror}") from error
        try:
            yield Started(child, exit_code, log, stdout)
        finally:
            stop_stage(child, SupervisorDeps(interrupts=interrupts, timeouts=STOP_TIMEOUTS))


@contextmanager
def _copied_to_stderr() -> Iterator[Path]:
    """Give a path that a child can open; what it writes there goes on to our standard error.

    A pipe, for /dev/stderr cannot be opened where it is a socket, and would be overwritten where it is a file.
    """
    reader, writer = os.pipe()
    copier = threading.Thread(target=_copy, args=(reader, sys.stderr.fileno()), daemon=True)
    copier.start()
    try:
        yield Path(f"/dev/fd/{writer}")  # open in the child until it runs its program
    finally:
        os.close(writer)
        copier.join(_LAST_WORDS_S)


def _copy(source: int, target: int) -> None:
    """Copy until the last writer is gone; a target that is gone swallows the rest, so that no writer ever waits."""
    with open(source, "rb", buffering=0) as stream:
        while chunk := stream.read(_CHUNK_BYTES):
            with suppress(OSError):
                while chunk:
                    chunk = chunk[os.write(target, chunk) :]


def find_exit_code(command: Started) -> int | None:
    """Return its exit code once it has ended, else None."""
    code = process.reap(command.child)
    if code is None and process.is_alive(command.child.pid, command.child.start):
        return None
    try:
        return int(command.exit_code.read_text(encoding="ascii"))
    except (OSError, ValueError):
        return code if code is not None else process.KILLED_CODE


def wait_until_over(command: Started, interrupts: Interrupts) -> int | None:
    """Return the exit code of a server when it ends by itself, None when the user stops it."""
    while (code := find_exit_code(command)) is None and not interrupts.count:
        time.sleep(POLL_S)
    return code


def tell_progress(command: Started, told: int, on_progress: Callable[[int, int], None] | None) -> int:
    """Tell the newest progress (`orch-progress DONE/TOTAL`) beyond the first `told` bytes of its output.

    Return how many bytes are read.
    """
    output = command.stdout or command.log
    if on_progress is None or output is None or not output.exists():
        return told
    with output.open("rb") as stream:
        stream.seek(told)
        text = stream.read()
    whole = text[: text.rfind(b"\n") + 1]
    if found := _PROGRESS.findall(whole):
        on_progress(int(found[-1][0]), int(found[-1][1]))
    return told + len(whole)
