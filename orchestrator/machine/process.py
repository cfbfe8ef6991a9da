"""The edge to native processes: spawn, identify, find, signal, reap. The only importer of subprocess.

A stage's process outlives Orch if it must: its output goes to files, and a constant shell launcher writes its exit
code to a file by rename. Nobody is recognised by pid alone (pids are reused): a pid counts together with its start
time, and every process of a stage carries the stage's token in its environment, because launchers such as torchrun
(torch/distributed/elastic/multiprocessing/subprocess_handler) start their workers in sessions of their own, where no
signal to the launcher's group arrives.

A process that was started with PYTHONFAULTHANDLER=1 writes the stacks of its threads to its stderr on SIGABRT, and dies
of it. py-spy reads them from outside, where it is installed and the kernel lets it (ptrace).
"""
# ruff: noqa: D102  (the methods of `Processes` are the functions below it)

from __future__ import annotations

import ctypes
import errno
import os
import platform
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Protocol, TypeVar

TOKEN_VARIABLE = "ORCH_STAGE_TOKEN"  # noqa: S105  (a marker, not a secret)
# Python puts the working directory first on its path for -m and -c: what lies there would pass for any module.
SAFE_PATH = {"PYTHONSAFEPATH": "1"}
NOT_FOUND_CODE = 127
KILLED_CODE = 128 + signal.SIGKILL

# Values arrive as "$@" only, so nothing in them is ever read as shell. The trap makes the shell wait for its child
# where the default action would end it before it can write the exit code; children get the default action back.
_LAUNCHER = """trap : INT TERM HUP
__orch_exit_code=$1 __orch_cwd=$2 __orch_part=${1%/*}/.exit_code.$3.part
shift 3
cd -- "$__orch_cwd" && "$@"
set -- "$?"
set -C
printf '%s\\n' "$1" >"$__orch_part" && /bin/mv -f -- "$__orch_part" "$__orch_exit_code"
exit "$1"
"""
_STDERR = 2
_APPEND = os.O_WRONLY | os.O_CREAT | os.O_APPEND
_DEFAULT_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGPIPE)
SPY_S = 10.0
_PROC = Path("/proc")
_PR_SET_CHILD_SUBREAPER = 36
_START_FIELD = 19  # of /proc/PID/stat: the 22nd, the 20th after the name
_ON_LINUX = sys.platform.startswith("linux")
_Answer = TypeVar("_Answer")


@dataclass(frozen=True)
class Launch:
    """A request to start a stage: the whole environment, and absolute paths."""

    argv: tuple[str, ...]
    env: dict[str, str]
    cwd: Path
    stdout: Path
    stderr: Path
    exit_code: Path
    token: str


@dataclass(frozen=True)
class Child:
    """A started stage: its launcher's pid, group and start time, and the token that all of its processes carry."""

    pid: int
    pgid: int
    start: str
    token: str


@dataclass(frozen=True)
class Completed:
    """A finished probe; `exit_code` is None when it ran past its time, 127 when there is no such program."""

    argv: tuple[str, ...]
    exit_code: int | None
    stdout: str
    stderr: str


@dataclass(frozen=True)
class Entry:
    """One process. `start` is opaque: equal pid and equal start mean the same process, whatever has died between."""

    pid: int
    parent: int
    group: int
    is_zombie: bool
    start: str


class Processes(Protocol):
    """What the supervisor needs of the operating system: this module satisfies it, where each is described."""

    def spawn(self, launch: Launch, /) -> Child: ...
    def reap(self, child: Child, /) -> int | None: ...
    def is_alive(self, pid: int, start: str, /) -> bool: ...
    def find_with_env(self, variable: str, /) -> tuple[int, ...]: ...
    def find_members(self, child: Child, /) -> tuple[int, ...]: ...
    def signal_group(self, child: Child, number: int, /) -> None: ...
    def signal_pids(self, pids: tuple[int, ...], number: int, /) -> None: ...
    def count_oom_kills(self) -> int | None: ...
    def count_written_bytes(self, child: Child, /) -> dict[int, int]: ...
    def find_suspended(self, pids: tuple[int, ...], /) -> tuple[int, ...]: ...
    def find_spy(self, python: str, /) -> str | None: ...
    def read_stacks(self, spy: str, pid: int, /, *, suspended: bool) -> str | None: ...
    def has_faulthandler(self, pid: int, /) -> bool: ...
    def forbid_core(self, pid: int, /) -> None: ...


