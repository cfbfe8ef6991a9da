"""What a run's supervisor must leave on disk to be replaced: the run's state, each launch, each result, its lock."""

from __future__ import annotations

import errno
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

from orchestrator.errors import RunFolderError
from orchestrator.machine import process
from orchestrator.machine.files import PART_PATTERN, open_regular, read_regular, try_lock, write_json
from orchestrator.machine.json_files import DamagedJsonError, Record, build_record, load_object
from orchestrator.machine.process import Child, Processes
from orchestrator.machine.rundir import RunDir, StageDir
from orchestrator.machine.secrets import is_secret
from orchestrator.run.stopping import Clock

STATE_VERSION = 1
_MOST_DIGITS = 8


@dataclass(frozen=True)
class RunState:
    """state.json. `status` is running, done, failed or interrupted; `child` is the running stage's process."""

    status: str
    started: float
    stage: str | None = None
    child: Child | None = None
    reason: str | None = None
    message: str | None = None
    exit_code: int | None = None
    finished: float | None = None
    version: int = STATE_VERSION


@dataclass(frozen=True)
class LaunchRecord:
    """command.json: what was launched, written before the launch. Log offsets (bytes) say where this attempt begins."""

    argv: tuple[str, ...]
    env: tuple[tuple[str, str], ...]
    cwd: str
    digest: str
    attempt: int
    token: str
    started: float
    stdout_offset: int = 0
    stderr_offset: int = 0
    resumed_from: str | None = None
    fallback: int = 0  # how many of the stage's fallbacks were taken before, each after memory ran out
    version: int = STATE_VERSION


@dataclass(frozen=True)
class StageResult:
    """result.json: its presence with the right digest is what "done" means."""

    stage: str
    status: str
    exit_code: int
    digest: str
    started: float
    finished: float
    seconds: float
    attempts: int
    version: int = STATE_VERSION


def read_state(run_dir: RunDir) -> RunState | None:
    """Return the run's state, None when it never ran. Raises RunFolderError when state.json is not one."""
    try:
        return _read(RunState, run_dir.state_json)
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise RunFolderError(
            f"{run_dir.state_json} is damaged, or another version of Orch wrote it: {error}",
            hint=f"orch resume {run_dir.root} writes it anew, and ends what an earlier supervisor left",
        ) from error


def find_state(run_dir: RunDir) -> RunState | None:
    """Return the run's state, None also where state.json is damaged."""
    with suppress(RunFolderError):
        return read_state(run_dir)
    return None


def write_state(run_dir: RunDir, state: RunState) -> None:
    """Write state.json by rename. A run folder that was removed is not made again: raises FileNotFoundError."""
    run_dir.root.stat()
    write_json(run_dir.state_json, asdict(state))


def load_launch(stage_dir: StageDir) -> LaunchRecord | None:
    """Return the stage's last launch, or None when there is none that can be read."""
    return _find(LaunchRecord, stage_dir.command_json)


def write_launch(stage_dir: StageDir, record: LaunchRecord) -> None:
    """Write command.json by rename, without the values of secrets."""
    write_json(stage_dir.command_json, asdict(replace(record, env=redact(record.env))))


def load_result(stage_dir: StageDir) -> StageResult | None:
    """Return the stage's result, or None when it is not done."""
    return _find(StageResult, stage_dir.result_json)


def write_result(stage_dir: StageDir, result: StageResult) -> None:
    """Write result.json by rename."""
    write_json(stage_dir.result_json, asdict(result))


def read_exit_code(stage_dir: StageDir) -> int | None:
    """Return the exit code that the launcher wrote, or None when it could not."""
    with suppress(OSError, ValueError):
        return int(read_regular(stage_dir.exit_code, most_bytes=_MOST_DIGITS))
    return None


def redact(env: tuple[tuple[str, str], ...]) -> tuple[tuple[str, str], ...]:
    """Return the environment with the values of what looks like a secret replaced."""
    return tuple((name, "***" if is_secret(name) else value) for name, value in env)


