"""One running stage, followed until it ends: logs become events; time, silence, losses and signals may end it early."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from orchestrator.logs.events import Event, Message, RowsLoaded
from orchestrator.logs.health import LossProblem
from orchestrator.logs.live import LiveLog
from orchestrator.machine.process import Child, Processes
from orchestrator.machine.rundir import StageDir
from orchestrator.run.state import HEARTBEAT_S, LaunchRecord, read_exit_code
from orchestrator.run.stopping import Clock, Interrupts, Patience, Stacks, dump_stacks, stop_stage

# Lines that are no steps (an evaluation, a save, a warning that repeats) show that the process lives, not that it
# trains: for a while they count, and for good in a stage that has never shown a step.
TALK_FACTOR = 10
MAX_GAP_S = 60.0  # Orch itself was suspended for what lies above: nobody knows what the stage did meanwhile


@dataclass(frozen=True)
class Stall:
    """A stage that does not come on. `seconds` without (`kind`) news or steps, `since` that unix time."""

    kind: str
    seconds: float
    since: float


class Silence:
    """Measures, look by look, how long a stage has said nothing new and how long it has made no step."""

    def __init__(self, timeout_s: float | None, clock: Clock) -> None:
        """Call it a stall after `timeout_s`; never when None."""
        self._timeout_s = timeout_s
        self._clock = clock
        self._looked_at = clock.monotonic()
        self._news = _Wait(clock.time())
        self._steps = _Wait(clock.time())

    def look(self, news: int, steps: int) -> Stall | None:
        """Return the stall, if it is one by now. `news`, `steps`: how many of each the logs have shown so far."""
        now = self._clock.monotonic()
        gap, self._looked_at = min(now - self._looked_at, MAX_GAP_S), now
        unix = self._clock.time()
        self._news = self._news.after(gap, news, unix)
        self._steps = self._steps.after(gap, steps, unix)
        if self._timeout_s is None:
            return None
        if self._news.seconds > self._timeout_s:
            return Stall("news", self._timeout_s, self._news.since)
        if steps and self._steps.seconds > TALK_FACTOR * self._timeout_s:
            return Stall("steps", TALK_FACTOR * self._timeout_s, self._steps.since)
        return None


@dataclass(frozen=True)
class _Wait:
    """So long a count has stood still, since that unix time."""

    since: float
    seconds: float = 0.0
    count: int = 0

    def after(self, gap: float, count: int, unix: float) -> _Wait:
        if count != self.count:
            return _Wait(unix, 0.0, count)
        return _Wait(self.since, self.seconds + gap, count)


SIGN_BYTES = 16 << 20
_LOOKS = 20  # within the time that a stage may be silent
_LEAST_S = 10.0  # a look reads the process table


class DiskWrites:
    """Counts signs of life: one whenever a stage's processes have written `SIGN_BYTES` or more since the last."""

    def __init__(self, child: Child, processes: Processes, clock: Clock, timeout_s: float | None) -> None:
        """Look some times within `timeout_s`; never when None."""
        self._child = child
        self._processes = processes
        self._clock = clock
        self._every_s = None if timeout_s is None else max(timeout_s / _LOOKS, _LEAST_S)
        self._looked_at = clock.monotonic()
        self._before: dict[int, int] = {}
        self._unsigned = 0
        self._signs = 0

    def look(self) -> int:
        """Return how many signs there have been."""
        now = self._clock.monotonic()
        if self._every_s is None or now - self._looked_at < self._every_s:
            return self._signs
        self._looked_at = now
        written = self._processes.count_written_bytes(self._child)
        self._unsigned += sum(max(0, count - self._before.get(pid, 0)) for pid, count in written.items())
        self._before = written
        if self._unsigned >= SIGN_BYTES:
            self._unsigned = 0
            self._signs += 1
        return self._signs


LINGER_S = 2.0  # what a stage's own processes may take to follow their launcher


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


@dataclass(frozen=True)
class Surroundings:
    """The edges that a watch works with, so that tests can put fakes in their place."""

    processes: Processes
    clock: Clock
    interrupts: Interrupts
    emit: Callable[[Event], None]
    show_life: Callable[[], None]
    patience: Patience


