"""Runs a plan's stages, one by one, and leaves the run resumable at any moment."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

from pydantic import ValidationError

from orchestrator.errors import InterruptedRunError, OrchError, RunFolderError, TakenAwayError
from orchestrator.logs.events import (
    EventLog,
    Listener,
    Message,
    RunFinished,
    RunStarted,
    StageFinished,
    StageSkipped,
    StageStarted,
    load_attempt_events,
    load_losses,
)
from orchestrator.logs.follow import scrub_logs
from orchestrator.logs.health import LossRules
from orchestrator.logs.live import LiveLog
from orchestrator.machine import process
from orchestrator.machine.json_files import find_object
from orchestrator.machine.process import Child, Processes
from orchestrator.machine.rundir import RunDir
from orchestrator.recipe.plan import Plan, Stage
from orchestrator.recipe.schema import Watch
from orchestrator.run.failures import Failure, build_failure, explain_end, explain_stop, find_next
from orchestrator.run.folder import refuse_links
from orchestrator.run.launching import Residents, clear_stale_build_locks, spawn_stage, write_plan, write_script
from orchestrator.run.resume import TRAIN, find_missing_outputs, prepare_attempt, share_stage, stage_digest
from orchestrator.run.state import (
    LaunchRecord,
    RunState,
    StageResult,
    explain_os_error,
    find_orphan,
    find_state,
    held_lock,
    load_launch,
    load_result,
    read_exit_code,
    touch_heartbeat,
    write_launch,
    write_result,
    write_state,
)
from orchestrator.run.stopping import (
    Clock,
    Interrupts,
    StopTimeouts,
    SupervisorDeps,
    counted_interrupts,
    end_orphan,
    stop_stage,
)
from orchestrator.run.watch import Limits, watch_stage


@dataclass(frozen=True)
class RunOutcome:
    """A finished run: each stage's result, with the status "skipped" where it was done before this call.

    `exit_code` is 0, or the other done code that a stage ended with (8: the gate was missed).
    """

    run_dir: RunDir
    stages: tuple[StageResult, ...]

    @property
    def exit_code(self) -> int:
        """The last code of a stage that is not 0."""
        return next((stage.exit_code for stage in reversed(self.stages) if stage.exit_code), 0)


def load_watch(plan: Plan) -> Watch:
    """Return `watch:` of the plan's recipe; the defaults for a plan that is older than this key."""
    try:
        return Watch.model_validate(plan.recipe.get("watch") or {})
    except ValidationError as error:
        message = f"`watch` in plan.json is not what Orch writes: {error.errors()[0]['msg']}"
        raise RunFolderError(message, hint="start a new run of the recipe") from error


class _Running(NamedTuple):
    """A stage's process that an earlier supervisor left alive."""

    stage: Stage
    child: Child
    record: LaunchRecord


@dataclass(frozen=True)
class _Run:
    """What all steps of one `run_plan` share."""

    plan: Plan
    folder: RunDir
    deps: SupervisorDeps
    state: RunState
    watch: Watch
    poll_s: float
    residents: Residents | None
    reusable_runs: Sequence[RunDir] = ()

    def limits(self, stage: Stage) -> Limits:
        return Limits(stage.timeout_s, self.watch.stall_timeout_s, self.poll_s, self._count_rows(stage))

    def _count_rows(self, stage: Stage) -> dict[str, int]:
        """Return the rows of each side that the ledger has kept, for a stage whose log counts rows."""
        sides = (find_object(self.folder.ledger_json) or {}).get("sides", {}) if stage.counts_rows else {}
        with suppress(AttributeError, TypeError, KeyError, ValueError):  # a ledger of another kind counts nothing
            return {name: int(side["kept"]) for name, side in sides.items()}
        return {}

    def log(self, stage: Stage, record: LaunchRecord) -> LiveLog:
        folder = self.folder.stage(stage.name)
        rules = LossRules(self.watch.diverged, self.watch.flat, self.watch.reports, stage.flat_loss)
        log = LiveLog(stage.name, folder, record.stdout_offset, record.stderr_offset, rules)
        if record.resumed_from:
            log.remember_losses(load_losses(self.folder.events_jsonl, stage.name))
        return log


