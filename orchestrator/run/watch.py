"""One running stage, followed until it ends: logs become events; time, silence, losses and signals may end it early."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from orchestrator.logs.events import Event, Message, RowsLoaded
from orchestrator.logs.health import LossProblem
from orchestrator.logs.live import LiveLog
from orchestrator.machine.process import Child
from orchestrator.machine.rundir import StageDir
from orchestrator.run.state import HEARTBEAT_S, LaunchRecord, read_exit_code
from orchestrator.run.stopping import Clock, Stacks, SupervisorDeps, dump_stacks, stop_stage

# Lines that are no steps (an evaluation, a save, a warning that repeats) show that the process lives, not that it
# trains: for a while they count, and for good in a stage that has never shown a step.
TALK_FACTOR = 10
MAX_GAP_S = 60.0  # Orch itself was suspended for what lies above: nobody knows what the stage did meanwhile
WRITTEN_BYTES = 16 << 20
_LOOKS = 20  # at the disk, within the time that a stage may be silent
_LEAST_S = 10.0  # a look reads the process table
LINGER_S = 2.0  # what a stage's own processes may take to follow their launcher


@dataclass(frozen=True)
class Stall:
    """A stage that does not come on. `seconds` without (`kind`) output or steps, `since` that unix time."""

    kind: str
    seconds: float
    since: float


@dataclass(frozen=True)
class _Standstill:
    """So long a count has stood still, since that unix time."""

    since: float
    seconds: float = 0.0
    count: int = 0

    def advance(self, gap: float, count: int, unix: float) -> _Standstill:
        return replace(self, seconds=self.seconds + gap) if count == self.count else _Standstill(unix, 0.0, count)


class StallDetector:
    """Measures, look by look, how long a stage has said nothing new and how long it has made no step.

    It is a stall after `timeout_s`; never when None.
    """

    def __init__(self, timeout_s: float | None, clock: Clock) -> None:
        self._timeout_s, self._clock = timeout_s, clock
        self._looked_at = clock.monotonic()
        self._output = self._steps = _Standstill(clock.time())

    def look(self, output: int, steps: int) -> Stall | None:
        """Return the stall, if it is one by now. `output`, `steps`: how many of each the logs have shown so far."""
        now, unix = self._clock.monotonic(), self._clock.time()
        gap, self._looked_at = min(now - self._looked_at, MAX_GAP_S), now
        self._output = self._output.advance(gap, output, unix)
        self._steps = self._steps.advance(gap, steps, unix)
        if self._timeout_s is None:
            return None
        if self._output.seconds > self._timeout_s:
            return Stall("output", self._timeout_s, self._output.since)
        if steps and self._steps.seconds > TALK_FACTOR * self._timeout_s:
            return Stall("steps", TALK_FACTOR * self._timeout_s, self._steps.since)
        return None


class _DiskActivity:
    """Counts how often a stage's processes have written `WRITTEN_BYTES` or more to disk: a sign of life.

    Downloads and saves of large checkpoints say nothing for hours: huggingface_hub draws no bar where there is no
    terminal (utils/tqdm.py, is_tqdm_disabled), and no trainer tells how far a save has come. A training that hangs
    writes next to nothing: a tracker's few kilobytes a minute.
    """

    def __init__(self, child: Child, deps: SupervisorDeps, timeout_s: float | None) -> None:
        self._child, self._deps = child, deps
        self._every_s = float("inf") if timeout_s is None else max(timeout_s / _LOOKS, _LEAST_S)
        self._looked_at = deps.clock.monotonic()
        self._before: dict[int, int] = {}
        self._uncounted = self._count = 0

    def look(self) -> int:
        """Return how often it has been by now."""
        now = self._deps.clock.monotonic()
        if now - self._looked_at < self._every_s:
            return self._count
        self._looked_at = now
        written = self._deps.processes.count_written_bytes(self._child)
        self._uncounted += sum(max(0, count - self._before.get(pid, 0)) for pid, count in written.items())
        self._before = written
        if self._uncounted >= WRITTEN_BYTES:
            self._uncounted = 0
            self._count += 1
        return self._count


@dataclass(frozen=True)
class Limits:
    """When a stage is ended: after `timeout_s`, or after `stall_s` without anything new in its logs. None: never.

    `rows` says how many rows of each side a trainer must load; one that says another number is ended.
    """

    timeout_s: float | None = None
    stall_s: float | None = None
    poll_s: float = 0.2
    rows: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Ending:
    """How a stage ended. `reason`: exited, stopped (by the user), timed-out, stalled, rows-missing, or a loss's kind.

    `exit_code` None: unknown. `rows`: what the trainer said it had loaded, where that was another number. `at`: its
    last step in words. `loss` and `stall` say more of these reasons, `stacks` where the processes stood.
    """

    reason: str
    exit_code: int | None
    oom_kills: int = 0
    rows: RowsLoaded | None = None
    at: str = ""
    loss: LossProblem | None = None
    stall: Stall | None = None
    stacks: Stacks = field(default_factory=Stacks)


def watch_stage(
    stage: str,
    child: Child,
    record: LaunchRecord,
    folder: StageDir,
    *,
    log: LiveLog,
    limits: Limits,
    deps: SupervisorDeps,
) -> Ending:
    """Follow a launched or adopted stage to its end, and leave none of its processes behind."""
    oom_before = deps.processes.count_oom_kills()
    ending = _follow(child, record, log, limits, deps)
    by_itself = ending.reason == "exited"
    if by_itself:
        _end_stragglers(stage, child, deps)
    else:
        if ending.stall:
            ending = replace(ending, stacks=dump_stacks(child, folder, record.argv[0], deps))
        if left := stop_stage(child, deps):
            deps.emit(Message("error", f"could not kill processes {_join(left)}", stage))
    code = read_exit_code(folder)
    if not by_itself:
        folder.exit_code.unlink(missing_ok=True)  # a stage that was told to stop is never done, whatever its code
    late = _emit_all(log.read_events(deps.clock.monotonic(), at_end=True), limits, deps)
    code = ending.exit_code if code is None else code
    ending = replace(ending, exit_code=code, rows=ending.rows or late, at=log.describe_position())
    if by_itself and ending.rows:
        ending = replace(ending, reason="rows-missing")
    elif by_itself and log.fatal and code == 0:  # it ended before anybody could stop it
        ending = replace(ending, reason=log.fatal.kind, loss=log.fatal)
    elif by_itself and limits.rows and not log.has_counted_rows:
        deps.emit(Message("warning", "its log does not say how many rows it has loaded: nobody compared them", stage))
    return replace(ending, oom_kills=(deps.processes.count_oom_kills() or 0) - (oom_before or 0))


def _follow(child: Child, record: LaunchRecord, log: LiveLog, limits: Limits, deps: SupervisorDeps) -> Ending:
    clock = deps.clock
    heartbeat_at = clock.monotonic()
    began = clock.monotonic() - max(0.0, clock.time() - record.started)  # the clock may be set while a stage runs
    stalls = StallDetector(limits.stall_s, clock)
    disk = _DiskActivity(child, deps, limits.stall_s)
    while True:
        code = deps.processes.reap(child)
        if code is not None or not deps.processes.is_alive(child.pid, child.start):
            return Ending("exited", code)
        now = clock.monotonic()
        if rows := _emit_all(log.read_events(now), limits, deps):
            return Ending("rows-missing", None, rows=rows)
        if deps.interrupts.count:
            return Ending("stopped", None)
        if log.fatal:
            return Ending(log.fatal.kind, None, loss=log.fatal)
        if limits.timeout_s is not None and now - began > limits.timeout_s:
            return Ending("timed-out", None)
        if stall := stalls.look(log.new_output + disk.look(), log.progress_count):
            return Ending("stalled", None, stall=stall)
        if now - heartbeat_at > HEARTBEAT_S:
            deps.touch_heartbeat()
            heartbeat_at = now
        clock.sleep(limits.poll_s)


def _emit_all(events: list[Event], limits: Limits, deps: SupervisorDeps) -> RowsLoaded | None:
    """Pass the events on; return the one that says another number of rows than there must be."""
    wrong = None
    for event in events:
        deps.emit(event)
        if isinstance(event, RowsLoaded) and limits.rows.get(event.side, event.rows) != event.rows:
            wrong = wrong or event
    return wrong


def _end_stragglers(stage: str, child: Child, deps: SupervisorDeps) -> None:
    """End what outlived its launcher: workers of a killed torchrun train on, and hold the GPU."""
    end = deps.clock.monotonic() + LINGER_S
    while (members := deps.processes.find_members(child)) and deps.clock.monotonic() < end:
        deps.clock.sleep(0.1)
    if members:
        deps.emit(Message("warning", f"processes {_join(members)} outlived the stage and were ended", stage))
        stop_stage(child, deps, graceful=False)


def _join(pids: tuple[int, ...]) -> str:
    return ", ".join(map(str, pids))
