"""Reads what a trainer logged: losses, learning rates, evaluations, and the step of the best checkpoint."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.machine.json_files import load_json, parse_json
from orchestrator.machine.rundir import RunDir
from orchestrator.recipe.plan import Plan

_CHECKPOINT = re.compile(r"checkpoint-([0-9]{1,18})")
_PROGRESS = re.compile(r"([0-9]{1,18})/[0-9]+")
_SAME_LOSS = 1e-6  # logging.jsonl rounds to 8 digits, its best_metric does not


@dataclass(frozen=True)
class LossPoint:
    """One logged training step; a value that was not logged, or is not a number, is None."""

    step: int
    loss: float | None
    learning_rate: float | None


@dataclass(frozen=True)
class EvalPoint:
    """The loss on the validation rows after one step; None where it is not a number."""

    step: int
    loss: float | None


@dataclass(frozen=True)
class TrainingLog:
    """Everything that a trainer logged, in the order of its steps. `best_step` is None where none is known."""

    points: tuple[LossPoint, ...] = ()
    evaluations: tuple[EvalPoint, ...] = ()
    best_step: int | None = None


def load_training_log(run: RunDir, plan: Plan) -> TrainingLog:
    """Return the log of the train stage: ms-swift's own file, else the newest checkpoint's, else the step events."""
    stage = plan.stage("train")
    if stage is None:
        return TrainingLog()
    output = run.stage(stage.name).output
    swift = _json_lines(output / "logging.jsonl")
    log = _parse_log(swift, _swift_best(output, swift)) if swift else TrainingLog()
    if not log.points:
        state = _newest_state(output)
        log = _parse_log(state.get("log_history"), _best_in_state(state))
    return log if log.points else _parse_log(_json_lines(run.events_jsonl, kind="step"), None)


def _parse_log(entries: object, best_step: int | None) -> TrainingLog:
    points: dict[int, LossPoint] = {}
    evaluations: dict[int, EvalPoint] = {}
    for entry in entries if isinstance(entries, list) else ():
        step = _step(entry) if isinstance(entry, dict) else None
        if step is None:
            continue
        if entry.get("loss") is not None:
            points[step] = LossPoint(step, _number(entry["loss"]), _number(entry.get("learning_rate")))
        if entry.get("eval_loss") is not None:
            evaluations[step] = EvalPoint(step, _number(entry["eval_loss"]))
    return TrainingLog(
        tuple(points[step] for step in sorted(points)),
        tuple(evaluations[step] for step in sorted(evaluations)),
        best_step,
    )


def _step(entry: Mapping[str, Any]) -> int | None:
    """Return an entry's step: `step`, or the first number of ms-swift's `global_step/max_steps`, as in `5/9`."""
    step = entry.get("step")
    if isinstance(step, int):
        return step
    found = _PROGRESS.fullmatch(str(entry.get("global_step/max_steps")))
    return int(found[1]) if found else None


def _json_lines(path: Path, *, kind: str | None = None) -> list[Any]:
    """Return the objects of a log, or those of one `type`; a line cut by a crash is passed over."""
    found = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else ():
        try:
            entry = parse_json(line, constants=True)
        except ValueError:
            continue
        if isinstance(entry, dict) and (kind is None or entry.get("type") == kind):
            found.append(entry)
    return found


def _swift_best(output: Path, entries: Sequence[Mapping[str, Any]]) -> int | None:
    """Return the step of the best checkpoint that ms-swift's last lines name.

    With --create_checkpoint_symlink it names the link `best`: its target tells, or else the evaluation whose loss is
    `best_metric`. Without evaluations there is no best: swift then names the last checkpoint.
    """
    last = next((entry for entry in reversed(entries) if entry.get("best_model_checkpoint")), None)
    if last is None or not any("eval_loss" in entry for entry in entries):
        return None
    name = str(last["best_model_checkpoint"]).rstrip("/").rpartition("/")[2]
    if found := _CHECKPOINT.fullmatch(name) or _CHECKPOINT.fullmatch((output / name).resolve().name):
        return int(found[1])
    best = _number(last.get("best_metric"))
    for entry in entries:
        loss = _number(entry.get("eval_loss"))
        if best is not None and loss is not None and math.isclose(loss, best, rel_tol=_SAME_LOSS):
            return _step(entry)
    return None


def _best_in_state(state: Mapping[str, Any]) -> int | None:
    """Return the best step of a trainer_state.json: `best_model_checkpoint` ends with it."""
    found = _CHECKPOINT.search(str(state.get("best_model_checkpoint") or "").rpartition("/")[2])
    return int(found[1]) if found else None


def _newest_state(output: Path) -> dict[str, Any]:
    """Return the state of the newest complete checkpoint. trainer_state.json is written last, so it may be cut."""
    found = [
        (int(match[1]), path)
        for path in output.rglob("checkpoint-*/trainer_state.json")
        if (match := _CHECKPOINT.fullmatch(path.parent.name))
    ]
    for _, path in sorted(found, reverse=True):
        try:
            state = load_json(path, constants=True)
        except (OSError, ValueError):
            continue
        if isinstance(state, dict) and isinstance(state.get("log_history"), list):
            return state
    return {}


def _number(value: object) -> float | None:
    """Return a logged value as a float: transformers 5 logs strings. None for what is not a finite number."""
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def count_not_finite(points: Sequence[LossPoint | EvalPoint]) -> int:
    """Return how many logged losses are not numbers."""
    return sum(point.loss is None for point in points)


def is_dead(points: Sequence[LossPoint]) -> bool:
    """Return whether the last half of the losses is exactly 0: a trainer that hides NaN logs a diverged run so."""
    half = points[len(points) // 2 :]
    return bool(half) and all(point.loss == 0 for point in half)


def describe_log(log: TrainingLog) -> Mapping[str, Any] | None:
    """Return {"step", "first", "last", "evaluation", "best_step"}: None where no training loss was logged.

    `step` is the last step, `first` and `last` are training losses; `evaluation` is None, or the {"step", "loss"} of
    the best checkpoint, or of the last evaluation where none is known to be the best.
    """
    losses = [point.loss for point in log.points if point.loss is not None]
    if not losses:
        return None
    measured = [point for point in log.evaluations if point.loss is not None]
    best = next((point for point in measured if point.step == log.best_step), None)
    shown = best or (measured[-1] if measured else None)
    return {
        "step": log.points[-1].step,
        "first": losses[0],
        "last": losses[-1],
        "evaluation": {"step": shown.step, "loss": shown.loss} if shown else None,
        "best_step": log.best_step,
    }
