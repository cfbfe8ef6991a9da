"""The one door for commands outside runs: told while they run, ended when they stand still, explained when they fail.

Each has a process group of its own, its output in a log or on our standard error, and nothing of it is left after.
"""

from __future__ import annotations

import os
import re
import secrets
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from orchestrator.errors import InterruptedRunError, PreflightError, StageFailedError, StalledError, Where
from orchestrator.logs.diagnose import FALLBACKS, diagnose, find_line_number, read_tail
from orchestrator.logs.follow import scrub_log
from orchestrator.machine import process
from orchestrator.machine.process import Child, Launch
from orchestrator.machine.rundir import StageDir
from orchestrator.machine.secrets import find_secret_values, rename_hub_token
from orchestrator.machine.terminal import current_language
from orchestrator.recipe.plan import Command
from orchestrator.run.state import read_exit_code
from orchestrator.run.stopping import Interrupts, StopTimeouts, SupervisorDeps, counted_interrupts, stop_stage
from orchestrator.run.watch import StallDetector

STOP_TIMEOUTS = StopTimeouts(interrupt_s=15.0, terminate_s=5.0, kill_s=5.0)
POLL_S = 0.2
OWN_FOLDER = ""  # as a command's cwd: an empty folder that lives as long as it
_CHUNK_BYTES = 1 << 16
_LAST_WORDS_S = 5.0
_PROGRESS = re.compile(rb"^orch-progress ([0-9]{1,18})/([0-9]{1,18})\s*$", re.MULTILINE)
STALL_VARIABLE = "ORCH_STALL_TIMEOUT_S"
STALL_TIMEOUT_S = 3600.0  # that of a run's stages
_LOOK_EVERY_S = 5.0
_MOST_LINES = 20
_LONGER = (
    "a chat template of the model that never ends does this, and so does a disk or a hub that does not answer; where "
    f"it only needs longer, set {STALL_VARIABLE} to more seconds (0: wait for ever)"
)


@dataclass(frozen=True)
class Started:
    """A started command, and the folder with its exit code and with what it says, unless our standard error has it."""

    child: Child
    folder: StageDir

    @property
    def logs(self) -> tuple[Path, ...]:
        """What there is of its output: standard output where that is kept apart, and the rest."""
        return tuple(path for path in (self.folder.stdout_log, self.folder.stderr_log) if path.exists())


@contextmanager
def started(
    command: Command, env: dict[str, str], interrupts: Interrupts, *, quiet: bool, split: bool = False
) -> Iterator[Started]:
    """Run the command inside the block; nothing that it started is left afterwards.

    With `quiet` its output goes to a log that lives as long as the block, else to our standard error; with `split` its
    standard output goes to a file of its own. Raises PreflightError when it cannot be started.
    """
    with tempfile.TemporaryDirectory(prefix="orch-") as place, ExitStack() as stack:
        folder = StageDir(Path(place))
        folder.output.mkdir()
        stderr = folder.stderr_log if quiet else stack.enter_context(_copied_to_stderr())
        launch = Launch(
            argv=command.argv, env=env, cwd=Path(command.cwd or folder.output),
            stdout=folder.stdout_log if split else stderr, stderr=stderr, exit_code=folder.exit_code,
            token=secrets.token_hex(8),
        )  # fmt: skip
        try:
            child = process.spawn(launch)
        except OSError as error:
            raise PreflightError(f"{command.argv[0]} cannot be started: {error.strerror}") from error
        try:
            yield Started(child, folder)
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
    if (said := read_exit_code(command.folder)) is not None:
        return said
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
    if on_progress is None or not command.logs:
        return told
    with command.logs[0].open("rb") as stream:
        stream.seek(told)
        text = stream.read()
    whole = text[: text.rfind(b"\n") + 1]
    if found := _PROGRESS.findall(whole):
        on_progress(int(found[-1][0]), int(found[-1][1]))
    return told + len(whole)


@dataclass(frozen=True)
class Words:
    """What is said when the worker fails or stands still (`failed`), and when the user stops it (`stopped`)."""

    failed: str
    stopped: str