def spawn(launch: Launch) -> Child:
    """Start `launch` in a session of its own with nothing on stdin. Raises OSError when that cannot be done.

    posix_spawn rather than Popen: signals that Orch inherited as ignored (SIGHUP under nohup, SIGINT in a shell
    script's background) are reset for the child without running Python between fork and exec.
    """
    part = os.urandom(8).hex()
    argv = ["/bin/sh", "-c", _LAUNCHER, "orch-stage", str(launch.exit_code), str(launch.cwd), part, *launch.argv]
    streams = [
        (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
        (os.POSIX_SPAWN_OPEN, 1, str(launch.stdout), _APPEND | _no_link(launch.stdout), 0o644),
        (os.POSIX_SPAWN_OPEN, 2, str(launch.stderr), _APPEND | _no_link(launch.stderr), 0o644),
    ]
    pid = _spawn(argv, stage_environment(launch), streams)
    entry = read_entry(pid)  # cannot be reused yet: it is our child and not reaped
    return Child(pid=pid, pgid=pid, start=entry.start if entry else "", token=launch.token)


def spawn_beside(argv: tuple[str, ...], env: Mapping[str, str], stdin: int) -> int:
    """Start a process that Orch talks to by `stdin`, a socket, in a session of its own; return its pid.

    What its own forks leave behind becomes a child of this process. Raises OSError, also where the system has no such
    thing (PR_SET_CHILD_SUBREAPER, Linux).
    """
    if not _ON_LINUX or ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1):
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    silent = [(os.POSIX_SPAWN_OPEN, number, os.devnull, os.O_WRONLY, 0) for number in (1, 2)]
    return _spawn(argv, _make_safe(env), [(os.POSIX_SPAWN_DUP2, stdin, 0), *silent])


def _spawn(argv: list[str] | tuple[str, ...], env: Mapping[str, str], streams: list[tuple[Any, ...]]) -> int:
    """Start a process in a session of its own with these standard streams and default signals; return its pid.

    It gets no other descriptor: one that Orch's parent left open would hold that parent's pipes.
    """
    inherited = []
    for name in os.listdir("/dev/fd"):  # noqa: PTH208  (numbers, not paths)
        with suppress(OSError):  # the listing's own descriptor is closed by now
            if int(name) > _STDERR and os.get_inheritable(int(name)):
                inherited.append((os.POSIX_SPAWN_CLOSE, int(name)))
    actions = [*streams, *inherited]
    return os.posix_spawn(
        argv[0], argv, env, file_actions=actions, setsid=True, setsigmask=[], setsigdef=_DEFAULT_SIGNALS
    )


def end_child(pid: int) -> None:
    """Kill a child of this process, and its group where it leads one, and wait for it; one that is gone is no error."""
    for kill in (os.killpg, os.kill):
        with suppress(ProcessLookupError, PermissionError):
            kill(pid, signal.SIGKILL)
    with suppress(ChildProcessError):
        os.waitpid(pid, 0)


def open_log(path: Path) -> int:
    """Return a descriptor that appends to a stage's log, which must be no link."""
    return os.open(path, _APPEND | _no_link(path), 0o644)


def stage_environment(launch: Launch) -> dict[str, str]:
    """Return the environment of a stage's process."""
    return {**_make_safe(launch.env), TOKEN_VARIABLE: launch.token}


def _make_safe(env: Mapping[str, str]) -> dict[str, str]:
    """Return the environment in which a Python imports nothing of its working directory, unless that is named.

    An empty entry of PYTHONPATH, as `$PYTHONPATH:/more` leaves it, would mean that directory too.
    """
    safe = {**SAFE_PATH, **env}
    if "PYTHONPATH" in safe:
        entries = filter(None, safe.pop("PYTHONPATH").split(os.pathsep))
        safe |= {"PYTHONPATH": path} if (path := os.pathsep.join(entries)) else {}
    return safe


def _no_link(path: Path) -> int:
    """Return the flag that refuses a log which is a link; the names of our own descriptors are links by nature."""
    return 0 if path.parent == Path("/dev/fd") else os.O_NOFOLLOW


def reap(child: Child) -> int | None:
    """Return the exit code (128 + N for signal N) if `child` is ours and has ended; else None, once it was returned."""
    try:
        pid, status = os.waitpid(child.pid, os.WNOHANG)
    except ChildProcessError:
        return None
    if pid == 0:
        return None
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code


