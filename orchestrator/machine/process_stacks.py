"""Look into running processes: which are suspended, and where their Python code stands.

A process that was started with PYTHONFAULTHANDLER=1 writes the stacks of its threads to its stderr on SIGABRT, and dies
of it. py-spy reads them from outside, where it is installed and the kernel lets it (ptrace).
"""

from __future__ import annotations

import resource
import shutil
from contextlib import suppress
from pathlib import Path

from orchestrator.machine import process, process_table
from orchestrator.machine.process_table import PROC

SPY_S = 10.0
_STATE_COLUMN = 0  # after the name, in /proc/PID/stat
_SUSPENDED = ("T", "t")


def find_suspended(pids: tuple[int, ...]) -> tuple[int, ...]:
    """Return those that are stopped by a signal (SIGSTOP, SIGTSTP) or a debugger."""
    return tuple(pid for pid in pids if _read_state(pid) in _SUSPENDED)


def find_spy(python: str) -> str | None:
    """Return the program py-spy: on PATH, or beside a backend's Python."""
    beside = Path(python).with_name("py-spy")
    return str(beside) if beside.is_file() else shutil.which("py-spy")


def read_stacks(spy: str, pid: int, *, suspended: bool) -> str | None:
    """Return what py-spy says of a process; None for one that is no Python, or that may not be looked into."""
    # it halts the process while it looks, which never returns for one that is halted already
    argv = (spy, "dump", "--pid", str(pid), *(["--nonblocking"] if suspended else []))
    said = process.run(argv, SPY_S)
    return said.stdout if said.exit_code == 0 and said.stdout.strip() else None


def has_faulthandler(pid: int) -> bool:
    """Tell whether SIGABRT makes the process write its stacks: Python, started with PYTHONFAULTHANDLER=1."""
    try:
        program = Path(PROC / str(pid) / "exe").readlink().name
    except OSError:
        return False
    return program.startswith("python") and process_table.carries(pid, b"PYTHONFAULTHANDLER=1")


def forbid_core(pid: int) -> None:
    """Keep a process that is about to abort from writing its memory (all of a model) to the disk."""
    if hasattr(resource, "prlimit"):
        with suppress(OSError, ValueError):
            resource.prlimit(pid, resource.RLIMIT_CORE, (0, 0))


def _read_state(pid: int) -> str | None:
    """Return the process's state letter (proc_pid_stat(5)); from `ps` where there is no /proc."""
    try:
        text = (PROC / str(pid) / "stat").read_text(encoding="utf-8", errors="replace")
        return text.rpartition(")")[2].split()[_STATE_COLUMN]
    except (OSError, IndexError):
        return process.run(("ps", "-o", "stat=", "-p", str(pid)), 5).stdout.strip()[:1] or None