def run_worker(
    command: Command,
    words: Words,
    *,
    env: Mapping[str, str] | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> str:
    """Run a worker of Orch's to its end and return its standard output; nothing that it started is left afterwards.

    Its environment is ours with the command's own and `env`; `on_progress` hears (done, total). Raises StageFailedError
    with the diagnosis, PreflightError when it cannot be started or refuses the model, StalledError where it neither
    says nor writes anything for ORCH_STALL_TIMEOUT_S seconds (an hour; 0 waits for ever), InterruptedRunError when the
    user stops it.
    """
    limit_s = find_stall_timeout(os.environ)
    inherited = rename_hub_token({**os.environ, **dict(command.env), **(env or {})})
    with counted_interrupts() as interrupts, started(command, inherited, interrupts, quiet=True, split=True) as child:
        code = _wait(child, interrupts, on_progress, words, limit_s)
        if code is None:
            raise InterruptedRunError(words.stopped)
        if code != 0:
            raise explain_failure(child, words.failed, code)
        return child.folder.stdout_log.read_text(encoding="utf-8", errors="replace")


def find_stall_timeout(environment: Mapping[str, str]) -> float | None:
    """Return after how many seconds of silence a worker is ended, None for never.

    Raises PreflightError for a value that is no number of seconds.
    """
    said = environment.get(STALL_VARIABLE)
    if not said:
        return STALL_TIMEOUT_S
    try:
        seconds = float(said)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds < float("inf"):
        raise PreflightError(
            f"{STALL_VARIABLE} is {said!r}, which is no number of seconds",
            hint="set it to the seconds of silence after which a worker is ended (0: never), or unset it (an hour)",
        )
    return seconds or None


def explain_failure(child: Started, failed: str, code: int) -> PreflightError | StageFailedError:
    """Return why the command ended with that code: the cause, the line that shows it, what to do, and its kept log.

    A worker that refuses its model ends with the code of a preflight's refusal: a model of a hub is first seen there.
    """
    text = _read_logs(child)
    found = diagnose(text, code, current_language(), in_run=False)
    log = _keep_log(text)
    where = Where(str(log), find_line_number(log, found.evidence) if found.evidence else None) if log else None
    if found.name == "worker-refused" and found.evidence:
        name = found.evidence.partition(": ")[0]
        said = [line.removeprefix(f"{name}: ") for line in text.splitlines() if line.startswith(f"{name}: ")]
        causes = list(dict.fromkeys(said))[-_MOST_LINES:]
        kind = PreflightError if code == PreflightError.exit_code else StageFailedError
        return kind(f"{failed}: " + "\n  ".join(causes), hint=found.remedy or None, name=found.name)
    message = f"{failed} (exit code {code}): {found.cause}"
    if found.evidence and found.evidence not in message:
        message += f"\n  {found.evidence}"
    hint = found.remedy if found.name not in FALLBACKS else (f"its whole log: {log}" if log else found.remedy)
    return StageFailedError(message, hint=hint, where=where, name=found.name)


def _wait(
    child: Started,
    interrupts: Interrupts,
    on_progress: Callable[[int, int], None] | None,
    words: Words,
    limit_s: float | None,
) -> int | None:
    """Return the exit code, None when the user stops it. Raises StalledError when it stands still for too long."""
    stalls, told, looked_at = StallDetector(limit_s, time), 0, time.monotonic()
    every_s = min(_LOOK_EVERY_S, limit_s / 4) if limit_s else _LOOK_EVERY_S
    while (code := find_exit_code(child)) is None and not interrupts.count:
        told = tell_progress(child, told, on_progress)
        if time.monotonic() - looked_at >= every_s:
            looked_at = time.monotonic()
            if stalls.look(_count_output(child), 0):
                message = f"{words.failed}: it has neither said nor written anything for {limit_s:g} s, and was ended"
                raise build_stalled(child, message, _LONGER)
        time.sleep(POLL_S)
    if code is not None:
        tell_progress(child, told, on_progress)
    return code


def _count_output(child: Started) -> int:
    """Return how many bytes it and its processes have said and written so far."""
    return sum(path.stat().st_size for path in child.logs) + sum(process.count_written_bytes(child.child).values())


def build_stalled(child: Started, message: str, hint: str) -> StalledError:
    """Return the error of a command that stands still, with its last line and its kept log."""
    text = _read_logs(child)
    last = next((line.strip() for line in reversed(text.splitlines()) if line.strip()), None)
    log = _keep_log(text)
    message = f"{message}\n  {last}" if last else message
    return StalledError(message, hint=hint, where=Where(str(log)) if log else None)


def describe_log(child: Started) -> str | None:
    """Return where all that a command has said is kept, in words; None where it cannot be."""
    log = _keep_log(_read_logs(child))
    return f"its whole log: {log}" if log else None


def _read_logs(child: Started) -> str:
    return "\n".join(map(read_tail, child.logs))


def _keep_log(text: str) -> Path | None:
    """Return where the end of its log is kept for people, without secrets; None where it cannot be written."""
    try:
        descriptor, name = tempfile.mkstemp(prefix="orch-worker-", suffix=".log")
        with open(descriptor, "w", encoding="utf-8", errors="replace") as stream:  # noqa: PTH123  a descriptor
            stream.write(text)
    except OSError:
        return None
    scrub_log(Path(name), find_secret_values(os.environ))
    return Path(name)
