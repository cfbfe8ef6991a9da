"""One supervisor a run folder: an flock on RUN/lock that ends with the process, and its sign of life."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from orchestrator.errors import RunFolderError
from orchestrator.machine import process
from orchestrator.machine.json_files import load_object, require_types
from orchestrator.machine.rundir import PART_PATTERN, RunDir


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
        # a sign of life that lies ahead is as old as one behind: the clock was set back, and nobody has renewed it
        return abs(time.time() - self.seen) < STALE_AFTER_S


HEARTBEAT_S = 10.0
STALE_AFTER_S = 60.0
_MOST_PID = 1 << 31
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_FORBIDDEN = frozenset({errno.EROFS, errno.EACCES, errno.EPERM})


@contextmanager
def held_lock(run_dir: RunDir) -> Iterator[None]:
    """Hold the run folder. Raises RunFolderError when another process holds it, or it cannot be written or locked."""
    holder = load_holder(run_dir)
    descriptor = _open(run_dir)
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
        try:
            os.ftruncate(descriptor, 0)
            os.write(descriptor, json.dumps(content).encode() + b"\n")
            _remove_parts(run_dir)
        except OSError as error:
            raise explain_os_error(run_dir, error) from error
        yield
    finally:
        os.close(descriptor)


def show_life(run_dir: RunDir) -> None:
    """Renew the holder's sign of life; call it every `HEARTBEAT_S` seconds. Raises FileNotFoundError when it is gone.

    A file system that fails for a moment, or has become read-only, is no reason to end a training here.
    """
    try:
        os.utime(run_dir.lock)
    except FileNotFoundError:
        raise
    except OSError:
        return


def is_of_folder(error: OSError) -> bool:
    """Tell whether the error comes from the state of a disk: full, or not to be written."""
    return error.errno in _FULL | _FORBIDDEN


def explain_os_error(run_dir: RunDir, error: OSError) -> RunFolderError:
    """Return what a failed read or write in a run folder means, and what to do."""
    if error.errno == errno.ENOENT and not run_dir.root.is_dir():
        message = f"the run folder is gone: {run_dir.root} was removed or renamed"
        return RunFolderError(message, hint="put it back under this name and resume it, or start a new run")
    if error.errno in _FULL:
        hint = f"free some space, then resume: orch resume {run_dir.root}"
    elif error.errno in _FORBIDDEN:
        hint = "make the folder writable for this user, or start the run in another one with -o"
    else:
        hint = f"when that is mended, resume: orch resume {run_dir.root}"
    return RunFolderError(f"cannot work in the run folder: {error}", hint=hint)


def is_supervised(run_dir: RunDir) -> bool:
    """Tell whether an `orch` process has this very folder in its care: whom the lock names, and who has it open.

    A copy of a folder has a copy of the lock, which nobody holds; nor does a lock that was written by hand.
    """
    holder = load_holder(run_dir)
    if holder is None or not holder.is_alive() or run_dir.lock.is_symlink():
        return False
    if holder.host != process.host():
        return True
    has_open = process.has_open(holder.pid, run_dir.lock)
    return has_open if has_open is not None else _is_locked(run_dir)


def _is_locked(run_dir: RunDir) -> bool:
    """Tell whether anybody holds the lock, by trying to share it for a moment."""
    try:
        descriptor = os.open(run_dir.lock, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(descriptor)
    return False


def load_holder(run_dir: RunDir) -> Holder | None:
    """Return who holds or last held the run folder, or None when nobody ever did."""
    try:
        values = load_object(run_dir.lock)
        seen = run_dir.lock.stat().st_mtime
        holder = Holder(values["pid"], values["start"], values["host"], values["since"], seen)
        require_types(holder)
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return holder if 0 < holder.pid < _MOST_PID else None


def _open(run_dir: RunDir) -> int:
    try:
        run_dir.root.mkdir(parents=True, exist_ok=True)
        return os.open(run_dir.lock, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644)
    except OSError as error:
        raise explain_os_error(run_dir, error) from error


def _remove_parts(run_dir: RunDir) -> None:
    """Remove what a killed supervisor was just writing: nobody else writes such files while the lock is held."""
    for folder in (run_dir.root, *run_dir.root.glob("stages/*")):
        for path in folder.glob(PART_PATTERN):
            path.unlink(missing_ok=True)


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
