"""How a stage ended badly → its status, the error that says why and what to do, and whether it is tried again."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

from orchestrator.backends.protocol import BACKENDS
from orchestrator.errors import (
    DataError,
    InterruptedRunError,
    OrchError,
    PreflightError,
    Problem,
    RunFolderError,
    StageFailedError,
    StalledError,
    TakenAwayError,
    Where,
)
from orchestrator.logs.diagnose import KILLED_CODES, Diagnosis, diagnose, find_line_number, find_rule, read_tail
from orchestrator.logs.events import RunFinished, StageStarted, load_events
from orchestrator.logs.patches import suggest_patch
from orchestrator.logs.row_texts import hide_rows
from orchestrator.machine import process
from orchestrator.machine.files import open_to_append
from orchestrator.machine.rundir import RunDir, StageDir
from orchestrator.machine.terminal import Text, current_language
from orchestrator.recipe.plan import Fallback, Stage
from orchestrator.run.state import LaunchRecord
from orchestrator.run.stopping import Interrupts
from orchestrator.run.watch import Ending, Limits, Stall

_SIGNALLED_CODES = frozenset({129, 130, 143})  # HUP, INT, TERM: sent by somebody else
_OWN_ERRORS: dict[int, type[OrchError]] = {
    error.exit_code: error for error in (DataError, PreflightError, RunFolderError)
}
_MOST_PROBLEMS = 20
OUT_OF_MEMORY = "out-of-memory"
# What an engine does with an exit code. All others are new to it, and what is new is looked at before it is repeated.
AGAIN = (TakenAwayError.exit_code, StalledError.exit_code)
NEVER = (0, 2, 3, 4, 5, 6, 8, 9, 70, InterruptedRunError.exit_code)
TRIES = 5  # attempts that begin at one place; whoever gets further begins to count anew


@dataclass(frozen=True)
class Failure:
    """A stage's final status (failed, out-of-memory, diverged, flat, stalled, …) and the error to raise."""

    status: str
    error: OrchError

    @property
    def by_itself(self) -> bool:
        """Whether the stage's own process failed; else Orch ended it, or it is one of Orch's own and said why."""
        return isinstance(self.error, StageFailedError) and self.status not in {"diverged", "flat"}


def build_failure(
    stage: Stage,
    folder: StageDir,
    record: LaunchRecord,
    ending: Ending,
    *,
    missing: tuple[str, ...],
    limits: Limits,
    recipe: Mapping[str, Any],
) -> Failure:
    """Explain an ending that is not success.

    `missing`: outputs that a well-ended command did not write. `recipe`: the plan's, for a patch to try.
    """
    resume = RESUME.fill(folder.root.parent.parent)
    if ending.reason == "timed-out":
        message = TIMED_OUT.fill(stage.name, limits.timeout_s)
        return Failure("timed-out", StalledError(message, hint=resume, where=Where(str(folder.stdout_log))))
    if ending.stall:
        return Failure("stalled", _stall_error(stage, folder, ending, ending.stall, resume))
    if ending.loss:
        message = LOSS_STOPPED.fill(stage.name, ending.loss.message)
        hint = LOSS_GOES_ON.fill(remedy=ending.loss.remedy, kind=ending.loss.kind)
        return Failure(ending.loss.kind, StageFailedError(message, hint=hint, where=Where(str(folder.stdout_log))))
    if ending.reason == "rows-missing" and ending.rows:
        rows, side = ending.rows.rows, ending.rows.side
        message = ROWS_MISSING.fill(stage=stage.name, rows=rows, side=side, expected=limits.rows[side])
        where = _where(folder, f"num_rows: {rows}")
        return Failure("failed", DataError(message, hint=ROWS_REMEDY.fill(), where=where))
    if ending.exit_code in stage.done_codes and missing:
        message = OUTPUT_MISSING.fill(stage.name, ending.exit_code, ", ".join(missing))
        error = StageFailedError(message, hint=OUTPUT_REMEDY.fill(), where=_where(folder, None))
        return Failure("failed", error)
    if own := _own_error(stage, folder, record, ending.exit_code):
        return Failure("failed", own)
    text = f"{read_tails(folder, record)}\n{describe_full_disk(folder.root)}"
    diagnosis = diagnose(hide_rows(text), ending.exit_code, current_language())
    status = "failed"
    if diagnosis.name in ("cuda-out-of-memory", "host-out-of-memory"):
        status = OUT_OF_MEMORY
    elif diagnosis.name == "killed":
        status = OUT_OF_MEMORY if ending.oom_kills > 0 else "killed"
    elif ending.exit_code in {None, *_SIGNALLED_CODES, *KILLED_CODES} or diagnosis.name == "ended-by-signal":
        status = "killed"
    tool = BACKENDS.get(str(recipe.get("backend")))
    remedies = tool.for_task(recipe.get("task")).remedies if tool else None
    patch = suggest_patch(diagnosis.name, recipe, stage.kind, remedies)
    return Failure(status, _error_of(stage, folder, ending, diagnosis, status=status, patch=patch))


