"""The stage loop: skip what is done, launch or adopt the rest one by one, and leave the run resumable at any moment."""

from __future__ import annotations

import os
import shlex
import time
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator import process
from orchestrator.errors import InterruptedRunError, OrchError, RunFolderError, StageFailedError
from orchestrator.events import (
    EventLog,
    Listener,
    Message,
    RunFinished,
    RunStarted,
    StageFinished,
    StageSkipped,
    StageStarted,
    load_events,
)
from orchestrator.logs.live import LiveLog
from orchestrator.process import Child, Launch, Processes
from orchestrator.rundir import RunDir, StageDir, write_text
from orchestrator.secrets import rename_hub_token
from orchestrator.supervise.attempts import find_missing_outputs, prepare_attempt
from orchestrator.supervise.build_locks import clear_stale_build_locks
from orchestrator.supervise.digests import stage_digest
from orchestrator.supervise.failures import Failure, build_failure
from orchestrator.supervise.interrupts import Interrupts, counted_interrupts
from orchestrator.supervise.lock import held_lock, show_life
from orchestrator.supervise.rows import load_expected_rows
from orchestrator.supervise.state import (
    LaunchRecord,
    RunState,
    StageResult,
    load_launch,
    load_result,
    read_exit_code,
    read_state,
    redact,
    write_launch,
    write_result,
    write_state,
)
from orchestrator.supervise.stopping import PATIENCE, Clock, Patience, stop_stage
from orchestrator.supervise.watch import Ending, Limits, Surroundings, watch_stage

if TYPE_CHECKING:
    from orchestrator.plan import Plan, Stage

STALL_S = 3600.0  # a first DeepSpeed build or a large download is silent for minutes, not for an hour


@dataclass(frozen=True)
class StageOutcome:
    """How a stage came to be done in this call: `status` is done, or skipped when it was done before."""

    name: str
    status: str
    exit_code: int
    seconds: float
    attempts: int


@dataclass(frozen=True)
class RunOutcome:
    """A finished run. `exit_code` is 0, or the other done code that a stage ended with (8: the gate was missed)."""

    run_dir: RunDir
    stages: tuple[StageOutcome, ...]

    @property
    def exit_code(self) -> int:
        """The last code of a stage that is not 0."""
        return next((stage.exit_code for stage in reversed(self.stages) if stage.exit_code), 0)


@dataclass(frozen=True)
class _Running:
    """A stage's process that an earlier supervisor left alive."""

    stage: Stage
    child: Child
    record: LaunchRecord


@dataclass(frozen=True)
class _Run:
    """What all steps of one `run_plan` share."""

    plan: Plan
    folder: RunDir
    edges: Surroundings
    state: RunState
    stall_s: float | None
    poll_s: float

    def limits(self, stage: Stage) -> Limits:
        return Limits(stage.timeout_s, self.stall_s, self.poll_s, load_expected_rows(stage, self.folder))


def run_plan(
    plan: Plan,
    run_dir: RunDir,
    *,
    clock: Clock = time,
    processes: Processes = process,
    listener: Listener | None = None,
    interrupts: Interrupts | None = None,
    patience: Patience = PATIENCE,
    stall_s: float | None = STALL_S,
    poll_s: float = 0.2,
) -> RunOutcome:
    """Run every stage of `plan` that is not done; the same call starts a run and resumes one.

    Signals are caught when `interrupts` is not given. Raises RunFolderError (busy, moved, not writable),
    StageFailedError (or DataError, PreflightError from Orch's own stages), StalledError, InterruptedRunError.
    """
    if Path(plan.run_dir).resolve() != run_dir.root.resolve():
        raise RunFolderError(
            f"the plan was made for {plan.run_dir}, not for {run_dir.root}",
            hint="its commands name that folder: move the run back, or start a new run of the recipe",
        )
    with ExitStack() as stack:
        stack.enter_context(held_lock(run_dir))
        counted = interrupts or stack.enter_context(counted_interrupts())
        events = EventLog(run_dir.events_jsonl, clock.time, listener)
        edges = Surroundings(processes, clock, counted, events.emit, lambda: show_life(run_dir), patience)
        state = RunState("running", started=clock.time())
        run = _Run(plan, run_dir, edges, state, stall_s, poll_s)
        try:
            outcome = _run_stages(run)
        except OrchError as error:
            _close(run, "interrupted" if isinstance(error, InterruptedRunError) else "failed", error)
            raise
        except OSError as error:
            failure = RunFolderError(f"cannot work in the run folder: {error}", hint="free some space, then resume")
            _close(run, "failed", failure)
            raise failure from error
        write_state(run_dir, replace(state, status="done", exit_code=outcome.exit_code, finished=clock.time()))
        edges.emit(RunFinished("done", outcome.exit_code))
        return outcome