def is_alive(pid: int, start: str) -> bool:
    """Tell whether the process with that pid and that start runs (a zombie does not)."""
    if pid <= 0:
        return False
    if entry := read_entry(pid):
        return entry.start == start and not entry.is_zombie
    try:
        os.kill(pid, 0)  # it may be there, and its entry not be readable: no file handle is left
    except OSError:
        return False
    return True


def read_entry(pid: int) -> Entry | None:
    """Return one process, or None when there is none of that pid."""
    if _ON_LINUX:  # all of it in one read, and a start that no clock changes
        with suppress(OSError, ValueError):
            return parse_stat((_PROC / str(pid) / "stat").read_text(encoding="utf-8", errors="replace"))
        return None

    def describe(found: Any) -> Entry:
        return Entry(pid, found.ppid(), os.getpgid(pid), found.status() == "zombie", str(found.create_time()))

    return _look(pid, describe)


def parse_stat(text: str) -> Entry | None:
    """Return the process of one /proc/PID/stat line (proc_pid_stat(5)); its name may hold spaces and parentheses."""
    head, separator, tail = text.rpartition(")")
    fields = tail.split()
    if not separator or len(fields) <= _START_FIELD:
        return None
    start = f"{_boot_id()}:{fields[_START_FIELD]}"
    return Entry(int(head.split(None, 1)[0]), int(fields[1]), int(fields[2]), fields[0] in ("Z", "X", "x"), start)


@cache
def _boot_id() -> str:
    try:
        return (_PROC / "sys/kernel/random/boot_id").read_text(encoding="ascii").strip()[:8]
    except OSError:
        return "boot"


def read_table() -> dict[int, Entry]:
    """Return every process that can be seen, by its pid."""
    import psutil

    return {pid: entry for pid in psutil.pids() if (entry := read_entry(pid))}


def with_descendants(table: dict[int, Entry], roots: set[int]) -> set[int]:
    """Return `roots` and all that descend from them, whichever group or session they moved to."""
    children: dict[int, list[int]] = {}
    for entry in table.values():
        children.setdefault(entry.parent, []).append(entry.pid)
    found: set[int] = set()
    todo = list(roots)
    while todo:
        pid = todo.pop()
        if pid not in found:
            found.add(pid)
            todo.extend(children.get(pid, ()))
    return found


def _look(pid: int, ask: Callable[[Any], _Answer]) -> _Answer | None:
    """Return what `ask` says of a process (psutil's); None for one that is gone, or where nobody may or can look."""
    import psutil

    with suppress(psutil.Error, OSError, AttributeError, ValueError):
        return ask(psutil.Process(pid))
    return None


def has_env(pid: int, variable: str) -> bool:
    """Tell whether a process was started with `NAME=value` in its environment (False when that may not be read)."""
    name, _, value = variable.partition("=")
    return _look(pid, lambda found: bool(found.environ().get(name) == value)) or False


def has_open(pid: int, path: Path) -> bool | None:
    """Tell whether a process has that very file open, by whatever name; None where nobody may look, or nothing shows.

    A copy of the file is another one.
    """
    try:
        wanted = path.stat()
        descriptors = list((_PROC / str(pid) / "fd").iterdir())
    except OSError:
        return None
    for descriptor in descriptors:
        with suppress(OSError):
            if os.path.samestat(descriptor.stat(), wanted):
                return True
    return False


def find_with_env(variable: str) -> tuple[int, ...]:
    """Return the pids that were started with `NAME=value` in their environment."""
    import psutil

    return tuple(pid for pid in sorted(psutil.pids()) if has_env(pid, variable))


def find_members(child: Child) -> tuple[int, ...]:
    """Return the live pids of a stage: its launcher's group, all descendants, and whoever carries its token."""
    table = read_table()
    roots = {pid for pid in table if has_env(pid, f"{TOKEN_VARIABLE}={child.token}")}
    leader = table.get(child.pid)
    # a launcher carries its token: a record that names any other process is forged
    if leader and leader.start == child.start and (leader.is_zombie or leader.pid in roots):
        roots |= {entry.pid for entry in table.values() if entry.group == child.pgid}
    members = with_descendants(table, roots)
    return tuple(sorted(pid for pid in members if not table[pid].is_zombie and pid != os.getpid()))


def signal_group(child: Child, number: int) -> None:
    """Signal the process group of `child`, if its launcher still runs (else the group's number may be another's)."""
    if is_alive(child.pid, child.start):
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(child.pgid, number)


def signal_pids(pids: tuple[int, ...], number: int) -> None:
    """Signal each process; those that are gone or not ours are skipped."""
    for pid in pids:
        with suppress(ProcessLookupError, PermissionError):
            os.kill(pid, number)


