"""Gathers what a finished run left in its folder; a missing or damaged piece becomes a stated gap, not a crash."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from orchestrator.machine.files import read_regular
from orchestrator.machine.json_files import find_object
from orchestrator.machine.rundir import RunDir
from orchestrator.recipe.plan import Plan, Stage
from orchestrator.report.training_log import TrainingLog, load_training_log

_CHECK_NAMES = {
    "weights": "the weights are finite and plausible",
    "complete": "no weight is missing from the files",
    "finite": "every score is a number",
    "changed-weights": "training changed the weights",
    "changed-scores": "training changed the scores",
    "not-constant": "different texts get different scores",
    "flagembedding": "the packaged model scores as the trained one in FlagEmbedding",
    "sentence-transformers": "the package gives the same in sentence-transformers and in the tool that trained it",
    "merged": "the merged model gives what the base model gives with the adapter",
    "merge-keeps-training": "merging kept what training changed",
    "swift": "the trained model gives the same in ms-swift as in a plain forward pass",
    "tokens": "the package makes the tokens of the training",
    "chat-template": "the chat template makes the tokens of the training",
    "stop": "the model stops where the answers of the training end",
    "same-answer": "adapter, merged and packaged model give the same answer to the test prompt",
    "test-prompt": "the test prompt is answered, and not as the base model answers it",
    "copied": "the trained weights were packaged byte for byte",
    "tied": "weights that are shared are shared in the package too",
    "unit-length": "every vector has length 1",
    "changed-vectors": "training changed the vectors",
    "transformers": "the packaged model gives the same vectors in plain transformers",
    "reloaded": "the package gives the same vectors when it is loaded again",
}


@dataclass(frozen=True)
class Timing:
    """How long a stage took; None while it has no result."""

    stage: Stage
    seconds: float | None


@dataclass(frozen=True)
class Check:
    """One check of the packaged model; `passed` is None where the worker did not say."""

    name: str
    passed: bool | None
    detail: str
    numbers: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class RunRecord:
    """Everything that the report shows and metrics.json does not hold. An absent piece is empty or None."""

    run: RunDir
    plan: Plan
    timings: tuple[Timing, ...]
    training: TrainingLog
    ledger: Mapping[str, Any] | None
    stats: Mapping[str, Any] | None
    provenance: Mapping[str, Any] | None
    checks: tuple[Check, ...]
    recipe_text: str | None


def load_record(run: RunDir, plan: Plan) -> RunRecord:
    """Return what the run left behind, apart from its scores."""
    package = plan.stage("package")
    verification = load_object(run.stage(package.name).output / "verification.json") if package else None
    return RunRecord(
        run=run,
        plan=plan,
        timings=tuple(Timing(stage, _seconds(run.stage(stage.name).result_json)) for stage in plan.stages),
        training=load_training_log(run, plan),
        ledger=load_object(run.ledger_json),
        stats=load_object(run.stats_json),
        provenance=load_object(run.provenance_json),
        checks=parse_checks(verification or {}),
        recipe_text=_load_text(run.recipe_yaml),
    )


def load_object(path: Path) -> dict[str, Any] | None:
    """Return the JSON object in a file; None where there is none."""
    return find_object(path)


def parse_checks(verification: Mapping[str, Any]) -> tuple[Check, ...]:
    """Return verification.json's checks: a list of {"name", "passed", "detail", numbers…}, or an object of them."""
    raw = verification.get("checks")
    if isinstance(raw, dict):
        raw = [
            {**value, "name": name} if isinstance(value, dict) else {"name": name, "passed": value}
            for name, value in raw.items()
        ]
    items = [item for item in raw if isinstance(item, dict)] if isinstance(raw, list) else []
    return tuple(_parse_check(item) for item in items)


def _parse_check(item: Mapping[str, Any]) -> Check:
    passed = item.get("passed", item.get("ok"))
    name = str(item.get("name", "check"))
    numbers = item.get("numbers")
    known = {"name", "passed", "ok", "detail", "failure", "numbers"}
    rest = {key: value for key, value in item.items() if key not in known and value not in ([], {}, None)}
    return Check(
        name=_CHECK_NAMES.get(name, name.replace("_", " ")),
        passed=passed if isinstance(passed, bool) else None,
        detail=str(item.get("failure") or item.get("detail") or ""),
        numbers={**rest, **(numbers if isinstance(numbers, dict) else {})},
    )


def _seconds(path: Path) -> float | None:
    seconds = (load_object(path) or {}).get("seconds")
    return float(seconds) if isinstance(seconds, int | float) else None


def _load_text(path: Path) -> str | None:
    try:
        return read_regular(path).decode("utf-8")
    except (OSError, ValueError):
        return None