def read_tails(folder: StageDir, record: LaunchRecord) -> str:
    """Return the ends of the two logs of one launch of a stage, as `diagnose` takes them."""
    logs = ((folder.stdout_log, record.stdout_offset), (folder.stderr_log, record.stderr_offset))
    return "\n".join(read_tail(path, offset) for path, offset in logs)


def _stall_error(stage: Stage, folder: StageDir, ending: Ending, stall: Stall, resume: str) -> OrchError:
    since = datetime.fromtimestamp(stall.since).astimezone().isoformat(sep=" ", timespec="seconds")
    what = (NOTHING_NEW if stall.kind == "output" else NO_STEP).fill()
    message = STALLED.fill(stage=stage.name, what=what, seconds=stall.seconds, since=since)
    message += STALLED_AT.fill(ending.at) if ending.at else STALLED_THERE.fill()
    for pid in ending.stacks.suspended:
        message += f"\n  {SUSPENDED.fill(pid)}"
    stacks = ending.stacks
    if not stacks.file:
        return StalledError(message, hint=resume, where=_where(folder, None))
    hint = STACKS.fill(stacks.file.name, stacks.line, resume)
    return StalledError(message, hint=hint, where=Where(str(stacks.file), stacks.line))


def _error_of(
    stage: Stage, folder: StageDir, ending: Ending, diagnosis: Diagnosis, *, status: str, patch: tuple[str, ...]
) -> OrchError:
    how = NO_EXIT_CODE.fill() if ending.exit_code is None else EXIT_CODE.fill(ending.exit_code)
    if diagnosis.rank is not None:
        how = FIRST_RANK.fill(how=how, rank=diagnosis.rank)
    cause = diagnosis.cause
    if status == OUT_OF_MEMORY and diagnosis.name == "killed":
        cause = KILLED_BY_KERNEL.fill()
    message = ENDED.fill(stage=stage.name, how=how, cause=cause)
    if diagnosis.evidence and diagnosis.evidence not in message:
        message += f"\n  {diagnosis.evidence}"
    hint = diagnosis.remedy
    if patch:
        hint += "\n" + TRY.fill(" ".join(f"--set {item}" for item in patch))
    return StageFailedError(message, hint=hint, where=_where(folder, diagnosis.evidence), name=diagnosis.name)


