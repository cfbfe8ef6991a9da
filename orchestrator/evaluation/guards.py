"""Measures a run's guards: other data, on which the packaged model is held against the untouched base model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from orchestrator.errors import RecipeError
from orchestrator.evaluation.evalset import describe_eval, load_eval
from orchestrator.evaluation.gate import decide_gate
from orchestrator.evaluation.measured import EvalSet, Measured
from orchestrator.evaluation.measures import check_metrics, default_metrics, guess_kind
from orchestrator.evaluation.systems import compare_measured, describe_kind, judge
from orchestrator.machine.rundir import RunDir
from orchestrator.recipe.plan import Plan

BEFORE, AFTER = "before", "after"
_WORDS = {BEFORE: "the base model", AFTER: "the tuned model"}


@dataclass(frozen=True)
class Guarded:
    """The guards' entries in metrics.json, the rules of their gates, and what was not scored."""

    entries: tuple[dict[str, Any], ...]
    rules: tuple[dict[str, Any], ...]
    gaps: tuple[str, ...]


def build_guards(run: RunDir, plan: Plan, seed: int) -> Guarded:
    """Return every guard of the plan's recipe, in its order.

    An entry reads {"name", "kind", "unit", "eval": {…} | null, "metrics", "directions",
     "means": {"before": {metric: float | null} | null, "after": …},
     "comparisons": [{"baseline": "before", "metric", "before", "after", "difference", …}], "verdict",
     "gate": {"passed": bool | null, "rules": […]}}; its gate's sentences name the guard, and its rules carry "guard".

    Raises as `build_metrics` does.
    """
    asked = (plan.recipe.get("evaluate") or {}).get("guard") or {}
    found = [_build_guard(run, plan, name, guard, seed) for name, guard in asked.items()]
    return Guarded(
        entries=tuple(entry for entry, _ in found),
        rules=tuple(rule for entry, _ in found for rule in entry["gate"]["rules"]),
        gaps=tuple(gap for _, gaps in found for gap in gaps),
    )


def _build_guard(
    run: RunDir, plan: Plan, name: str, guard: Mapping[str, Any], seed: int
) -> tuple[dict[str, Any], list[str]]:
    path = run.guard(name) / run.eval_jsonl.name
    evaluation = load_eval(path)
    gate = guard.get("gate") or {}
    asked = (plan.recipe.get("evaluate") or {}).get("metrics") or ()
    kind = evaluation.kind if evaluation else guess_kind((*gate, *asked))
    metrics = _metric_names(name, kind, asked, gate)
    measured: dict[str, Measured] = {}
    gaps = [f"Guard {name}: its data was not prepared, so nothing was measured on it."]
    if evaluation is not None:
        scores, gaps = _load_scores(run, plan, name, evaluation)
        measured = evaluation.measure(scores, metrics, seed=seed)
    before, after = measured.get(BEFORE), measured.get(AFTER)
    comparisons = [
        {"baseline": BEFORE, **row}
        for row in (compare_measured(before, after, metrics, seed) if before and after else ())
    ]
    decided = decide_gate(gate, after.means if after else None, before.means if before else None, of=f"guard {name}")
    entry = {
        "name": name,
        **describe_kind(kind, metrics),
        "eval": describe_eval(path, evaluation, run.root) if evaluation else None,
        "means": {side: dict(measured[side].means) if side in measured else None for side in (BEFORE, AFTER)},
        "comparisons": comparisons,
        "verdict": judge(comparisons, metrics[0], BEFORE),
        "gate": {**decided, "rules": [{**rule, "guard": name} for rule in decided["rules"]]},
    }
    return entry, gaps


def _metric_names(name: str, kind: str, asked: Sequence[str], gate: Mapping[str, object]) -> list[str]:
    """Return the recipe's metrics that fit the guard's data, else its kind's own; then those that only its gate has."""
    fitting = [metric for metric in asked if not check_metrics([metric], kind)]
    names = list(dict.fromkeys((*(fitting or default_metrics(kind)), *gate)))
    if problems := check_metrics(names, kind):
        raise RecipeError(f"guard {name}: {problems[0].message}", hint=problems[0].hint)
    return names


def _load_scores(run: RunDir, plan: Plan, name: str, evaluation: EvalSet) -> tuple[dict[str, Any], list[str]]:
    """Return the scores before and after, and a sentence for each that is not there."""
    scores: dict[str, Any] = {}
    gaps = []
    for side in (BEFORE, AFTER):
        stage = plan.stage(f"guard-{name}-{side}")
        path = run.stage(stage.name).output / "scores.jsonl" if stage else None
        if path is not None and path.is_file():
            scores[side] = evaluation.load_scores(path)
        else:
            gaps.append(f"Guard {name}: {_WORDS[side]} was not scored on it.")
    return scores, gaps