def run_plan(
    plan: Plan,
    run_dir: RunDir,
    *,
    clock: Clock = time,
    processes: Processes = process,
    listener: Listener | None = None,
    interrupts: Interrupts | None = None,
    timeouts: StopTimeouts | None = None,
    stall_s: float | None = None,
    poll_s: float = 0.2,
    residents: Residents | None = None,
    reusable_runs: Sequence[RunDir] = (),
) -> RunOutcome:
    """Run every stage of `plan` that is not done; the same call starts a run and resumes one.

    Signals are caught when `interrupts` is not given; `timeouts` and `stall_s` go before the recipe's
    `launch.stop_patience_s` and `watch.stall_timeout_s`.
    Stages are forks of `residents` where these can. What comes before the training and is the same in one of the
    `reusable_runs`, run folders of this user's own, is taken from there.
    Raises RunFolderError (busy, moved, not writable), StageFailedError (or DataError, PreflightError from Orch's own
    stages), StalledError, InterruptedRunError.
    """
    if Path(plan.run_dir).resolve() != run_dir.root.resolve():
        raise RunFolderError(
            f"the plan was made for {plan.run_dir}, not for {run_dir.root}",
            hint="its commands name that folder: move the run back, or start a new run of the recipe",
        )
    with ExitStack() as stack:
        stack.enter_context(held_lock(run_dir))
        refuse_links(plan, run_dir)
        run_dir.stop_requested.unlink(missing_ok=True)
        counted = interrupts or stack.enter_context(counted_interrupts())
        events = EventLog(run_dir.events_jsonl, clock.time, listener)
        patience = (plan.recipe.get("launch") or {}).get("stop_patience_s")
        timeouts = timeouts or (StopTimeouts() if patience is None else StopTimeouts(interrupt_s=patience))
        deps = SupervisorDeps(processes, clock, counted, timeouts, events.emit, lambda: touch_heartbeat(run_dir))
        state = RunState("running", started=clock.time())
        watch = load_watch(plan)
        if stall_s is not None:
            watch = watch.model_copy(update={"stall_timeout_s": stall_s})
        run = _Run(plan, run_dir, deps, state, watch, poll_s, residents, reusable_runs)
        try:
            outcome = _run_stages(run)
        except OrchError as error:
            stopped = isinstance(error, InterruptedRunError | TakenAwayError)
            _close(run, "interrupted" if stopped else "failed", error)
            raise
        except OSError as error:
            failure = explain_os_error(run_dir, error)
            _close(run, "failed", failure)
            raise failure from error
        write_state(run_dir, replace(state, status="done", exit_code=outcome.exit_code, finished=clock.time()))
        deps.emit(RunFinished("done", outcome.exit_code))
        return outcome


def _run_stages(run: _Run) -> RunOutcome:
    write_plan(run.plan, run.folder)
    run.deps.emit(RunStarted(run.plan.name, tuple(stage.name for stage in run.plan.stages)))
    running = _find_running(run)
    write_state(run.folder, _with_child(run, running.stage, running.child) if running else run.state)
    outcomes: list[StageResult] = []
    for stage in run.plan.stages:
        if running and running.stage == stage:
            adopted, running = _adopt(run, running), None
            if adopted:
                outcomes.append(adopted)
                continue
        digest = stage_digest(run.plan, stage)
        if done := _find_done(run, stage, digest):
            run.deps.emit(StageSkipped(stage.name))
            outcomes.append(replace(done, status="skipped"))
            continue
        if running:  # what it works on is about to change
            _end_orphan(run, running.child, running.stage.name)
            running = None
        if run.deps.interrupts.count:
            raise explain_stop(run.deps.interrupts, run.folder, stage.name)
        if shared := _reuse_result(run, stage):
            outcomes.append(shared)
            continue
        outcomes.append(_launch(run, stage, digest))
    return RunOutcome(run.folder, tuple(outcomes))


