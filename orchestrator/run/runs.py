"""Runs seen from outside: list them, read their logs, stop one. Reads run folders only."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from orchestrator.errors import RunFolderError
from orchestrator.logs.follow import LogFollower
from orchestrator.machine import process
from orchestrator.machine.files import write_text
from orchestrator.machine.json_files import load_object
from orchestrator.machine.rundir import RunDir
from orchestrator.run.folder import is_own, load_plan_text
from orchestrator.run.state import (
    RunState,
    find_orphan,
    find_state,
    held_lock,
    is_supervised,
    load_holder,
    read_state,
    write_state,
)
from orchestrator.run.stopping import Interrupts, StopTimeouts, SupervisorDeps, end_orphan

POLL_S = 0.3
_MARGIN_S = 10.0  # what a supervisor may take besides its ladder


@dataclass(frozen=True)
class RunSummary:
    """One row of `orch ls`.

    `status`: running, done, failed, interrupted, planned (never started), or dead: it says running, but its
    supervisor is gone (`orch resume` takes it up). Times are unix seconds.
    """

    name: str
    path: Path
    status: str
    stage: str | None = None
    started: float | None = None
    finished: float | None = None
    message: str | None = None
    verdict: str | None = None


@dataclass(frozen=True)
class LogLine:
    """One line of a stage's log; `stream` is stdout or stderr."""

    stage: str
    stream: str
    text: str


def list_runs(root: Path, *, judged: bool = True) -> list[RunSummary]:
    """Return the runs in the folder `root`, newest first; with their verdicts where they shall be `judged`."""
    if not root.is_dir():
        return []
    found = []
    for folder in map(RunDir, root.iterdir()):
        signs = (folder.plan_json, folder.state_json, folder.job_ids)
        with suppress(OSError):  # a folder that this user may not look into
            if folder.root.is_dir() and any(map(os.path.lexists, signs)):
                found.append(summarise(folder, judged=judged))
    return sorted(found, key=lambda run: (run.started or 0.0, run.name), reverse=True)


def summarise(run_dir: RunDir, *, judged: bool = True) -> RunSummary:
    """Return one run's summary; a folder that cannot be read is one with status "damaged"."""
    name = run_dir.root.name
    try:
        state = read_state(run_dir)
        supervised = state is not None and state.status == "running" and is_supervised(run_dir)
    except RunFolderError as error:
        return RunSummary(name, run_dir.root, "damaged", message=error.problems[0].message)
    except OSError as error:
        return RunSummary(name, run_dir.root, "damaged", message=f"it cannot be read: {error.strerror}")
    if state is None:
        return RunSummary(name, run_dir.root, "planned")
    status = "dead" if state.status == "running" and not supervised else state.status
    verdict = None
    with suppress(OSError, ValueError, AttributeError):
        report = load_object(run_dir.report_json) if judged else {}
        verdict = ": ".join(str(report[key]) for key in ("verdict", "headline") if report.get(key)) or None
    return RunSummary(name, run_dir.root, status, state.stage, state.started, state.finished, state.message, verdict)


def stop_run(run_dir: RunDir, *, now: bool = False, timeouts: StopTimeouts | None = None) -> str:
    """End a run and say in one sentence what was done. The run can be resumed.

    Asks the supervisor (twice with `now`, which kills the stage at once); when there is none, ends what it left.
    Raises RunFolderError when the supervisor is on another machine or does not end, and where processes are left that
    are not this folder's to end: it is a copy, or somebody else made it.
    """
    deps = SupervisorDeps(interrupts=Interrupts(2 if now else 0), timeouts=timeouts or StopTimeouts())
    state = find_state(run_dir)
    if state is None and load_holder(run_dir) is None:
        return "it never started"
    if (state is None or state.status == "running") and is_supervised(run_dir):
        _require_original(run_dir)
        return _stop_supervisor(run_dir, deps)
    with held_lock(run_dir):
        return _stop_orphan(run_dir, state, deps)


