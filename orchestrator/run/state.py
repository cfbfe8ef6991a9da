"""What a run's supervisor must leave on disk to be replaced: the run's state, each launch, each result."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

from orchestrator.errors import RunFolderError
from orchestrator.machine.json_files import MOST_SECONDS, find_object, is_a, load_object
from orchestrator.machine.process import Child
from orchestrator.machine.regular_files import read_regular
from orchestrator.machine.rundir import RunDir, StageDir, write_json
from orchestrator.machine.secrets import is_secret

STATE_VERSION = 1
_MOST_DIGITS = 8
_TIMES = frozenset({"started", "finished", "seconds"})
_Record = TypeVar("_Record")


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
        values = load_object(run_dir.state_json)
        child = values.pop("child", None)
        return _build(RunState, {**values, "child": child and _build(Child, child)})
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise RunFolderError(
            f"{run_dir.state_json} is damaged, or another version of Orch wrote it: {error}",
            hint=f"orch resume {run_dir.root} writes it anew, and ends what an earlier supervisor left",
        ) from error


def find_state(run_dir: RunDir) -> RunState | None:
    """Return the run's state, None also where state.json is damaged."""
    try:
        return read_state(run_dir)
    except RunFolderError:
        return None


def write_state(run_dir: RunDir, state: RunState) -> None:
    """Write state.json by rename. A run folder that was removed is not made again: raises FileNotFoundError."""
    run_dir.root.stat()
    write_json(run_dir.state_json, asdict(state))


def with_child(state: RunState, stage: str | None, child: Child | None) -> RunState:
    """Return the state of a run whose current stage has that process."""
    return replace(state, stage=stage, child=child)


def load_launch(stage_dir: StageDir) -> LaunchRecord | None:
    """Return the stage's last launch, or None when there is none that can be read."""
    values = _load(stage_dir.command_json)
    try:
        if values is None:
            return None
        env = tuple((key, value) for key, value in values["env"])
        return _build(LaunchRecord, {**values, "argv": tuple(values["argv"]), "env": env})
    except (TypeError, KeyError, ValueError):
        return None


def write_launch(stage_dir: StageDir, record: LaunchRecord) -> None:
    """Write command.json by rename, without the values of secrets."""
    write_json(stage_dir.command_json, asdict(replace(record, env=redact(record.env))))


def load_result(stage_dir: StageDir) -> StageResult | None:
    """Return the stage's result, or None when it is not done."""
    try:
        return _build(StageResult, _load(stage_dir.result_json) or {})
    except TypeError:
        return None


def write_result(stage_dir: StageDir, result: StageResult) -> None:
    """Write result.json by rename."""
    write_json(stage_dir.result_json, asdict(result))


def read_exit_code(stage_dir: StageDir) -> int | None:
    """Return the exit code that the launcher wrote, or None when it could not."""
    try:
        return int(read_regular(stage_dir.exit_code, most_bytes=_MOST_DIGITS))
    except (OSError, ValueError):
        return None


def redact(env: tuple[tuple[str, str], ...]) -> tuple[tuple[str, str], ...]:
    """Return the environment with the values of what looks like a secret replaced."""
    return tuple((name, "***" if is_secret(name) else value) for name, value in env)


def _build(kind: type[_Record], values: dict[str, Any]) -> _Record:
    """Return the dataclass of a file's values. Raises TypeError for a key or a type that it does not have."""
    kinds = get_type_hints(kind)
    for item in fields(kind):  # type: ignore[arg-type]
        if item.name in values and not is_a(values[item.name], kinds[item.name]):
            raise TypeError(f"{item.name} is {str(values[item.name])[:200]!r}")
        if item.name in _TIMES and not abs(values.get(item.name) or 0.0) <= MOST_SECONDS:
            raise TypeError(f"{item.name} is no time")
    return kind(**values)


def _load(path: Path) -> dict[str, Any] | None:
    return find_object(path)
