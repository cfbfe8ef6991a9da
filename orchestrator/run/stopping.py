"""The stop ladder: INT, then TERM, then KILL, until nothing that the stage started is left."""

from __future__ import annotations

import signal
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from orchestrator.machine.process import Child, Processes

POLL_S = 0.1


class Clock(Protocol):
    """Time as the supervisor sees it; the standard module `time` satisfies it."""

    def time(self) -> float:
        """Return unix seconds."""
        ...

    def monotonic(self) -> float:
        """Return seconds that never jump."""
        ...

    def sleep(self, seconds: float, /) -> None:
        """Wait."""
        ...


@dataclass(frozen=True)
class Patience:
    """How long each rung of the ladder is given (seconds). torchrun takes up to 30 s to end its workers itself."""

    interrupt_s: float = 20.0
    terminate_s: float = 10.0
    kill_s: float = 5.0

    @property
    def total_s(self) -> float:
        """The whole ladder."""
        return self.interrupt_s + self.terminate_s + self.kill_s


PATIENCE = Patience()


def stop_stage(
    child: Child,
    *,
    processes: Processes,
    clock: Clock,
    patience: Patience,
    hurry: Callable[[], bool] = lambda: False,
    gently: bool = True,
) -> tuple[int, ...]:
    """End all of a stage's processes and return the pids that are still there (none, unless the kernel holds them).

    INT goes to the group, as from a keyboard, and launchers pass it on; where the launcher is gone, to each process.
    TERM and KILL go to each process, whatever group it moved to. `hurry` turning true jumps to KILL; without `gently`
    the ladder starts at TERM.
    """
    if gently and not hurry():
        if processes.is_alive(child.pid, child.start):
            processes.signal_group(child, signal.SIGINT)
        else:
            processes.signal_pids(processes.find_members(child), signal.SIGINT)
        _wait(child, processes, clock, patience.interrupt_s, hurry)
    if not hurry() and (members := processes.find_members(child)):
        processes.signal_pids(members, signal.SIGTERM)
        processes.signal_pids(members, signal.SIGCONT)  # a suspended process takes its TERM when it continues
        _wait(child, processes, clock, patience.terminate_s, hurry)
    end = clock.monotonic() + patience.kill_s
    while members := processes.find_members(child):  # again and again: one may have forked before it died
        processes.signal_pids(members, signal.SIGKILL)
        processes.reap(child)
        if clock.monotonic() > end:
            break
        clock.sleep(POLL_S)
    processes.reap(child)
    return members


def _wait(child: Child, processes: Processes, clock: Clock, seconds: float, hurry: Callable[[], bool]) -> None:
    end = clock.monotonic() + seconds
    while clock.monotonic() < end and not hurry():
        processes.reap(child)
        if not processes.find_members(child):
            return
        clock.sleep(POLL_S)