def _reuse_result(run: _Run, stage: Stage) -> StageResult | None:
    """Return the result of a stage before the training that another run has made, with what it made in its place."""
    train = run.plan.stage(TRAIN)
    if not run.reusable_runs or train is None or run.plan.stages.index(stage) >= run.plan.stages.index(train):
        return None
    if (source := share_stage(run.plan, stage, run.folder, run.reusable_runs)) is None:
        return None
    run.deps.emit(StageSkipped(stage.name))
    run.deps.emit(Message("info", f"taken from {source}: the same command, files and inputs", stage.name))
    result = load_result(run.folder.stage(stage.name))
    return replace(result, status="skipped") if result else None


def _find_running(run: _Run) -> _Running | None:
    """Return the process that a killed supervisor left, if it does what the plan asks; end any other."""
    if (left := find_orphan(run.folder, run.deps.processes)) is None:
        return None
    record = load_launch(run.folder.stage(left.stage))
    stage = next((stage for stage in run.plan.stages if stage.name == left.stage), None)
    alive = run.deps.processes.is_alive(left.child.pid, left.child.start)
    if alive and stage and record and record.token == left.child.token:
        if record.digest == stage_digest(run.plan, stage):
            return _Running(stage, left.child, record)
        run.deps.emit(Message("warning", "still runs with another plan or other inputs: stopped", stage.name))
    _end_orphan(run, left.child, left.stage)
    return None


def _end_orphan(run: _Run, child: Child, stage: str) -> None:
    if not (members := run.deps.processes.find_members(child)):
        return
    run.deps.emit(Message("warning", f"ends processes {', '.join(map(str, members))} of an earlier attempt", stage))
    if left := end_orphan(child, run.folder.stage(stage), run.deps):
        raise RunFolderError(
            f"processes {', '.join(map(str, left))} of {stage} are still there and cannot be killed",
            hint="they hang in the kernel (a dead network disk or device); resume when they are gone",
        )


def _find_done(run: _Run, stage: Stage, digest: str) -> StageResult | None:
    """Return the result of a stage that is done, also when it ended well while nobody watched."""
    folder = run.folder.stage(stage.name)
    if find_missing_outputs(stage, run.folder):
        return None
    if result := load_result(folder):
        return result if result.digest == digest else None
    record, code = load_launch(folder), read_exit_code(folder)
    if record is None or code not in stage.done_codes or record.digest != digest:
        return None
    log = run.log(stage, record)
    log.read_events(0.0, at_end=True)
    if log.fatal:
        run.deps.emit(Message("warning", f"ended unseen, and is not done: {log.fatal.message}", stage.name))
        return None
    return _finish_stage(run, stage, record, code, max(0.0, folder.exit_code.stat().st_mtime - record.started))


def _adopt(run: _Run, running: _Running) -> StageResult | None:
    """Follow what an earlier supervisor left; None when it fails: what killed that one may have hit both."""
    stage, record = running.stage, running.record
    log = run.log(stage, record)
    log.skip_reported(load_attempt_events(run.folder.events_jsonl, stage.name))
    run.deps.emit(Message("info", f"still runs as process {running.child.pid}: followed from here", stage.name))
    ended = _follow(run, stage, running.child, record, log)
    if isinstance(ended, StageResult):
        return ended
    if not ended.by_itself:
        raise ended.error
    text = f"what the killed supervisor left has failed too, so it starts again: {ended.error.problems[0].message}"
    run.deps.emit(Message("warning", text, stage.name))
    return None


def _launch(run: _Run, stage: Stage, digest: str) -> StageResult:
    """Run a stage, again and in smaller batches while memory runs out and the plan has them."""
    fallback = None
    while True:
        record, ended = _launch_once(run, stage, digest, fallback)
        if isinstance(ended, StageResult):
            return ended
        if (smaller := find_next(stage, record, ended)) is None:
            raise explain_end(stage, ended)
        fallback = record.fallback + 1
        run.deps.emit(Message("warning", f"memory ran out: it goes on with {smaller.title}", stage.name))
        if run.deps.interrupts.count:
            raise explain_stop(run.deps.interrupts, run.folder, stage.name)


