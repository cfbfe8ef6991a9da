"""Builds metrics.json: every system of a run measured on the same queries, compared, and held against the gate."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from orchestrator.errors import Problem, RecipeError, RunFolderError, Where
from orchestrator.evaluation.compare import NOT_COMPARED, compare
from orchestrator.evaluation.gate import decide, parse_gate
from orchestrator.evaluation.judged import load_groups, load_scores
from orchestrator.evaluation.measures import DEFAULT_METRICS, measure
from orchestrator.evaluation.ties import RANDOM_ORDERS

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from orchestrator.evaluation.judged import Group
    from orchestrator.evaluation.measures import Measurement
    from orchestrator.plan import Plan, Stage
    from orchestrator.rundir import RunDir

METRICS_VERSION = 1
SEED = 42
TUNED = "tuned"
_BASELINE = "baseline-"
_LABELS = {
    "native": "Base model in its native prompt",
    "trained-format": "Base model in the training format",
    TUNED: "Tuned model",
}


@dataclass(frozen=True)
class System:
    """One measured model: its id, the stage that scored it, that stage's scoring.json, its scores and values."""

    system_id: str
    stage: Stage
    scoring: Mapping[str, Any]
    scores: Mapping[str, Mapping[str, float]]
    measurement: Measurement

    @property
    def constant(self) -> bool:
        """Whether every document of every query got one and the same score."""
        return len({score for row in self.scores.values() for score in row.values()}) == 1


def system_id(stage: Stage) -> str | None:
    """Return the system that a stage scores (`native`, `trained-format`, `tuned`), None for any other stage."""
    if stage.kind == "evaluate":
        return TUNED
    return stage.kind.removeprefix(_BASELINE) if stage.kind.startswith(_BASELINE) else None


def build_metrics(run: RunDir, plan: Plan) -> dict[str, Any]:
    """Return metrics.json of a run folder; what was not scored is named in `gaps`.

    {"version": 1, "seed": 42,
     "eval": {"path", "sha256", "queries", "documents", "relevant", "queries_without_relevant"} | null,
     "metrics": ["ndcg@10", …]                 the headline metric first,
     "headline": {"metric", "baseline": system id | null},
     "systems": [{"id", "role": "baseline"|"tuned", "stage", "label", "head": "new"|"pretrained"|null, "scoring": {…},
                  "means": {metric: float}, "tied_queries", "sampled_queries", "random_orders", "missing_queries": […],
                  "constant": bool}],
     "per_query": [{"qid", "values": {system id: {metric: float}}}],
     "comparisons": [{"baseline": system id, "metric", "before", "after", "difference", "low"|null, "high"|null, "p",
                      "exact", "queries", "wins", "losses", "ties", "verdict"}]    tuned against each baseline,
     "verdict": "better" | "worse" | "no measurable difference" | "not compared"   of the headline comparison,
     "gate": {"passed": bool | null, "rules": [{"metric", "rule", "passed", "sentence"}]}   null: the recipe has none,
     "gaps": ["…"]}

    Raises RunFolderError for files that are damaged or belong together with others, StageFailedError for scores that
    are not finite, RecipeError for a metric or gate that does not exist.
    """
    gaps: list[str] = []
    metric_names = _metric_names(plan)
    groups = load_groups(run.eval_jsonl) if run.eval_jsonl.is_file() else ()
    if not groups:
        gaps.append("The run has no evaluation set: nothing was measured.")
    systems = _measure_systems(run, plan, groups, metric_names, gaps) if groups else []
    tuned = next((system for system in systems if system.system_id == TUNED), None)
    baselines = [system for system in systems if system.system_id != TUNED]
    comparisons = _comparisons(tuned, baselines, metric_names, _seed(plan))
    return {
        "version": METRICS_VERSION,
        "seed": _seed(plan),
        "eval": _describe_groups(run.eval_jsonl, groups) if groups else None,
        "metrics": metric_names,
        "headline": {"metric": metric_names[0], "baseline": baselines[0].system_id if baselines else None},
        "systems": [_describe_system(system, metric_names) for system in systems],
        "per_query": _per_query(systems, metric_names),
        "comparisons": comparisons,
        "verdict": comparisons[0]["verdict"] if comparisons else NOT_COMPARED,
        "gate": _decide_gate(plan, tuned, baselines),
        "gaps": gaps,
    }


def _seed(plan: Plan) -> int:
    """Return what decides bootstrap resamples, permutations and sampled orders of ties."""
    seed = (plan.recipe.get("evaluate") or {}).get("seed")
    return SEED if seed is None else int(seed)