def _run_stages(run: _Run) -> RunOutcome:
    _write_plan(run)
    run.edges.emit(RunStarted(run.plan.name, tuple(stage.name for stage in run.plan.stages)))
    running = _find_running(run)
    write_state(run.folder, _with_child(run, running.stage, running.child) if running else run.state)
    outcomes: list[StageOutcome] = []
    for stage in run.plan.stages:
        if running and running.stage == stage:
            adopted, running = _try_adopt(run, running), None
            if adopted:
                outcomes.append(adopted)
                continue
        digest = stage_digest(run.plan, stage)
        done = _find_done(run, stage, digest)
        if done:
            run.edges.emit(StageSkipped(stage.name))
            outcomes.append(StageOutcome(stage.name, "skipped", done.exit_code, done.seconds, done.attempts))
            continue
        if running:  # what it works on is about to change
            _stop_leftover(run, running.child, running.stage.name)
            running = None
        if run.edges.interrupts.count:
            raise _interrupted(run, stage)
        outcomes.append(_launch(run, stage, digest))
    return RunOutcome(run.folder, tuple(outcomes))


def _write_plan(run: _Run) -> None:
    """Write the plan and its rendered files where they are missing or differ."""
    texts = {file.path: file.text for file in run.plan.files} | {run.folder.plan_json.name: run.plan.to_json()}
    for name, text in texts.items():
        path = run.folder.root / name
        if not path.is_file() or path.read_bytes() != text.encode():
            write_text(path, text)


def _find_running(run: _Run) -> _Running | None:
    """Return the process that a killed supervisor left, if it does what the plan asks; end any other."""
    state = read_state(run.folder)
    if state is None or state.child is None or state.stage is None:
        return None
    record = load_launch(run.folder.stage(state.stage))
    stage = next((stage for stage in run.plan.stages if stage.name == state.stage), None)
    alive = run.edges.processes.is_alive(state.child.pid, state.child.start)
    if alive and stage and record and record.token == state.child.token:
        if record.digest == stage_digest(run.plan, stage):
            return _Running(stage, state.child, record)
        run.edges.emit(Message("warning", "still runs with another plan or other inputs: stopped", stage.name))
    _stop_leftover(run, state.child, state.stage)
    return None


def _stop_leftover(run: _Run, child: Child, stage: str) -> None:
    edges = run.edges
    members = edges.processes.find_members(child)
    if not members:
        return
    edges.emit(Message("warning", f"ends processes {', '.join(map(str, members))} of an earlier attempt", stage))
    left = stop_stage(
        child,
        processes=edges.processes,
        clock=edges.clock,
        patience=edges.patience,
        hurry=lambda: edges.interrupts.count > 1,
    )
    run.folder.stage(stage).exit_code.unlink(missing_ok=True)
    if left:
        raise RunFolderError(
            f"processes {', '.join(map(str, left))} of {stage} are still there and cannot be killed",
            hint="they hang in the kernel (a dead network disk or device); resume when they are gone",
        )


def _find_done(run: _Run, stage: Stage, digest: str) -> StageResult | None:
    """Return the result of a stage that is done, also when it ended well while nobody watched."""
    folder = run.folder.stage(stage.name)
    if find_missing_outputs(stage, run.folder):
        return None
    result = load_result(folder)
    if result:
        return result if result.digest == digest else None
    record, code = load_launch(folder), read_exit_code(folder)
    if record is None or code not in stage.done_codes or record.digest != digest:
        return None
    return _conclude(run, stage, record, code, folder.exit_code.stat().st_mtime)


def _try_adopt(run: _Run, running: _Running) -> StageOutcome | None:
    """Follow what an earlier supervisor left; None when it fails: what killed that one may have hit both."""
    try:
        return _adopt(run, running)
    except StageFailedError as error:
        text = f"what the killed supervisor left has failed too, so it starts again: {error.problems[0].message}"
        run.edges.emit(Message("warning", text, running.stage.name))
        return None


def _adopt(run: _Run, running: _Running) -> StageOutcome:
    stage, record = running.stage, running.record
    folder = run.folder.stage(stage.name)
    log = LiveLog(stage.name, folder, record.stdout_offset, record.stderr_offset)
    log.skip_reported([event for event in load_events(run.folder.events_jsonl) if _is_of(event, stage, record)])
    run.edges.emit(Message("info", f"still runs as process {running.child.pid}: followed from here", stage.name))
    return _follow(run, stage, running.child, record, log)


def _is_of(event: Any, stage: Stage, record: LaunchRecord) -> bool:
    return getattr(event, "stage", None) == stage.name and event.t >= record.started


