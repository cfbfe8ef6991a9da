"""Builds metrics.json: every system of a run measured on the same rows, compared, and held against the gate."""

from __future__ import annotations

from typing import Any

from orchestrator.errors import RecipeError
from orchestrator.evaluation.evalset import describe_eval
from orchestrator.evaluation.gate import decide_gate
from orchestrator.evaluation.guards import build_guards
from orchestrator.evaluation.measures import check_metrics, default_metrics, guess_kind
from orchestrator.evaluation.scored import LABELS, TEACHER, TUNED, Scored, load_scored, scoring_stages
from orchestrator.evaluation.systems import (
    System,
    build_rows,
    compare_measured,
    describe_kind,
    judge,
    load_scoring,
)
from orchestrator.machine.rundir import RunDir
from orchestrator.recipe.plan import Plan

METRICS_VERSION = 2
SEED = 42
BASELINE = "baseline"


def build_metrics(run: RunDir, plan: Plan, scored: Scored | None = None) -> dict[str, Any]:
    """Return metrics.json of a run folder; what was not scored is named in `gaps`.

    {"version": 2, "seed": 42,
     "kind": "group"|"retrieval"|"pair"|"chat", "unit": "query"|"pair"|"row"    what is measured and resampled,
     "eval": {"path", "sha256", "units", …counts of the kind; retrieval: "corpus": {"path", "sha256"}} | null,
     "metrics": ["ndcg@10", …]                 the headline metric first,
     "directions": {metric: "higher"|"lower"}  which way is better,
     "headline": {"metric", "baseline": system id | null},
     "systems": [{"id", "role": "baseline"|"teacher"|"tuned", "stage", "label", "head": "new"|"pretrained"|null,
                  "scoring": {…},
                  "means": {metric: float | null}    the metric's value over all rows, a mean or not,
                  "constant": bool, …facts of the kind (tied_queries, missing_queries, generations, …)}],
     "rows": [{"id", ["gold": float], "values": {system id: {metric or column: float | null}}}],
     "comparisons": [{"baseline": system id, "metric", "before", "after", "difference", "low"|null, "high"|null, "p",
                      "exact", "units", "wins", "losses", "ties", "higher_is_better", "verdict"}]
                                               tuned against each baseline, then against the teacher,
     "verdict": "better" | "worse" | "no measurable difference" | "not compared"   of the headline comparison,
     "gate": {"passed": bool | null, "rules": [{"metric", "rule", "passed", "sentence", ["guard"]}]}
                                               null: the recipe has none; the guards' rules are the last,
     "guards": [as `guards.build_guards` says],
     "gaps": ["…"]}

    The yardstick is the first baseline; the teacher, another model, never is.

    Version 1 had rankings only: `per_query` with `qid` for `rows`, and `queries` for `units`.

    Raises RunFolderError for files that are damaged or belong together with others, StageFailedError for scores that
    are not finite, RecipeError for a metric or gate that does not exist or does not fit the evaluation set.
    """
    scored = load_scored(run, plan) if scored is None else scored
    kind = (
        scored.evaluation.kind
        if scored.evaluation
        else guess_kind((plan.recipe.get("evaluate") or {}).get("metrics") or ())
    )
    names, seed = _metric_names(plan, kind), _seed(plan)
    systems = _measure_systems(run, plan, scored, names)
    tuned = next((system for system in systems if system.role == TUNED), None)
    yardstick = next((system for system in systems if system.role == BASELINE), None)
    comparisons = [
        {"baseline": system.system_id, **row}
        for role in (BASELINE, TEACHER)
        for system in systems
        if tuned is not None and system.role == role
        for row in compare_measured(system.measured, tuned.measured, names, seed)
    ]
    guards = build_guards(run, plan, seed)
    gate = decide_gate(
        plan.recipe.get("gate") or {},
        tuned.measured.means if tuned else None,
        yardstick.measured.means if yardstick else None,
    )
    rules = [*gate["rules"], *guards.rules]
    first = yardstick.system_id if yardstick else None
    return {
        "version": METRICS_VERSION,
        "seed": seed,
        **describe_kind(kind, names),
        "eval": describe_eval(run.eval_jsonl, scored.evaluation, run.root) if scored.evaluation else None,
        "headline": {"metric": names[0], "baseline": first},
        "systems": [system.describe() for system in systems],
        "rows": build_rows(systems),
        "comparisons": comparisons,
        "verdict": judge(comparisons, names[0], first),
        "gate": {"passed": all(rule["passed"] for rule in rules) if rules else None, "rules": rules},
        "guards": list(guards.entries),
        "gaps": [*scored.gaps, *guards.gaps],
    }


def _seed(plan: Plan) -> int:
    """Return what decides bootstrap resamples, permutations and sampled orders of ties."""
    seed = (plan.recipe.get("evaluate") or {}).get("seed")
    return SEED if seed is None else int(seed)


def _metric_names(plan: Plan, kind: str) -> list[str]:
    """Return the recipe's metrics, or the kind's own, then those that only its gate names."""
    evaluate = plan.recipe.get("evaluate") or {}
    names = list(dict.fromkeys((*(evaluate.get("metrics") or default_metrics(kind)), *(plan.recipe.get("gate") or {}))))
    if problems := check_metrics(names, kind):
        raise RecipeError.from_problems(problems)
    return names


def _measure_systems(run: RunDir, plan: Plan, scored: Scored, names: list[str]) -> list[System]:
    """Return the scored systems, baselines in the plan's order first."""
    if scored.evaluation is None:
        return []
    measured = scored.evaluation.measure(scored.scores, names, seed=_seed(plan))
    return [
        System(
            name,
            name if name in {TUNED, TEACHER} else BASELINE,
            stage.name,
            LABELS.get(name, name),
            load_scoring(run.stage(stage.name).output / "scoring.json"),
            measured[name],
        )
        for name, stage in scoring_stages(plan).items()
        if name in measured
    ]