def _read(kind: type[Record], path: Path) -> Record:
    """Return the record of a file. Raises OSError, and DamagedJsonError also for keys of another version."""
    values = load_object(path)
    if unknown := values.keys() - {item.name for item in fields(kind)}:  # type: ignore[arg-type]
        raise DamagedJsonError(f"it has the unknown key {min(unknown)}")
    return build_record(kind, values)


def _find(kind: type[Record], path: Path) -> Record | None:
    with suppress(OSError, ValueError):
        return _read(kind, path)
    return None


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
    try:
        run_dir.root.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(run_dir.lock, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644)
    except OSError as error:
        raise explain_os_error(run_dir, error) from error
    try:
        try:
            if not try_lock(descriptor):
                raise _busy(run_dir, load_holder(run_dir))
        except OSError as error:
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
            # what a killed supervisor was just writing: nobody else writes such files while the lock is held
            for folder in (run_dir.root, *run_dir.root.glob("stages/*")):
                for path in folder.glob(PART_PATTERN):
                    path.unlink(missing_ok=True)
        except OSError as error:
            raise explain_os_error(run_dir, error) from error
        yield
    finally:
        os.close(descriptor)


def touch_heartbeat(run_dir: RunDir) -> None:
    """Renew the holder's sign of life; call it every `HEARTBEAT_S` seconds. Raises FileNotFoundError when it is gone.

    A file system that fails for a moment, or has become read-only, is no reason to end a training here.
    """
    try:
        os.utime(run_dir.lock)
    except OSError as error:
        if error.errno == errno.ENOENT:
            raise


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
        with open_regular(run_dir.lock, follow=False) as stream:
            try:
                return not try_lock(stream.fileno(), shared=True)
            except OSError:  # a file system without locks
                return True
    except OSError:
        return False


def wait_for_lost_holder(run_dir: RunDir, clock: Clock = time) -> None:
    """Wait until the sign of life of a holder on another machine is old, or is renewed: that one may be lost."""
    holder = load_holder(run_dir)
    while holder and holder.host != process.host() and holder.is_alive():
        clock.sleep(HEARTBEAT_S)
        seen, holder = holder.seen, load_holder(run_dir)
        if holder and holder.seen != seen:
            return


def load_holder(run_dir: RunDir) -> Holder | None:
    """Return who holds or last held the run folder, or None when nobody ever did."""
    try:
        holder = build_record(Holder, {**load_object(run_dir.lock), "seen": run_dir.lock.stat().st_mtime})
    except (OSError, ValueError):
        return None
    return holder if 0 < holder.pid < _MOST_PID else None


def _busy(run_dir: RunDir, holder: Holder | None) -> RunFolderError:
    folder: Path = run_dir.root
    who = "another process"
    if holder:
        place = "" if holder.host == process.host() else f" on {holder.host}"
        who = f"process {holder.pid}{place} (since {holder.since})"
    hint = f"follow it with `orch logs -f {folder}`, or end it with `orch stop {folder}`"
    if not run_dir.plan_json.exists():  # a sweep's folder
        hint = "wait until it has ended, or press Ctrl-C there: the same command then goes on"
    return RunFolderError(f"the run folder is busy: {who} supervises {folder}", hint=hint)


@dataclass(frozen=True)
class Orphan:
    """A stage that may still run. Where only its token is known, `child.pid` is 0."""

    stage: str
    child: Child


def find_orphan(run_dir: RunDir, processes: Processes) -> Orphan | None:
    """Return the process that state.json names, alive or not; without it, a stage whose token somebody carries."""
    if state := find_state(run_dir):
        return Orphan(state.stage, state.child) if state.stage and state.child else None
    for folder in sorted(run_dir.root.glob("stages/*")):
        record = load_launch(run_dir.stage(folder.name))
        child = Child(0, 0, "", record.token) if record else None
        if child and processes.find_members(child):
            return Orphan(folder.name, child)
    return None
