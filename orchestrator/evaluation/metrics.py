"""Builds metrics.json: every system of a run measured on the same rows, compared, and held against the gate."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from orchestrator.errors import Problem, RecipeError, RunFolderError, Where
from orchestrator.evaluation.compare import NOT_COMPARED, compare
from orchestrator.evaluation.evalset import CORPUS
from orchestrator.evaluation.gate import decide, parse_gate
from orchestrator.evaluation.measured import GOLD
from orchestrator.evaluation.measures import GROUP, RETRIEVAL, UNITS, check_metrics, default_metrics, require_metric
from orchestrator.evaluation.pairing import pair_up
from orchestrator.evaluation.scored import LABELS, TUNED, Scored, load_scored, scoring_stages

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from orchestrator.evaluation.measured import EvalSet, Measured
    from orchestrator.plan import Plan, Stage
    from orchestrator.rundir import RunDir

METRICS_VERSION = 2
SEED = 42


@dataclass(frozen=True)
class System:
    """One measured model: its id, the stage that scored it, that stage's scoring.json, and its values."""

    system_id: str
    stage: Stage
    scoring: Mapping[str, Any]
    measured: Measured


def build_metrics(run: RunDir, plan: Plan, scored: Scored | None = None) -> dict[str, Any]:
    """Return metrics.json of a run folder; what was not scored is named in `gaps`.

    {"version": 2, "seed": 42,
     "kind": "group"|"retrieval"|"pair"|"chat", "unit": "query"|"pair"|"row"    what is measured and resampled,
     "eval": {"path", "sha256", "units", …counts of the kind; retrieval: "corpus": {"path", "sha256"}} | null,
     "metrics": ["ndcg@10", …]                 the headline metric first,
     "directions": {metric: "higher"|"lower"}  which way is better,
     "headline": {"metric", "baseline": system id | null},
     "systems": [{"id", "role": "baseline"|"tuned", "stage", "label", "head": "new"|"pretrained"|null, "scoring": {…},
                  "means": {metric: float | null}    the metric's value over all rows, a mean or not,
                  "constant": bool, …facts of the kind (tied_queries, missing_queries, generations, …)}],
     "rows": [{"id", ["gold": float], "values": {system id: {metric or column: float | null}}}],
     "comparisons": [{"baseline": system id, "metric", "before", "after", "difference", "low"|null, "high"|null, "p",
                      "exact", "units", "wins", "losses", "ties", "higher_is_better", "verdict"}]
                                               tuned against each baseline,
     "verdict": "better" | "worse" | "no measurable difference" | "not compared"   of the headline comparison,
     "gate": {"passed": bool | null, "rules": [{"metric", "rule", "passed", "sentence"}]}   null: the recipe has none,
     "gaps": ["…"]}

    Version 1 had rankings only: `per_query` with `qid` for `rows`, and `queries` for `units`.

    Raises RunFolderError for files that are damaged or belong together with others, StageFailedError for scores that
    are not finite, RecipeError for a metric or gate that does not exist or does not fit the evaluation set.
    """
    scored = load_scored(run, plan) if scored is None else scored
    kind = scored.evaluation.kind if scored.evaluation else _planned_kind(plan)
    names = _metric_names(plan, kind)
    systems = _measure_systems(run, plan, scored, names)
    tuned = next((system for system in systems if system.system_id == TUNED), None)
    baselines = [system for system in systems if system.system_id != TUNED]
    comparisons = _comparisons(tuned, baselines, names, _seed(plan))
    first = comparisons[0] if comparisons and comparisons[0]["metric"] == names[0] else None
    return {
        "version": METRICS_VERSION,
        "seed": _seed(plan),
        "kind": kind,
        "unit": UNITS[kind],
        "eval": _describe_eval(run.eval_jsonl, scored.evaluation) if scored.evaluation else None,
        "metrics": names,
        "directions": {name: "higher" if require_metric(name).higher_is_better else "lower" for name in names},
        "headline": {"metric": names[0], "baseline": baselines[0].system_id if baselines else None},
        "systems": [_describe_system(system) for system in systems],
        "rows": _rows(systems),
        "comparisons": comparisons,
        "verdict": first["verdict"] if first else NOT_COMPARED,
        "gate": _decide_gate(plan, tuned, baselines),
        "gaps": list(scored.gaps),
    }


def _seed(plan: Plan) -> int:
    """Return what decides bootstrap resamples, permutations and sampled orders of ties."""
    seed = (plan.recipe.get("evaluate") or {}).get("seed")
    return SEED if seed is None else int(seed)


def _planned_kind(plan: Plan) -> str:
    """Return the kind that the recipe's metrics measure, where there is no evaluation set that says it."""
    for name in (plan.recipe.get("evaluate") or {}).get("metrics") or ():
        return next((kind for kind in UNITS if not check_metrics([name], kind)), GROUP)
    return GROUP


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
        System(name, stage, _load_scoring(run.stage(stage.name).output / "scoring.json"), measured[name])
        for name, stage in scoring_stages(plan).items()
        if name in measured
    ]


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
    """Return the tuned system against each baseline on each metric; the headline comparison comes first.

    A metric that both have on no row, such as ROUGE-L where nothing was generated, is not compared.
    """
    if tuned is None:
        return []
    rows = []
    for baseline in baselines:
        for metric in map(require_metric, metric_names):
            paired = pair_up(metric, baseline.measured.columns, tuned.measured.columns)
            if paired is None:
                continue
            comparison = compare(paired, higher_is_better=metric.higher_is_better, seed=seed)
            row = {"baseline": baseline.system_id, "metric": metric.name, **asdict(comparison)}
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
            tuned.measured.means[rule.metric.name] if tuned else None,
            baselines[0].measured.means[rule.metric.name] if baselines else None,
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


def _describe_eval(path: Path, evaluation: EvalSet) -> dict[str, Any]:
    described = {
        "path": f"data/{path.name}",
        "sha256": _sha256(path),
        "units": evaluation.size,
        **evaluation.describe(),
    }
    if evaluation.kind == RETRIEVAL:
        described["corpus"] = {"path": f"data/{CORPUS}", "sha256": _sha256(path.with_name(CORPUS))}
    return described


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _describe_system(system: System) -> dict[str, Any]:
    return {
        "id": system.system_id,
        "role": TUNED if system.system_id == TUNED else "baseline",
        "stage": system.stage.name,
        "label": system.scoring.get("label") or LABELS.get(system.system_id, system.system_id),
        "head": system.scoring.get("head"),
        "scoring": dict(system.scoring),
        "means": dict(system.measured.means),
        **system.measured.facts,
        # the worker's word counts too: cosines of one vector differ in their last bits
        "constant": system.measured.facts["constant"] or system.scoring.get("constant") is True,
    }


def _rows(systems: list[System]) -> list[dict[str, Any]]:
    """Return every row's values of every system, and its gold score where it has one."""
    if not systems:
        return []
    first = systems[0].measured
    gold = first.columns.get(GOLD)
    return [
        {
            "id": row,
            **({"gold": gold[place]} if gold else {}),
            "values": {
                system.system_id: {
                    name: values[place] for name, values in system.measured.columns.items() if name != GOLD
                }
                for system in systems
            },
        }
        for place, row in enumerate(first.ids)
    ]