def _own_error(stage: Stage, folder: StageDir, record: LaunchRecord, code: int | None) -> OrchError | None:
    """Return the error that one of Orch's own stages ended with: its exit code says which, its stderr says what."""
    kind, words = _OWN_ERRORS.get(code or 0), stage.command.argv
    # a module of Orch's core, whose exit codes are those of the error tree
    is_own = any(flag == "-m" and word.startswith("orchestrator.") for flag, word in pairwise(words))
    if kind is None or not is_own:
        return None
    said = read_tail(folder.stderr_log, record.stderr_offset).splitlines()
    lines = [line.strip() for line in said if line.strip() and not line.startswith(("warning:", "dropped:"))]
    if not lines:
        return None
    where = Where(str(folder.stderr_log))
    # a stage writes a problem as "message — remedy"
    parts = [line.rpartition(" — ") if " — " in line else (line, "", None) for line in lines[-_MOST_PROBLEMS:]]
    return kind.from_problems([Problem(message, remedy, where) for message, _, remedy in parts])


def _where(folder: StageDir, evidence: str | None) -> Where:
    """Return the log to read: where the evidence stands, else the log that was written last."""
    if evidence:
        for log in (folder.stderr_log, folder.stdout_log):
            if line := find_line_number(log, evidence):
                return Where(str(log), line)
    logs = {path: path.stat() for path in (folder.stdout_log, folder.stderr_log) if path.exists()}
    last = max(logs, key=lambda path: (logs[path].st_size > 0, logs[path].st_mtime), default=folder.stdout_log)
    return Where(str(last))


_FULL_BELOW_BYTES = 1 << 20  # a trainer that failed to write a checkpoint has left no room for a log's page


def describe_full_disk(folder: Path) -> str:
    """Return the words that a log would end with if it could, or nothing when there is room."""
    try:
        free = shutil.disk_usage(folder).free
    except OSError:
        return ""
    return f"{os.strerror(errno.ENOSPC)}: {folder} ({free} bytes are free)\n" if free < _FULL_BELOW_BYTES else ""


def find_next(stage: Stage, record: LaunchRecord, failure: Failure) -> Fallback | None:
    """Return what the stage tries after that launch; None when memory is not its trouble, or nothing is left."""
    if failure.status != OUT_OF_MEMORY or record.fallback >= len(stage.fallbacks):
        return None
    return stage.fallbacks[record.fallback]


def explain_end(stage: Stage, failure: Failure) -> OrchError:
    """Return the failure's error; it also says what was tried, where memory ran out with every batch of the plan."""
    if failure.status != OUT_OF_MEMORY or not stage.fallbacks:
        return failure.error
    problem = failure.error.problems[0]
    tried = "; ".join(fallback.title for fallback in stage.fallbacks)
    message = f"{problem.message}\n  smaller batches were tried, and failed too: {tried}"
    return StageFailedError.from_problems([replace(problem, message=message)])


def count_tries(run: RunDir) -> int:
    """Return how many attempts in a row began at the place of the last one: its stage, from the same checkpoint.

    One that the user stopped ends the row.
    """
    count, place = 0, None
    for event in load_events(run.events_jsonl):
        if isinstance(event, StageStarted):
            here = (event.stage, event.resumed_from)
            count, place = (count + 1 if here == place else 1), here
        elif isinstance(event, RunFinished) and event.exit_code == InterruptedRunError.exit_code:
            count = 0
    return count


def judge(error: OrchError, run: RunDir, *, tries: int = TRIES) -> OrchError:
    """Return what an engine is told of a run that ended with `error`: 75 or 7 where it shall try again.

    A failed stage is tried again where a machine or a connection is at fault, on another machine where this one is.
    After `tries` attempts that got no further every reason is a failure.
    """
    problem = error.problems[0]
    rule = find_rule(problem.name) if isinstance(error, StageFailedError) and problem.name else None
    fault = rule.fault if rule else None
    if error.exit_code not in AGAIN and fault is None:
        return error
    if (count := count_tries(run)) >= tries:
        return StageFailedError.from_problems([replace(problem, message=GIVEN_UP.fill(problem.message, count))])
    if fault is None:
        return error
    # of several machines that ran the stage nobody knows which it was
    if fault == "node" and os.environ.get("SLURM_NNODES", "1") == "1":
        name = os.environ.get("SLURMD_NODENAME") or process.host()  # as its engine knows it
        with suppress(OSError), open_to_append(run.excluded_nodes) as stream:
            stream.write(f"{name}\n".encode())
    return TakenAwayError.from_problems([problem])


