"""Where the processes of a stalled stage stand, written down before they are stopped: by py-spy, else by themselves."""

from __future__ import annotations

import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from orchestrator.logs.tail import count_line_ends
from orchestrator.machine.files import open_to_append
from orchestrator.machine.process import Child, Processes
from orchestrator.machine.rundir import StageDir
from orchestrator.run.stopping import Clock

WRITING_S = 2.0  # what one process may take to write its stacks and die
ALL_S = 20.0
_POLL_S = 0.05


class Inspector(Protocol):
    """What is asked of the operating system; orchestrator.machine.process_stacks satisfies it."""

    def find_suspended(self, pids: tuple[int, ...], /) -> tuple[int, ...]:
        """Return those that are stopped by a signal."""
        ...

    def find_spy(self, python: str, /) -> str | None:
        """Return the program py-spy."""
        ...

    def read_stacks(self, spy: str, pid: int, /, *, suspended: bool) -> str | None:
        """Return what py-spy says of a process."""
        ...

    def has_faulthandler(self, pid: int, /) -> bool:
        """Tell whether SIGABRT makes the process write its stacks."""
        ...

    def forbid_core(self, pid: int, /) -> None:
        """Keep an aborting process from writing its memory to the disk."""
        ...


@dataclass(frozen=True)
class Stacks:
    """What was found: the file and line from which on the stacks stand, and who had been suspended before."""

    file: Path | None = None
    line: int = 1
    suspended: tuple[int, ...] = ()


def dump_stacks(
    child: Child, folder: StageDir, python: str, *, processes: Processes, clock: Clock, inspector: Inspector
) -> Stacks:
    """Write down the stacks of every Python process of a stage; `python` is the one that runs it.

    py-spy's go to stacks.txt. Where it finds nothing, the processes write their own to stderr.log, and do not survive.
    """
    members = processes.find_members(child)
    suspended = inspector.find_suspended(members)
    spy = inspector.find_spy(python)
    found = {pid: inspector.read_stacks(spy, pid, suspended=pid in suspended) for pid in members} if spy else {}
    texts = [text for text in found.values() if text]
    if texts:
        line = count_line_ends(folder.stacks_txt) + 1
        with open_to_append(folder.stacks_txt) as stream:
            stream.write(("\n".join(texts) + "\n").encode(errors="replace"))
        return Stacks(folder.stacks_txt, line, suspended)
    line = count_line_ends(folder.stderr_log) + 1
    asked = tuple(pid for pid in members if inspector.has_faulthandler(pid))
    _abort_in_turn(child, asked, processes, clock, inspector)
    return Stacks(folder.stderr_log if asked else None, line, suspended)


def _abort_in_turn(
    child: Child, asked: tuple[int, ...], processes: Processes, clock: Clock, inspector: Inspector
) -> None:
    """Let each process write its stacks while the others stand still.

    All write to one file, and a launcher ends the others as soon as one has died.
    """
    members = processes.find_members(child)
    processes.signal_pids(members, signal.SIGSTOP)
    end = clock.monotonic() + ALL_S
    for pid in asked:
        inspector.forbid_core(pid)
        processes.signal_pids((pid,), signal.SIGABRT)
        processes.signal_pids((pid,), signal.SIGCONT)
        patience = min(clock.monotonic() + WRITING_S, end)
        while pid in processes.find_members(child) and clock.monotonic() < patience:
            clock.sleep(_POLL_S)
    processes.signal_pids(processes.find_members(child), signal.SIGCONT)