def watch_stage(
    stage: str,
    child: Child,
    record: LaunchRecord,
    folder: StageDir,
    *,
    log: LiveLog,
    limits: Limits,
    edges: Surroundings,
) -> Ending:
    """Follow a launched or adopted stage to its end, and leave none of its processes behind."""
    oom_before = edges.processes.count_oom_kills()
    ending = _follow(child, record, log, limits, edges)
    if ending.reason == "exited":
        _reap_strays(stage, child, edges)
        code = _first_known(read_exit_code(folder), ending.exit_code)
    else:
        if ending.stall:
            ending = replace(ending, stacks=_dump_stacks(child, record, folder, edges))
        hurry = _second_signal(edges.interrupts)
        left = stop_stage(child, processes=edges.processes, clock=edges.clock, patience=edges.patience, hurry=hurry)
        if left:
            edges.emit(Message("error", f"could not kill processes {_join(left)}", stage))
        code = _first_known(read_exit_code(folder), ending.exit_code)
        folder.exit_code.unlink(missing_ok=True)  # a stage that was told to stop is never done, whatever its code
    late = _emit_all(log.read_events(edges.clock.monotonic(), at_end=True), limits, edges)
    ending = replace(ending, exit_code=code, rows=ending.rows or late, at=log.describe_position())
    if ending.reason == "exited":
        ending = _judge_end(stage, ending, log, limits, edges)
    return replace(ending, oom_kills=(edges.processes.count_oom_kills() or 0) - (oom_before or 0))


def _judge_end(stage: str, ending: Ending, log: LiveLog, limits: Limits, edges: Surroundings) -> Ending:
    """Return what the last lines of a stage that ended by itself make of it."""
    if ending.rows:
        return replace(ending, reason="rows-missing")
    if log.fatal and ending.exit_code == 0:  # it ended before anybody could stop it
        return replace(ending, reason=log.fatal.kind, loss=log.fatal)
    if limits.rows and not log.has_counted_rows:
        edges.emit(Message("warning", "its log does not say how many rows it has loaded: nobody compared them", stage))
    return ending


def _follow(child: Child, record: LaunchRecord, log: LiveLog, limits: Limits, edges: Surroundings) -> Ending:
    clock = edges.clock
    life_at = clock.monotonic()
    began = clock.monotonic() - max(0.0, clock.time() - record.started)  # the clock may be set while a stage runs
    silence = Silence(limits.stall_s, clock)
    writes = DiskWrites(child, edges.processes, clock, limits.stall_s)
    while True:
        code = edges.processes.reap(child)
        if code is not None or not edges.processes.is_alive(child.pid, child.start):
            return Ending("exited", code)
        now = clock.monotonic()
        if rows := _emit_all(log.read_events(now), limits, edges):
            return Ending("rows-missing", None, rows=rows)
        if edges.interrupts.count:
            return Ending("stopped", None)
        if log.fatal:
            return Ending(log.fatal.kind, None, loss=log.fatal)
        if limits.timeout_s is not None and now - began > limits.timeout_s:
            return Ending("timed-out", None)
        if stall := silence.look(log.new_output + writes.look(), log.progress_count):
            return Ending("stalled", None, stall=stall)
        if now - life_at > HEARTBEAT_S:
            edges.show_life()
            life_at = now
        clock.sleep(limits.poll_s)


def _emit_all(events: list[Event], limits: Limits, edges: Surroundings) -> RowsLoaded | None:
    """Pass the events on; return the one that says another number of rows than there must be."""
    wrong = None
    for event in events:
        edges.emit(event)
        if isinstance(event, RowsLoaded) and limits.rows.get(event.side, event.rows) != event.rows:
            wrong = wrong or event
    return wrong


def _dump_stacks(child: Child, record: LaunchRecord, folder: StageDir, edges: Surroundings) -> Stacks:
    return dump_stacks(child, folder, record.argv[0], processes=edges.processes, clock=edges.clock)


def _reap_strays(stage: str, child: Child, edges: Surroundings) -> None:
    """End what outlived its launcher: workers of a killed torchrun train on, and hold the GPU."""
    end = edges.clock.monotonic() + LINGER_S
    while (members := edges.processes.find_members(child)) and edges.clock.monotonic() < end:
        edges.clock.sleep(0.1)
    if members:
        edges.emit(Message("warning", f"processes {_join(members)} outlived the stage and were ended", stage))
        stop_stage(
            child,
            processes=edges.processes,
            clock=edges.clock,
            patience=edges.patience,
            gently=False,
            hurry=_second_signal(edges.interrupts),
        )


def _second_signal(interrupts: Interrupts) -> Callable[[], bool]:
    return lambda: interrupts.count > 1


def _first_known(*codes: int | None) -> int | None:
    return next((code for code in codes if code is not None), None)


def _join(pids: tuple[int, ...]) -> str:
    return ", ".join(map(str, pids))
