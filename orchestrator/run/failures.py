"""How a stage ended badly → its status, and the error that says why, where and what to do."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from orchestrator.errors import (
    DataError,
    OrchError,
    PreflightError,
    Problem,
    RunFolderError,
    StageFailedError,
    StalledError,
    Where,
)
from orchestrator.logs.diagnose import KILLED_CODES, Diagnosis, diagnose
from orchestrator.logs.events import RowsLoaded
from orchestrator.logs.health import LossProblem
from orchestrator.logs.patches import suggest_patch
from orchestrator.logs.row_texts import hide_rows
from orchestrator.logs.tail import find_line_number, read_tail
from orchestrator.machine.language import Text, current_language
from orchestrator.machine.rundir import StageDir
from orchestrator.recipe.plan import Stage
from orchestrator.run import wording
from orchestrator.run.full_disk import describe_full_disk
from orchestrator.run.silence import Stall
from orchestrator.run.state import LaunchRecord
from orchestrator.run.watch import Ending, Limits

_SIGNALLED_CODES = frozenset({129, 130, 143})  # HUP, INT, TERM: sent by somebody else
_OWN_ERRORS: dict[int, type[OrchError]] = {
    error.exit_code: error for error in (DataError, PreflightError, RunFolderError)
}
_MOST_PROBLEMS = 20


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
    resume = _say(wording.RESUME, folder.root.parent.parent)
    if ending.reason == "timed-out":
        message = _say(wording.TIMED_OUT, stage.name, limits.timeout_s)
        return Failure("timed-out", StalledError(message, hint=resume, where=Where(str(folder.stdout_log))))
    if ending.stall:
        return Failure("stalled", _stall_error(stage, folder, ending, ending.stall, resume))
    if ending.loss:
        return Failure(ending.loss.kind, _loss_error(stage, folder, ending.loss))
    if ending.reason == "rows-missing" and ending.rows:
        return Failure("failed", _rows_error(stage, folder, ending.rows, limits.rows[ending.rows.side]))
    if ending.exit_code in stage.done_codes and missing:
        message = _say(wording.OUTPUT_MISSING, stage.name, ending.exit_code, ", ".join(missing))
        hint = _say(wording.OUTPUT_REMEDY)
        return Failure("failed", StageFailedError(message, hint=hint, where=_where(folder, None)))
    own = _own_error(stage, folder, record, ending.exit_code)
    if own:
        return Failure("failed", own)
    text = (
        read_tail(folder.stdout_log, record.stdout_offset) + "\n" + read_tail(folder.stderr_log, record.stderr_offset)
    )
    text += "\n" + describe_full_disk(folder.root)
    diagnosis = diagnose(hide_rows(text), ending.exit_code, current_language())
    status = _status_of(ending, diagnosis)
    patch = suggest_patch(diagnosis.name, recipe, stage.kind)
    return Failure(status, _error_of(stage, folder, ending, diagnosis, status=status, patch=patch))


def _say(text: Text, *values: object, **named: object) -> str:
    return text.say(current_language()).format(*values, **named)


def _stall_error(stage: Stage, folder: StageDir, ending: Ending, stall: Stall, resume: str) -> OrchError:
    since = datetime.fromtimestamp(stall.since).astimezone().isoformat(sep=" ", timespec="seconds")
    what = _say(wording.NOTHING_NEW if stall.kind == "news" else wording.NO_STEP)
    message = _say(wording.STALLED, stage=stage.name, what=what, seconds=stall.seconds, since=since)
    message += _say(wording.STALLED_AT, ending.at) if ending.at else _say(wording.STALLED_THERE)
    for pid in ending.stacks.suspended:
        message += f"\n  {_say(wording.SUSPENDED, pid)}"
    stacks = ending.stacks
    if not stacks.file:
        return StalledError(message, hint=resume, where=_where(folder, None))
    hint = _say(wording.STACKS, stacks.file.name, stacks.line, resume)
    return StalledError(message, hint=hint, where=Where(str(stacks.file), stacks.line))


def _loss_error(stage: Stage, folder: StageDir, loss: LossProblem) -> OrchError:
    message = _say(wording.LOSS_STOPPED, stage.name, loss.message)
    hint = _say(wording.LOSS_GOES_ON, remedy=loss.remedy, kind=loss.kind)
    return StageFailedError(message, hint=hint, where=Where(str(folder.stdout_log)))


def _rows_error(stage: Stage, folder: StageDir, loaded: RowsLoaded, expected: int) -> OrchError:
    message = _say(wording.ROWS_MISSING, stage=stage.name, rows=loaded.rows, side=loaded.side, expected=expected)
    return DataError(message, hint=_say(wording.ROWS_REMEDY), where=_where(folder, f"num_rows: {loaded.rows}"))


def _status_of(ending: Ending, diagnosis: Diagnosis) -> str:
    if diagnosis.name in ("cuda-out-of-memory", "host-out-of-memory"):
        return "out-of-memory"
    if diagnosis.name == "killed":
        return "out-of-memory" if ending.oom_kills > 0 else "killed"
    signalled = ending.exit_code is None or ending.exit_code in _SIGNALLED_CODES | KILLED_CODES
    return "killed" if signalled or diagnosis.name == "ended-by-signal" else "failed"


def _error_of(
    stage: Stage, folder: StageDir, ending: Ending, diagnosis: Diagnosis, *, status: str, patch: tuple[str, ...]
) -> OrchError:
    how = _say(wording.NO_EXIT_CODE) if ending.exit_code is None else _say(wording.EXIT_CODE, ending.exit_code)
    if diagnosis.rank is not None:
        how = _say(wording.FIRST_RANK, how=how, rank=diagnosis.rank)
    cause = diagnosis.cause
    if status == "out-of-memory" and diagnosis.name == "killed":
        cause = _say(wording.KILLED_BY_KERNEL)
    message = _say(wording.ENDED, stage=stage.name, how=how, cause=cause)
    if diagnosis.evidence and diagnosis.evidence not in message:
        message += f"\n  {diagnosis.evidence}"
    hint = diagnosis.remedy
    if patch:
        hint += "\n" + _say(wording.TRY, " ".join(f"--set {item}" for item in patch))
    return StageFailedError(message, hint=hint, where=_where(folder, diagnosis.evidence), name=diagnosis.name)


def _own_error(stage: Stage, folder: StageDir, record: LaunchRecord, code: int | None) -> OrchError | None:
    """Return the error that one of Orch's own stages ended with: its exit code says which, its stderr says what."""
    kind = _OWN_ERRORS.get(code or 0)
    if kind is None or not _is_own(stage):
        return None
    said = read_tail(folder.stderr_log, record.stderr_offset).splitlines()
    lines = [line.strip() for line in said if line.strip() and not line.startswith(("warning:", "dropped:"))]
    if not lines:
        return None
    where = Where(str(folder.stderr_log))
    # a stage writes a problem as "message — remedy"
    parts = [line.rpartition(" — ") if " — " in line else (line, "", None) for line in lines[-_MOST_PROBLEMS:]]
    return kind.from_problems([Problem(message, remedy, where) for message, _, remedy in parts])


def _is_own(stage: Stage) -> bool:
    """Tell whether the stage is a module of Orch's core, whose exit codes are those of the error tree."""
    return any(
        flag == "-m" and module.startswith("orchestrator.")
        for flag, module in zip(stage.command.argv, stage.command.argv[1:], strict=False)
    )


def _where(folder: StageDir, evidence: str | None) -> Where:
    """Return the log to read: where the evidence stands, else the log that was written last."""
    if evidence:
        for log in (folder.stderr_log, folder.stdout_log):
            line = find_line_number(log, evidence)
            if line:
                return Where(str(log), line)
    return Where(str(max((folder.stdout_log, folder.stderr_log), key=_written_at)))


def _written_at(path: Path) -> tuple[bool, float]:
    if not path.exists():
        return (False, 0.0)
    status = path.stat()
    return (status.st_size > 0, status.st_mtime)
