"""A further host's part of a run: it runs the train command whenever host 0 does, and ends as host 0's run ends.

Host 0 supervises: it plans, and its run folder, on a disk that all hosts share, is all that a further host reads. What
that writes lies in a folder of its own beside the stage's logs.
"""

from __future__ import annotations

import uuid
from contextlib import ExitStack, suppress
from pathlib import Path

from orchestrator.errors import InterruptedRunError, OrchError, PreflightError, StageFailedError, TakenAwayError
from orchestrator.logs.diagnose import diagnose
from orchestrator.logs.follow import scrub_logs
from orchestrator.logs.row_texts import hide_rows
from orchestrator.machine.process import Child
from orchestrator.machine.rundir import RunDir, StageDir
from orchestrator.machine.terminal import Text
from orchestrator.recipe.plan import Stage
from orchestrator.run.failures import read_tails
from orchestrator.run.folder import load_own_plan
from orchestrator.run.launching import build_launch
from orchestrator.run.resume import TRAIN
from orchestrator.run.state import RunState, find_state, load_launch
from orchestrator.run.stopping import SupervisorDeps, counted_interrupts, stop_stage

WAIT_S = 1800.0  # as long as the processes of a training wait for one another
_POLL_S = 1.0
_FINISHED = frozenset({"done", "failed", "interrupted"})


class _Watch:
    """What a further host sees of host 0: its state, and how long ago it gave a sign of life."""

    def __init__(self, run: RunDir, wait_s: float, deps: SupervisorDeps) -> None:
        self._run, self._wait_s, self.deps = run, wait_s, deps
        self._first = find_state(run)  # may be what an earlier attempt left
        self._beat = self._read_beat()
        self._heard = deps.clock.monotonic()
        self._lives = False

    def look(self) -> RunState | None:
        """Return the state of host 0's present attempt; None before it has begun."""
        beat = self._read_beat()
        if beat != self._beat:
            self._beat, self._heard, self._lives = beat, self.deps.clock.monotonic(), True
        state = find_state(self._run)
        is_old = state == self._first and state is not None and state.status in _FINISHED - {"done"}
        return None if state is None or is_old or not (self._lives or state.status == "done") else state

    def require_sign_of_life(self) -> None:
        """Raise TakenAwayError where host 0 has given none for too long."""
        if self.deps.clock.monotonic() - self._heard > self._wait_s:
            raise TakenAwayError(SILENT.fill(self._wait_s))

    def _read_beat(self) -> int:
        with suppress(OSError):
            return self._run.lock.stat().st_mtime_ns
        return 0


def join_run(
    run: RunDir, rank: int, *, wait_s: float, trust_run: bool = False, deps: SupervisorDeps | None = None
) -> None:
    """Take part in the trainings of a run as host `rank`, until the run needs no further host.

    `wait_s`: how long host 0 may be silent. Raises PreflightError where its folder does not appear, TakenAwayError
    where it falls silent, else what host 0's own run ended with.
    """
    with ExitStack() as stack:
        deps = deps or SupervisorDeps(interrupts=stack.enter_context(counted_interrupts()))
        end = deps.clock.monotonic() + wait_s
        while not run.plan_json.is_file():
            if deps.interrupts.count:
                raise InterruptedRunError(STOPPED.fill())
            if deps.clock.monotonic() > end:
                raise PreflightError(NO_FOLDER.fill(run.root, wait_s), hint=SHARE.fill())
            deps.clock.sleep(_POLL_S)
        plan = load_own_plan(run, trust_run=trust_run)
        if stage := plan.stage(TRAIN):
            later = {one.name for one in plan.stages[plan.stages.index(stage) + 1 :]}
            _follow(_Watch(run, wait_s, deps), stage, later, run.stage(stage.name).root / f"host-{rank}")


def _follow(watch: _Watch, stage: Stage, later: set[str], place: Path) -> None:
    """Run the stage's command, with its logs in `place`, while host 0 runs it; until host 0 is at a later stage."""
    deps, own, folder = watch.deps, StageDir(place), StageDir(place.parent)
    child: Child | None = None
    joined = ""
    try:
        while True:
            state = watch.look()
            at = state.child.token if state and state.child and state.stage == stage.name else ""
            if child and deps.processes.reap(child) is not None:
                scrub_logs(own)
                child = None
            if deps.interrupts.count:
                kind = TakenAwayError if deps.interrupts.taken else InterruptedRunError
                raise kind(STOPPED.fill())
            if state and state.status in _FINISHED:
                _end(folder, state)
                return
            if state and state.stage in later:
                return
            watch.require_sign_of_life()
            record = load_launch(folder) if at and at != joined else None
            if at != joined and (not at or (record and record.token == at)):  # it has ended its attempt, or begun one
                if child:
                    stop_stage(child, deps)
                joined, child = at, None
                if record:
                    own.root.mkdir(exist_ok=True)
                    child = deps.processes.spawn(build_launch(stage, record, own, str(uuid.uuid4())))
            deps.clock.sleep(_POLL_S)
    finally:
        if child:
            stop_stage(child, deps)


def _end(folder: StageDir, state: RunState) -> None:
    """Raise what host 0's run ended with, and why, by its own logs: both hosts then say the same to their engine."""
    if state.status == "done":
        return
    kinds = {kind.exit_code: kind for kind in OrchError.__subclasses__()}
    kind = kinds.get(state.exit_code or 0, StageFailedError)
    record = load_launch(folder)
    name: str | None = None
    if kind is StageFailedError and record and state.stage == folder.root.name:
        name = diagnose(hide_rows(read_tails(folder, record)), 1).name
    raise kind(ENDED.fill(state.message or state.status), name=name)


NO_FOLDER = Text("host 0 has made no run in {0} for {1:g} s", "主机 0 在 {1:g} 秒内没有在 {0} 建立运行目录")
SHARE = Text(
    "give all hosts the same -o, on a disk that they share, and start host 0 too",
    "各主机使用同一个位于共享磁盘上的 -o 目录，并启动主机 0",
)
SILENT = Text("nothing was heard from host 0 for {0:g} s", "主机 0 已有 {0:g} 秒没有动静")
STOPPED = Text("this host was stopped", "本主机已被停止")
ENDED = Text("host 0 ended: {0}", "主机 0 已结束：{0}")