def self_identity() -> tuple[int, str]:
    """Return the pid and the start of this process."""
    entry = read_entry(os.getpid())
    return os.getpid(), entry.start if entry else ""


def host() -> str:
    """Return this machine's name: pids of another machine mean nothing here."""
    return platform.node()


def count_oom_kills() -> int | None:
    """Return the kernel's count of out-of-memory kills in this control group, or on this machine; None if unknown.

    Sources: memory.events (cgroup v2), memory.oom_control (v1), /proc/vmstat.
    """
    try:
        groups = (_PROC / "self/cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:
        groups = []
    files: list[Path] = []
    for _, controllers, path in (row.split(":", 2) for row in groups):
        if "memory" in controllers.split(","):
            root, name = Path("/sys/fs/cgroup/memory"), "memory.oom_control"
        elif not controllers:
            root, name = Path("/sys/fs/cgroup"), "memory.events"
        else:
            continue
        files += [root / path.lstrip("/") / name, root / name]
    for file in (*files, _PROC / "vmstat"):
        with suppress(OSError, KeyError, ValueError):
            rows = dict(line.split(None, 1) for line in file.read_text(encoding="ascii").splitlines())
            return int(rows["oom_kill"])
    return None


def count_written_bytes(child: Child) -> dict[int, int]:
    """Return how many bytes each process of a stage has caused to be written to disks; empty where nobody counts."""
    counts = {pid: _look(pid, lambda found: int(found.io_counters().write_bytes)) for pid in find_members(child)}
    return {pid: count for pid, count in counts.items() if count is not None}


def run(argv: tuple[str, ...], timeout_s: float, *, env: dict[str, str] | None = None, stdin: str = "") -> Completed:
    """Run a short probe and return what it said. It and what it started are killed after `timeout_s`."""
    try:
        process = subprocess.Popen(
            argv,
            env=_make_safe(os.environ if env is None else env),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
            encoding="utf-8",
            errors="replace",
        )
    except OSError as error:
        return Completed(argv, NOT_FOUND_CODE, "", str(error))
    with process:
        try:
            stdout, stderr = process.communicate(stdin, timeout=timeout_s)
            return Completed(argv, process.returncode, stdout, stderr)
        except BaseException as error:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
            if not isinstance(error, subprocess.TimeoutExpired):
                raise
            return Completed(argv, None, *process.communicate())


def run_visibly(argv: tuple[str, ...]) -> int:
    """Run a command of the user's and show on stderr all that it says; return its exit code.

    It stays in this process group, so that Ctrl-C ends it too. stdout is left to Orch's own results. Raises OSError
    where there is no such command.
    """
    process = subprocess.Popen(argv, env=_make_safe(os.environ), stdin=subprocess.DEVNULL, stdout=_STDERR)
    with process:
        try:
            return process.wait()
        except BaseException:
            process.terminate()
            raise


def find_suspended(pids: tuple[int, ...]) -> tuple[int, ...]:
    """Return those that are stopped by a signal (SIGSTOP, SIGTSTP) or a debugger."""
    import psutil

    halted = (psutil.STATUS_STOPPED, psutil.STATUS_TRACING_STOP)
    return tuple(pid for pid in pids if _look(pid, lambda found: found.status()) in halted)


def find_spy(python: str) -> str | None:
    """Return the program py-spy: on PATH, or beside a backend's Python."""
    beside = Path(python).with_name("py-spy")
    return str(beside) if beside.is_file() else shutil.which("py-spy")


def read_stacks(spy: str, pid: int, *, suspended: bool) -> str | None:
    """Return what py-spy says of a process; None for one that is no Python, or that may not be looked into."""
    # it halts the process while it looks, which never returns for one that is halted already
    argv = (spy, "dump", "--pid", str(pid), *(["--nonblocking"] if suspended else []))
    said = run(argv, SPY_S)
    return said.stdout if said.exit_code == 0 and said.stdout.strip() else None


def has_faulthandler(pid: int) -> bool:
    """Tell whether SIGABRT makes the process write its stacks: Python, started with PYTHONFAULTHANDLER=1."""
    program = _look(pid, lambda found: Path(found.exe()).name) or ""
    return program.startswith("python") and has_env(pid, "PYTHONFAULTHANDLER=1")


def forbid_core(pid: int) -> None:
    """Keep a process that is about to abort from writing its memory (all of a model) to the disk."""
    import psutil

    _look(pid, lambda found: found.rlimit(psutil.RLIMIT_CORE, (0, 0)))
