"""One supervisor a run folder: an flock on RUN/lock that ends with the process, and its sign of life."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from orchestrator import process
from orchestrator.errors import RunFolderError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from orchestrator.rundir import RunDir


@dataclass(frozen=True)
class Holder:
    """Who holds, or last held, a run folder, and when it last showed life (unix seconds)."""

    pid: int
    start: str
    host: str
    since: str
    seen: float

    def is_alive(self) -> bool:
        """Tell whether the holder runs: by its process here, by its sign of life when it is on another machine."""
        if self.host == process.host():
            return process.is_alive(self.pid, self.start)
        return time.time() - self.seen < STALE_AFTER_S


HEARTBEAT_S = 10.0
STALE_AFTER_S = 60.0


@contextmanager
def held_lock(run_dir: RunDir) -> Iterator[None]:
    """Hold the run folder. Raises RunFolderError when another process holds it, or the file system has no locks."""
    run_dir.lock.parent.mkdir(parents=True, exist_ok=True)
    holder = load_holder(run_dir)
    descriptor = os.open(run_dir.lock, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
                raise _busy(run_dir, load_holder(run_dir)) from error
            raise RunFolderError(
                f"cannot lock {run_dir.lock}: {error.strerror}", hint="put the runs on a file system with file locks"
            ) from error
        if holder and holder.host != process.host() and holder.is_alive():
            raise _busy(run_dir, holder)
        pid, start = process.self_identity()
        content = {"pid": pid, "start": start, "host": process.host(), "since": time.strftime("%Y-%m-%d %H:%M:%S")}
        os.ftruncate(descriptor, 0)
        os.write(descriptor, json.dumps(content).encode() + b"\n")
        yield
    finally:
        os.close(descriptor)


def show_life(run_dir: RunDir) -> None:
    """Renew the holder's sign of life; call it every `HEARTBEAT_S` seconds."""
    os.utime(run_dir.lock)


def load_holder(run_dir: RunDir) -> Holder | None:
    """Return who holds or last held the run folder, or None when nobody ever did."""
    try:
        values = json.loads(run_dir.lock.read_text(encoding="utf-8"))
        seen = run_dir.lock.stat().st_mtime
        return Holder(int(values["pid"]), values["start"], values["host"], values["since"], seen)
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _busy(run_dir: RunDir, holder: Holder | None) -> RunFolderError:
    folder: Path = run_dir.root
    who = "another process"
    if holder:
        place = "" if holder.host == process.host() else f" on {holder.host}"
        who = f"process {holder.pid}{place} (since {holder.since})"
    return RunFolderError(
        f"the run folder is busy: {who} supervises {folder}",
        hint=f"follow it with `orch logs -f {folder}`, or end it with `orch stop {folder}`",
    )
