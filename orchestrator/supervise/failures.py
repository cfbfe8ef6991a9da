"""How a stage ended badly → its status, and the error that says why, where and what to do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

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
from orchestrator.logs.diagnose import KILLED_CODES, Diagnosis, diagnose, find_line_number, read_tail

if TYPE_CHECKING:
    from pathlib import Path

    from orchestrator.events import RowsLoaded
    from orchestrator.plan import Stage
    from orchestrator.rundir import StageDir
    from orchestrator.supervise.state import LaunchRecord
    from orchestrator.supervise.watch import Ending, Limits

_SIGNALLED_CODES = frozenset({129, 130, 143})  # HUP, INT, TERM: sent by somebody else
_OWN_ERRORS: dict[int, type[OrchError]] = {
    error.exit_code: error for error in (DataError, PreflightError, RunFolderError)
}
_MOST_PROBLEMS = 20


@dataclass(frozen=True)
class Failure:
    """A stage's final status (failed, out-of-memory, stalled, timed-out, killed) and the error to raise."""

    status: str
    error: OrchError


def build_failure(
    stage: Stage, folder: StageDir, record: LaunchRecord, ending: Ending, *, missing: tuple[str, ...], limits: Limits
) -> Failure:
    """Explain an ending that is not success. `missing`: outputs that a well-ended command did not write."""
    resume = f"resume it with `orch resume {folder.root.parent.parent}`"
    if ending.reason == "timed-out":
        message = f"{stage.name} ran longer than its limit of {limits.timeout_s:g} s and was stopped"
        return Failure("timed-out", StalledError(message, hint=resume, where=Where(str(folder.stdout_log))))
    if ending.reason == "stalled":
        message = f"{stage.name} wrote nothing for {limits.stall_s:g} s and was stopped"
        return Failure("stalled", StalledError(message, hint=resume, where=_where(folder, None)))
    if ending.reason == "rows-missing" and ending.rows:
        return Failure("failed", _rows_error(stage, folder, ending.rows, limits.rows[ending.rows.side]))
    if ending.exit_code in stage.done_codes and missing:
        message = f"{stage.name} ended with exit code {ending.exit_code} but did not write {', '.join(missing)}"
        hint = "read its log: it may have skipped its work in silence"
        return Failure("failed", StageFailedError(message, hint=hint, where=_where(folder, None)))
    own = _own_error(stage, folder, record, ending.exit_code)
    if own:
        return Failure("failed", own)
    text = (
        read_tail(folder.stdout_log, record.stdout_offset) + "\n" + read_tail(folder.stderr_log, record.stderr_offset)
    )
    diagnosis = diagnose(text, ending.exit_code)
    status = _status_of(ending, diagnosis)
    return Failure(status, _error_of(stage, folder, ending, diagnosis, status))


def _rows_error(stage: Stage, folder: StageDir, loaded: RowsLoaded, expected: int) -> OrchError:
    message = f"{stage.name} has loaded {loaded.rows} {loaded.side} rows, and {expected} were prepared: it was stopped"
    hint = "the trainer leaves out rows that are too long or malformed: raise max_length, or see its log for the reason"
    return DataError(message, hint=hint, where=_where(folder, f"num_rows: {loaded.rows}"))


def _status_of(ending: Ending, diagnosis: Diagnosis) -> str:
    if diagnosis.name in ("cuda-out-of-memory", "host-out-of-memory"):
        return "out-of-memory"
    if diagnosis.name == "killed":
        return "out-of-memory" if ending.oom_kills > 0 else "killed"
    signalled = ending.exit_code is None or ending.exit_code in _SIGNALLED_CODES | KILLED_CODES
    return "killed" if signalled or diagnosis.name == "ended-by-signal" else "failed"


def _error_of(stage: Stage, folder: StageDir, ending: Ending, diagnosis: Diagnosis, status: str) -> OrchError:
    how = f"exit code {ending.exit_code}" if ending.exit_code is not None else "no exit code: its launcher was killed"
    cause = diagnosis.cause
    if status == "out-of-memory" and diagnosis.name == "killed":
        cause = "the kernel killed it because memory ran out"
    message = f"{stage.name} ended with {how}: {cause}"
    if diagnosis.evidence and diagnosis.evidence not in message:
        message += f"\n  {diagnosis.evidence}"
    return StageFailedError(message, hint=diagnosis.remedy, where=_where(folder, diagnosis.evidence))


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
    return kind.from_problems([Problem(line, where=where) for line in lines[-_MOST_PROBLEMS:]])


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