def explain_stop(interrupts: Interrupts, folder: RunDir, at: str) -> InterruptedRunError | TakenAwayError:
    """Return what a run, or a sweep in that folder, ends with that was asked to stop `at` a stage or a trial."""
    hint = GO_ON.fill(folder.root)
    if interrupts.taken and not folder.stop_requested.exists():
        return TakenAwayError(TAKEN_AT.fill(at), hint=hint)
    return InterruptedRunError(STOPPED_AT.fill(at), hint=hint)


ENDED = Text("{stage} ended with {how}: {cause}", "{stage} 异常结束（{how}）：{cause}")
EXIT_CODE = Text("exit code {0}", "退出码 {0}")
NO_EXIT_CODE = Text("no exit code: its launcher was killed", "无退出码：启动器被杀死")
FIRST_RANK = Text("{how}, rank {rank} failed first", "{how}，rank {rank} 最先失败")
KILLED_BY_KERNEL = Text("the kernel killed it because memory ran out", "内存耗尽，进程被内核杀死")
TRY = Text("try: orch run RECIPE {0}", "可尝试：orch run RECIPE {0}")
RESUME = Text("resume it with `orch resume {0}`", "用 `orch resume {0}` 恢复运行")
TIMED_OUT = Text("{0} ran longer than its limit of {1:g} s and was stopped", "{0} 运行时间超过上限 {1:g} 秒，已被停止")
NOTHING_NEW = Text("said nothing new", "没有新的输出")
NO_STEP = Text("made no step", "没有前进一步")
STALLED = Text("{stage} {what} for {seconds:g} s, since {since}", "{stage} 已有 {seconds:g} 秒{what}（自 {since} 起）")
STALLED_AT = Text(" at {0}: it was stopped", "，停在 {0}：已被停止")
STALLED_THERE = Text(": it was stopped", "：已被停止")
SUSPENDED = Text("process {0} is stopped (state T): somebody suspended it", "进程 {0} 处于停止状态（T）：有人将其挂起")
STACKS = Text(
    "{0} shows from line {1} on where its processes stood; {2}", "{0} 从第 {1} 行起记录了各进程当时的位置；{2}"
)
LOSS_STOPPED = Text("{0} was stopped: {1}", "{0} 已被停止：{1}")
LOSS_GOES_ON = Text(
    "{remedy}; `watch: {{{kind}: warn}}` in the recipe lets it go on",
    "{remedy}；在配方中设置 `watch: {{{kind}: warn}}` 可让训练继续",
)
ROWS_MISSING = Text(
    "{stage} has loaded {rows} {side} rows, and {expected} were prepared: it was stopped",
    "{stage} 加载了 {rows} 条 {side} 数据，而准备了 {expected} 条：已被停止",
)
ROWS_REMEDY = Text(
    "the trainer leaves out rows that are too long or malformed: raise max_length, or see its log for the reason",
    "训练器会丢弃过长或格式错误的数据：增大 max_length，或查看其日志中的原因",
)
OUTPUT_MISSING = Text("{0} ended with exit code {1} but did not write {2}", "{0} 以退出码 {1} 结束，但没有写出 {2}")
OUTPUT_REMEDY = Text("read its log: it may have skipped its work in silence", "查看其日志：可能悄悄跳过了工作")
TAKEN_AT = Text("taken away by the machine or its scheduler at {0}", "在 {0} 处被机器或其调度器收回")
STOPPED_AT = Text("stopped at {0}", "已停在 {0}")
GO_ON = Text("go on with `orch resume {0}`", "用 `orch resume {0}` 继续")
GIVEN_UP = Text(
    "{0}\n  {1} attempts in a row got no further than this: it is not tried again",
    "{0}\n  已连续 {1} 次停在此处，不再重试",
)