def follow_logs(
    run_dir: RunDir,
    stage: str | None = None,
    *,
    follow: bool = True,
    exact: bool = False,
    is_coming: Callable[[RunDir], bool] = lambda _: False,
) -> Iterator[LogLine]:
    """Yield the log lines of one stage, or of all in their order; with `follow`, until the run is over.

    `is_coming` tells of a run that nobody supervises whether somebody will.
    `exact` lines hold every byte of the log but its secrets, as `LogFollower` says.

    Raises RunFolderError when there is no such stage.
    """
    stages = run_dir.root / "stages"
    known = sorted(path.name for path in stages.glob("*"))
    if stage and stage not in known:  # a name, never a path: ../.. is no stage
        hint = f"its stages: {', '.join(known) or 'none yet'}"
        raise RunFolderError(f"{run_dir.root.name} has no stage {stage}", hint=hint)
    followers: dict[tuple[str, str], LogFollower] = {}
    while True:
        # asked before reading, so that nothing is lost in between
        over = not follow or not (is_supervised(run_dir) or is_coming(run_dir))
        for name in [stage] if stage else sorted(path.name for path in stages.glob("*")):
            folder = run_dir.stage(name)
            for stream, path in (("stdout", folder.stdout_log), ("stderr", folder.stderr_log)):
                follower = followers.setdefault((name, stream), LogFollower(path, exact=exact))
                yield from (LogLine(name, stream, text) for text in follower.iter_lines(at_end=over))
        if over:
            return
        time.sleep(POLL_S)


def _stop_supervisor(run_dir: RunDir, deps: SupervisorDeps) -> str:
    holder = load_holder(run_dir)
    if holder is None or holder.host != process.host():
        place = holder.host if holder else "an unknown machine"
        raise RunFolderError(f"the run is supervised on {place}", hint=f"run `orch stop {run_dir.root}` there")
    end = deps.clock.monotonic() + deps.timeouts.total_s + _MARGIN_S
    ask_to_stop(run_dir)
    deps.processes.signal_pids((holder.pid,), signal.SIGTERM)
    deps.processes.signal_pids((holder.pid,), signal.SIGCONT)  # one that was suspended takes it when it continues
    if deps.is_forced():
        deps.clock.sleep(1)
        deps.processes.signal_pids((holder.pid,), signal.SIGTERM)
    while deps.processes.is_alive(holder.pid, holder.start):
        if deps.clock.monotonic() > end:
            raise RunFolderError(
                f"process {holder.pid} was asked to stop {run_dir.root.name} and has not ended",
                hint="`orch stop --now` kills the stage at once",
            )
        deps.clock.sleep(POLL_S)
    return f"stopped (process {holder.pid})"


def ask_to_stop(run_dir: RunDir) -> None:
    """Leave word that it is the user who stops the run. A folder that cannot be written keeps nobody from it."""
    with suppress(OSError):
        write_text(run_dir.stop_requested, "")


def _stop_orphan(run_dir: RunDir, state: RunState | None, deps: SupervisorDeps) -> str:
    left = find_orphan(run_dir, deps.processes)
    members = deps.processes.find_members(left.child) if left else ()
    if left and members:
        _require_started_here(run_dir, members)
        end_orphan(left.child, run_dir.stage(left.stage), deps)
    if state and state.status == "running":
        write_state(run_dir, replace(state, status="interrupted", child=None, finished=deps.clock.time()))
    if members:
        return f"its supervisor was gone; ended the {len(members)} processes that it left"
    return "nothing runs"


def _require_original(run_dir: RunDir) -> None:
    """Raise RunFolderError for a copy whose lock is the original's own file, by a hard link."""
    text, place = _find_place(run_dir)
    if place != run_dir.root.resolve() and place.is_dir():
        message = f"{run_dir.root} is a copy: what runs was started in {place}"
        raise RunFolderError(message, hint=f"to end that run: orch stop {place}")
    if run_dir.lock.stat().st_nlink > 1 and not is_own(run_dir, text):
        message = f"the lock of {run_dir.root} is that of another folder, and the run was not made by you"
        raise RunFolderError(message, hint="name the folder where the run was started")


def _require_started_here(run_dir: RunDir, members: tuple[int, ...]) -> None:
    """Raise RunFolderError unless this user's own plan for this very folder can have started these processes."""
    text, place = _find_place(run_dir)
    pids = ", ".join(map(str, members))
    if place != run_dir.root.resolve():
        message = f"{run_dir.root} is a copy: what it names as running (process {pids}) was started in {place}"
        raise RunFolderError(message, hint=f"to end that run: orch stop {place}")
    if not is_own(run_dir, text):
        message = f"{run_dir.root} was not made by you, or its plan.json was changed since"
        raise RunFolderError(
            f"{message}; it names processes of yours: {pids}",
            hint=f"look what they are; to end them: kill {' '.join(map(str, members))}",
        )


def _find_place(run_dir: RunDir) -> tuple[str, Path]:
    """Return the plan's text, and the folder that it was made for; this one where it does not say."""
    with suppress(RunFolderError):
        plan, text = load_plan_text(run_dir)
        return text, Path(plan.run_dir).resolve()
    return "", run_dir.root.resolve()