def _metric_names(plan: Plan) -> list[str]:
    """Return the recipe's metrics, then those that only its gate names."""
    evaluate = plan.recipe.get("evaluate") or {}
    names = [*(evaluate.get("metrics") or DEFAULT_METRICS), *(plan.recipe.get("gate") or {})]
    return list(dict.fromkeys(names))


def _measure_systems(
    run: RunDir, plan: Plan, groups: tuple[Group, ...], metric_names: list[str], gaps: list[str]
) -> list[System]:
    """Return the scored systems, baselines in the plan's order first; add a gap for each that was not scored."""
    found = []
    for stage in plan.stages:
        name = system_id(stage)
        if name is None:
            continue
        output = run.stage(stage.name).output
        if not (output / "scores.jsonl").is_file():
            gaps.append(f"{_LABELS.get(name, name)}: the stage {stage.name} left no scores.")
            continue
        scores = load_scores(output / "scores.jsonl", groups)
        measurement = measure(groups, scores, metric_names, seed=_seed(plan))
        found.append(System(name, stage, _load_scoring(output / "scoring.json"), scores, measurement))
    return sorted(found, key=lambda system: system.system_id == TUNED)


def _load_scoring(path: Path) -> dict[str, Any]:
    """Return what a stage's scoring.json says, the keys of its `spec` among the rest; empty where it has none."""
    if not path.is_file():
        return {}
    try:
        scoring = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise RunFolderError(f"not JSON: {error}", where=Where(str(path))) from error
    if not isinstance(scoring, dict):
        return {}
    spec = scoring.pop("spec", None)
    return {**(spec if isinstance(spec, dict) else {}), **scoring}


def _comparisons(
    tuned: System | None, baselines: list[System], metric_names: list[str], seed: int
) -> list[dict[str, Any]]:
    """Return the tuned system against each baseline on each metric; the headline comparison comes first."""
    if tuned is None:
        return []
    rows = []
    for baseline in baselines:
        for metric in metric_names:
            comparison = compare(baseline.measurement.values[metric], tuned.measurement.values[metric], seed=seed)
            row = {"baseline": baseline.system_id, "metric": metric, **asdict(comparison)}
            rows.append({**row, "verdict": comparison.verdict})
    return rows


def _decide_gate(plan: Plan, tuned: System | None, baselines: list[System]) -> dict[str, Any]:
    rules, problems = parse_gate(plan.recipe.get("gate") or {})
    if problems:
        raise RecipeError.from_problems([Problem(f"gate: {item.message}", item.hint) for item in problems])
    rows = []
    for rule in rules:
        decision = decide(
            rule,
            tuned.measurement.mean(rule.metric.name) if tuned else None,
            baselines[0].measurement.mean(rule.metric.name) if baselines else None,
        )
        rows.append(
            {
                "metric": rule.metric.name,
                "rule": rule.text,
                "passed": decision.passed,
                "sentence": decision.sentence,
            }
        )
    return {"passed": all(row["passed"] for row in rows) if rows else None, "rules": rows}


def _describe_groups(path: Path, groups: tuple[Group, ...]) -> dict[str, Any]:
    return {
        "path": f"data/{path.name}",
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "queries": len(groups),
        "documents": sum(len(group.documents) for group in groups),
        "relevant": sum(group.relevant for group in groups),
        "queries_without_relevant": sum(group.relevant == 0 for group in groups),
    }


def _describe_system(system: System, metric_names: list[str]) -> dict[str, Any]:
    return {
        "id": system.system_id,
        "role": TUNED if system.system_id == TUNED else "baseline",
        "stage": system.stage.name,
        "label": system.scoring.get("label") or _LABELS.get(system.system_id, system.system_id),
        "head": system.scoring.get("head"),
        "scoring": dict(system.scoring),
        "means": {metric: system.measurement.mean(metric) for metric in metric_names},
        "tied_queries": system.measurement.tied,
        "sampled_queries": system.measurement.sampled,
        "random_orders": RANDOM_ORDERS,
        "missing_queries": list(system.measurement.missing),
        "constant": system.constant,
    }


def _per_query(systems: list[System], metric_names: list[str]) -> list[dict[str, Any]]:
    qids = systems[0].measurement.qids if systems else ()
    return [
        {
            "qid": qid,
            "values": {
                system.system_id: {metric: system.measurement.values[metric][row] for metric in metric_names}
                for system in systems
            },
        }
        for row, qid in enumerate(qids)
    ]
