"""Stopping a stage: the signals that ask for it, the ladder INT, TERM, KILL, and where its processes had stalled."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Protocol

from orchestrator.logs.diagnose import count_line_ends
from orchestrator.logs.events import Event
from orchestrator.machine import process
from orchestrator.machine.files import open_to_append
from orchestrator.machine.process import Child, Processes
from orchestrator.machine.rundir import StageDir

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)
DEBOUNCE_S = 0.3  # a closing terminal or a service manager sends two signals at once
POLL_S = 0.1
WRITING_S = 2.0  # what one process may take to write its stacks and die
ALL_S = 20.0
_STACKS_POLL_S = 0.05
# A variable that an engine sets in its jobs, and nobody else.
SCHEDULERS = {
    "SLURM_JOB_ID": "Slurm",
    "SKYPILOT_TASK_ID": "SkyPilot",
    "KUBERNETES_SERVICE_HOST": "Kubernetes",
    "PBS_JOBID": "PBS",
    "LSB_JOBID": "LSF",
    "ORCH_PREEMPTIBLE": "ORCH_PREEMPTIBLE",
}


def find_scheduler(environment: Mapping[str, str] = os.environ) -> str | None:
    """Return the name of the engine that this process is a job of; None where a user has started it."""
    return next((name for variable, name in SCHEDULERS.items() if environment.get(variable)), None)


def is_taken_away(number: int) -> bool:
    """Tell whether a signal says that the machine is needed elsewhere: USR1 does, and TERM from a scheduler."""
    return number == signal.SIGUSR1 or (number == signal.SIGTERM and find_scheduler() is not None)


@dataclass
class Interrupts:
    """How often somebody has asked to stop: 0 go on, 1 stop, 2 or more kill at once.

    `taken`: the first who asked was no user, but a scheduler.
    """

    count: int = 0
    last: float = 0.0
    taken: bool = False

    def add(self, number: int, at: float) -> None:
        """Count one signal at that time (seconds, any origin); a hangup never counts as the second."""
        if self.count == 0:
            self.taken = is_taken_away(number)
        if self.count == 0 or (number != signal.SIGHUP and at - self.last > DEBOUNCE_S):
            self.count += 1
            self.last = at


@contextmanager
def counted_interrupts() -> Iterator[Interrupts]:
    """Count the stop signals inside the block. Signals that were ignored outside (nohup) stay so.

    Only the main thread can catch signals; elsewhere nothing is counted.
    """
    interrupts = Interrupts()
    if threading.current_thread() is not threading.main_thread():
        yield interrupts
        return

    def handle(number: int, _frame: FrameType | None) -> None:
        interrupts.add(number, time.monotonic())

    before = {number: signal.getsignal(number) for number in SIGNALS}
    for number, handler in before.items():
        if handler is not signal.SIG_IGN:
            signal.signal(number, handle)
    try:
        yield interrupts
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class Clock(Protocol):
    """Time as the supervisor sees it, in seconds; the standard module `time` satisfies it."""

    def time(self) -> float: ...  # noqa: D102
    def monotonic(self) -> float: ...  # noqa: D102
    def sleep(self, seconds: float, /) -> None: ...  # noqa: D102


@dataclass(frozen=True)
class StopTimeouts:
    """How long each rung of the ladder is given (seconds). torchrun takes up to 30 s to end its workers itself."""

    interrupt_s: float = 20.0
    terminate_s: float = 10.0
    kill_s: float = 5.0

    @property
    def total_s(self) -> float:
        """The whole ladder."""
        return self.interrupt_s + self.terminate_s + self.kill_s


@dataclass(frozen=True)
class SupervisorDeps:
    """What a supervisor works with, so that tests can put fakes in their place."""

    processes: Processes = process
    clock: Clock = time
    interrupts: Interrupts = field(default_factory=Interrupts)
    timeouts: StopTimeouts = field(default_factory=StopTimeouts)
    emit: Callable[[Event], None] = lambda _event: None
    touch_heartbeat: Callable[[], None] = lambda: None

    def is_forced(self) -> bool:
        """Tell whether the user has asked a second time: kill at once."""
        return self.interrupts.count > 1


def stop_stage(child: Child, deps: SupervisorDeps, *, graceful: bool = True) -> tuple[int, ...]:
    """End all of a stage's processes and return the pids that are still there (none, unless the kernel holds them).

    INT goes to the group, as from a keyboard, and launchers pass it on; where the launcher is gone, to each process.
    TERM and KILL go to each process, whatever group it moved to. A second interrupt jumps to KILL; without `graceful`
    the ladder starts at TERM.
    """
    processes, clock, timeouts = deps.processes, deps.clock, deps.timeouts
    if graceful and not deps.is_forced():
        if processes.is_alive(child.pid, child.start):
            processes.signal_group(child, signal.SIGINT)
        else:
            processes.signal_pids(processes.find_members(child), signal.SIGINT)
        _wait(child, deps, timeouts.interrupt_s)
    if not deps.is_forced() and (members := processes.find_members(child)):
        processes.signal_pids(members, signal.SIGTERM)
        processes.signal_pids(members, signal.SIGCONT)  # a suspended process takes its TERM when it continues
        _wait(child, deps, timeouts.terminate_s)
    end = clock.monotonic() + timeouts.kill_s
    while members := processes.find_members(child):  # again and again: one may have forked before it died
        processes.signal_pids(members, signal.SIGKILL)
        processes.reap(child)
        if clock.monotonic() > end:
            break
        clock.sleep(POLL_S)
    processes.reap(child)
    return members


def _wait(child: Child, deps: SupervisorDeps, seconds: float) -> None:
    end = deps.clock.monotonic() + seconds
    while deps.clock.monotonic() < end and not deps.is_forced():
        deps.processes.reap(child)
        if not deps.processes.find_members(child):
            return
        deps.clock.sleep(POLL_S)


def end_orphan(child: Child, folder: StageDir, deps: SupervisorDeps) -> tuple[int, ...]:
    """End what a killed supervisor left of a stage; return the pids that are still there.

    The exit code of a launcher that had ended by itself stands; that of one which is stopped here means nothing.
    """
    ended = not deps.processes.is_alive(child.pid, child.start)
    left = stop_stage(child, deps)
    if not ended:
        folder.exit_code.unlink(missing_ok=True)
    return left


@dataclass(frozen=True)
class Stacks:
    """What was found: the file and line from which on the stacks stand, and who had been suspended before."""

    file: Path | None = None
    line: int = 1
    suspended: tuple[int, ...] = ()


def dump_stacks(child: Child, folder: StageDir, python: str, deps: SupervisorDeps) -> Stacks:
    """Write down the stacks of every Python process of a stage; `python` is the one that runs it.

    py-spy's go to stacks.txt. Where it finds nothing, the processes write their own to stderr.log, and do not survive.
    """
    processes = deps.processes
    members = processes.find_members(child)
    suspended = processes.find_suspended(members)
    spy = processes.find_spy(python)
    found = {pid: processes.read_stacks(spy, pid, suspended=pid in suspended) for pid in members} if spy else {}
    if texts := [text for text in found.values() if text]:
        line = count_line_ends(folder.stacks_txt) + 1
        with open_to_append(folder.stacks_txt) as stream:
            stream.write(("\n".join(texts) + "\n").encode(errors="replace"))
        return Stacks(folder.stacks_txt, line, suspended)
    line = count_line_ends(folder.stderr_log) + 1
    asked = tuple(pid for pid in members if processes.has_faulthandler(pid))
    _abort_in_turn(child, asked, processes, deps.clock)
    return Stacks(folder.stderr_log if asked else None, line, suspended)


def _abort_in_turn(child: Child, asked: tuple[int, ...], processes: Processes, clock: Clock) -> None:
    """Let each process write its stacks while the others stand still.

    All write to one file, and a launcher ends the others as soon as one has died.
    """
    processes.signal_pids(processes.find_members(child), signal.SIGSTOP)
    end = clock.monotonic() + ALL_S
    for pid in asked:
        processes.forbid_core(pid)
        processes.signal_pids((pid,), signal.SIGABRT)
        processes.signal_pids((pid,), signal.SIGCONT)
        deadline = min(clock.monotonic() + WRITING_S, end)
        while pid in processes.find_members(child) and clock.monotonic() < deadline:
            clock.sleep(_STACKS_POLL_S)
    processes.signal_pids(processes.find_members(child), signal.SIGCONT)