def _launch_once(
    run: _Run, stage: Stage, digest: str, fallback: int | None
) -> tuple[LaunchRecord, StageResult | Failure]:
    deps = run.deps
    attempt = prepare_attempt(stage, run.folder, digest, deps.clock.time(), fallback=fallback)
    record = attempt.record
    folder = run.folder.stage(stage.name)
    write_launch(folder, record)
    write_script(run.plan, stage, run.folder, record)
    for note in [*attempt.notes, *clear_stale_build_locks(dict(stage.command.env), deps.processes)]:
        deps.emit(Message("info", note, stage.name))
    # The token is on disk before the process is there, so that a restart after a kill at this moment finds it.
    write_state(run.folder, _with_child(run, stage, Child(0, 0, "", record.token)))
    coming = run.plan.stages[run.plan.stages.index(stage) :]
    fork = partial(run.residents.spawn, coming, deps) if run.residents else None
    child = spawn_stage(stage, record, folder, deps.processes, fork)
    try:
        write_state(run.folder, _with_child(run, stage, child))
        deps.emit(StageStarted(stage.name, child.pid, record.attempt, record.resumed_from))
        return record, _follow(run, stage, child, record, run.log(stage, record))
    except OrchError:
        raise
    except BaseException:  # a bug, or a run folder that cannot be written: nothing may train on unseen
        stop_stage(child, deps, graceful=False)
        raise


def _follow(run: _Run, stage: Stage, child: Child, record: LaunchRecord, log: LiveLog) -> StageResult | Failure:
    folder, clock = run.folder.stage(stage.name), run.deps.clock
    begun, before = clock.monotonic(), max(0.0, clock.time() - record.started)  # the clock may be set meanwhile
    ending = watch_stage(stage.name, child, record, folder, log=log, limits=run.limits(stage), deps=run.deps)
    scrub_logs(folder)
    seconds = round(before + clock.monotonic() - begun, 3)
    missing = find_missing_outputs(stage, run.folder)
    done = ending.reason == "exited" and ending.exit_code in stage.done_codes and not missing
    # a scheduler signals all processes at once: the stage may have died of it before anybody could stop it
    if ending.reason == "stopped" or (run.deps.interrupts.taken and not done):
        run.deps.emit(StageFinished(stage.name, "stopped", ending.exit_code, seconds))
        raise explain_stop(run.deps.interrupts, run.folder, stage.name)
    if done and ending.exit_code is not None:
        return _finish_stage(run, stage, record, ending.exit_code, seconds)
    limits, recipe = run.limits(stage), run.plan.recipe
    failure = build_failure(stage, folder, record, ending, missing=missing, limits=limits, recipe=recipe)
    run.deps.emit(StageFinished(stage.name, failure.status, ending.exit_code, seconds))
    write_state(run.folder, replace(run.state, stage=stage.name, reason=failure.status))
    return failure


def _finish_stage(run: _Run, stage: Stage, record: LaunchRecord, exit_code: int, seconds: float) -> StageResult:
    """Declare a stage done: result.json is the last thing written."""
    scrub_logs(run.folder.stage(stage.name))  # also where it ended while nobody watched
    seconds, finished = round(seconds, 3), record.started + seconds
    run.deps.emit(StageFinished(stage.name, "done", exit_code, seconds))
    write_state(run.folder, replace(run.state, stage=stage.name))
    result = StageResult(
        stage.name, "done", exit_code, record.digest, record.started, finished, seconds, record.attempt
    )
    write_result(run.folder.stage(stage.name), result)
    return result


def _with_child(run: _Run, stage: Stage, child: Child) -> RunState:
    return replace(run.state, stage=stage.name, child=child)


def _close(run: _Run, status: str, error: OrchError) -> None:
    """Record how the run ended, as far as the disk lets us."""
    last = find_state(run.folder) or run.state
    ended = replace(last, status=status, child=None, message=error.problems[0].message, exit_code=error.exit_code)
    with suppress(OSError):
        write_state(run.folder, replace(ended, finished=run.deps.clock.time()))
    run.deps.emit(RunFinished(status, error.exit_code))