def _launch(run: _Run, stage: Stage, digest: str) -> StageOutcome:
    edges = run.edges
    attempt = prepare_attempt(stage, run.folder, digest, edges.clock.time())
    record = attempt.record
    folder = run.folder.stage(stage.name)
    write_launch(folder, record)
    _write_script(run.plan, stage, folder, record)
    for note in [*attempt.notes, *clear_stale_build_locks(dict(stage.command.env), edges.processes)]:
        edges.emit(Message("info", note, stage.name))
    # The token is on disk before the process is there: whoever comes after a kill at this very moment finds it.
    write_state(run.folder, _with_child(run, stage, Child(0, 0, "", record.token)))
    env = rename_hub_token({**os.environ, **dict(stage.command.env)})
    paths = (Path(record.cwd), folder.stdout_log, folder.stderr_log, folder.exit_code)
    cwd, stdout, stderr, exit_code = (path.absolute() for path in paths)
    try:
        child = edges.processes.spawn(Launch(record.argv, env, cwd, stdout, stderr, exit_code, record.token))
    except OSError as error:
        raise StageFailedError(f"{stage.name} cannot be started: {error}", hint="see its command.sh") from error
    try:
        write_state(run.folder, _with_child(run, stage, child))
        edges.emit(StageStarted(stage.name, child.pid, record.attempt, record.resumed_from))
        log = LiveLog(stage.name, folder, record.stdout_offset, record.stderr_offset)
        return _follow(run, stage, child, record, log)
    except OrchError:
        raise
    except BaseException:  # a bug, or a run folder that cannot be written: nothing may train on unseen
        stop_stage(child, processes=edges.processes, clock=edges.clock, patience=edges.patience, gently=False)
        raise


def _follow(run: _Run, stage: Stage, child: Child, record: LaunchRecord, log: LiveLog) -> StageOutcome:
    folder = run.folder.stage(stage.name)
    ending = watch_stage(stage.name, child, record, folder, log=log, limits=run.limits(stage), edges=run.edges)
    finished = run.edges.clock.time()
    seconds = round(finished - record.started, 3)
    if ending.reason == "stopped":
        run.edges.emit(StageFinished(stage.name, "stopped", ending.exit_code, seconds))
        raise _interrupted(run, stage)
    missing = find_missing_outputs(stage, run.folder)
    if ending.reason == "exited" and ending.exit_code in stage.done_codes and not missing:
        result = _conclude(run, stage, record, ending.exit_code, finished)
        return StageOutcome(stage.name, "done", result.exit_code, result.seconds, result.attempts)
    failure = build_failure(stage, folder, record, ending, missing=missing, limits=run.limits(stage))
    raise _failed(run, stage, failure, ending, seconds)


def _failed(run: _Run, stage: Stage, failure: Failure, ending: Ending, seconds: float) -> OrchError:
    run.edges.emit(StageFinished(stage.name, failure.status, ending.exit_code, seconds))
    failed = replace(run.state, stage=stage.name, reason=failure.status)
    write_state(run.folder, failed)
    return failure.error


def _conclude(run: _Run, stage: Stage, record: LaunchRecord, exit_code: int, finished: float) -> StageResult:
    """Declare a stage done: result.json is the last thing written."""
    seconds = round(finished - record.started, 3)
    run.edges.emit(StageFinished(stage.name, "done", exit_code, seconds))
    write_state(run.folder, replace(run.state, stage=stage.name))
    result = StageResult(
        stage.name, "done", exit_code, record.digest, record.started, finished, seconds, record.attempt
    )
    write_result(run.folder.stage(stage.name), result)
    return result


def _interrupted(run: _Run, stage: Stage) -> InterruptedRunError:
    return InterruptedRunError(f"stopped at {stage.name}", hint=f"go on with `orch resume {run.folder.root}`")


def _with_child(run: _Run, stage: Stage, child: Child) -> RunState:
    return replace(run.state, stage=stage.name, child=child)


def _close(run: _Run, status: str, error: OrchError) -> None:
    """Record how the run ended, as far as the disk lets us."""
    last = read_state(run.folder) or run.state
    message = error.problems[0].message
    now = run.edges.clock.time()
    try:
        write_state(
            run.folder,
            replace(last, status=status, child=None, message=message, exit_code=error.exit_code, finished=now),
        )
    except OSError:
        return
    finally:
        run.edges.emit(RunFinished(status, error.exit_code))


def _write_script(plan: Plan, stage: Stage, folder: StageDir, record: LaunchRecord) -> None:
    """Write command.sh as launched, unless the plan has rendered one."""
    if plan.file(f"{stage.folder}/command.sh"):
        return
    public = set(redact(record.env))
    exports = [
        f"export {name}={shlex.quote(value)}" if (name, value) in public else f"# {name} comes from your environment"
        for name, value in record.env
    ]
    lines = ["#!/bin/sh", f"cd {shlex.quote(record.cwd)} || exit", *exports, f"exec {shlex.join(record.argv)}"]
    write_text(folder.command_sh, "\n".join(lines) + "\n")
