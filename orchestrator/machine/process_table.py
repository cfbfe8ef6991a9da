"""Who is alive: the kernel's process table, read from /proc, or from the text of `ps` where there is no /proc."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

PROC = Path("/proc")
PS_COLUMNS = "pid=,ppid=,pgid=,stat=,lstart="
_START_FIELD = 19  # the 22nd of the line, the 20th after the name
_PS_ROW = re.compile(r"\s*(\d+)\s+(\d+)\s+(\d+)\s+(\S+)\s+(.+?)\s*$")


@dataclass(frozen=True)
class Entry:
    """One process. `start` is opaque: equal pid and equal start mean the same process, whatever has died between."""

    pid: int
    parent: int
    group: int
    is_zombie: bool
    start: str


@cache
def _boot_id() -> str:
    try:
        return (PROC / "sys/kernel/random/boot_id").read_text(encoding="ascii").strip()[:8]
    except OSError:
        return "boot"


def parse_stat(text: str) -> Entry | None:
    """Return the process of one /proc/PID/stat line (proc_pid_stat(5)); its name may hold spaces and parentheses."""
    head, separator, tail = text.rpartition(")")
    fields = tail.split()
    if not separator or len(fields) <= _START_FIELD:
        return None
    return Entry(
        pid=int(head.split(None, 1)[0]),
        parent=int(fields[1]),
        group=int(fields[2]),
        is_zombie=fields[0] in ("Z", "X", "x"),
        start=f"{_boot_id()}:{fields[_START_FIELD]}",
    )


def parse_ps(text: str) -> dict[int, Entry]:
    """Return the processes in the output of `ps -axo` with `PS_COLUMNS` (start times in whole seconds)."""
    rows = (match for line in text.splitlines() if (match := _PS_ROW.match(line)))
    entries = (
        Entry(int(row[1]), int(row[2]), int(row[3]), row[4].startswith("Z"), " ".join(row[5].split())) for row in rows
    )
    return {entry.pid: entry for entry in entries}


def read_entry(pid: int) -> Entry | None:
    """Return one process from /proc, or None when there is none of that pid."""
    try:
        return parse_stat((PROC / str(pid) / "stat").read_text(encoding="utf-8", errors="replace"))
    except (OSError, ValueError):
        return None


def read_table() -> dict[int, Entry]:
    """Return every process that /proc shows."""
    pids = (int(path.name) for path in PROC.iterdir() if path.name.isdigit())
    return {pid: entry for pid in pids if (entry := read_entry(pid))}


def carries(pid: int, variable: bytes) -> bool:
    """Tell whether the process was started with `NAME=value` in its environment (False when that may not be read)."""
    try:
        return variable in (PROC / str(pid) / "environ").read_bytes().split(b"\0")
    except OSError:
        return False


def has_open(pid: int, path: Path) -> bool | None:
    """Tell whether a process has that very file open, by whatever name; None where nobody may look, or nothing shows.

    A copy of the file is another one.
    """
    try:
        wanted = path.stat()
        descriptors = list((PROC / str(pid) / "fd").iterdir())
    except OSError:
        return None
    for descriptor in descriptors:
        try:
            found = descriptor.stat()
        except OSError:
            continue
        if (found.st_dev, found.st_ino) == (wanted.st_dev, wanted.st_ino):
            return True
    return False


def read_written_bytes(pid: int) -> int | None:
    """Return `write_bytes` of a process (proc_pid_io(5)), or None where it may not be read."""
    try:
        rows = (PROC / str(pid) / "io").read_text(encoding="ascii").splitlines()
        return next(int(row.split()[1]) for row in rows if row.startswith("write_bytes:"))
    except (OSError, ValueError, IndexError, StopIteration):
        return None


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
