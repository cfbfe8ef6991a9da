"""Builds metrics.json: every system of a run measured on the same rows, compared, and held against the gate."""

from __future__ import annotations

import math
from bisect import bisect_right, insort
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any

from orchestrator.errors import OrchError, RecipeError, RunFolderError, Where
from orchestrator.evaluation import measures
from orchestrator.evaluation.choice import find_power
from orchestrator.evaluation.eval_sets import GOLD, EvalSet, Measured, describe_eval, load_eval
from orchestrator.evaluation.measures import check_metrics, default_metrics, require_metric
from orchestrator.evaluation.paired import compare, pair_columns
from orchestrator.machine.json_files import load_json
from orchestrator.machine.rundir import RunDir
from orchestrator.recipe.plan import Plan, Stage

METRICS_VERSION = 2
SEED = 42
PART, _TUNED_PART = "tuned-part", "tuned-"  # another way of the tuned model: `tuned-sparse` is compared with `sparse`
BEFORE, AFTER = "before", "after"  # the sides of a guard
EXPORT = "export"  # a model in another form, against its `source`
LABELS = {
    "native": "Base model in its native prompt",
    "trained-format": "Base model in the training format",
    measures.TEACHER: "Teacher",
    measures.TUNED: "Tuned model",
}
_SIDES = {BEFORE: "the base model", AFTER: "the tuned model"}


@dataclass(frozen=True)
class Scored:
    """A run's evaluation set (None: it has none) and {system id: its scores}, baselines in the plan's order first.

    `missing` names what was not scored.
    """

    evaluation: EvalSet | None
    scores: Mapping[str, Any]
    missing: tuple[str, ...]


@dataclass(frozen=True)
class System:
    """One measured model: its id and role, the stage that scored it, that stage's scoring.json, and its values."""

    system_id: str
    role: str
    stage: str | None
    label: str
    scoring: Mapping[str, Any]
    measured: Measured

    def describe(self) -> dict[str, Any]:
        """Return the system's entry in metrics.json."""
        return {
            "id": self.system_id,
            "role": self.role,
            "stage": self.stage,
            "label": self.scoring.get("label") or self.label,
            "head": self.scoring.get("head"),
            "scoring": dict(self.scoring),
            "means": dict(self.measured.means),
            **self.measured.facts,
            # the worker's word counts too: cosines of one vector differ in their last bits
            "constant": self.measured.facts["constant"] or self.scoring.get("constant") is True,
        }


def build_metrics(run: RunDir, plan: Plan, scored: Scored | None = None) -> dict[str, Any]:
    """Return metrics.json of a run folder; what was not scored is named in `gaps`.

    {"version": 2, "seed": 42,
     "kind": "group"|"retrieval"|"pair"|"chat", "unit": "query"|"pair"|"row"    what is measured and resampled,
     "eval": {"path", "sha256", "units", …counts of the kind; retrieval: "corpus": {"path", "sha256"}} | null,
     "metrics": ["ndcg@10", …]                 the headline metric first,
     "directions": {metric: "higher"|"lower"}  which way is better,
     "headline": {"metric", "baseline": system id | null},
     "systems": [{"id", "role": "baseline"|"teacher"|"tuned"|"tuned-part", "stage", "label",
                  "head": "new"|"pretrained"|null,
                  "scoring": {…},
                  "means": {metric: float | null}    the metric's value over all rows, a mean or not,
                  "constant": bool, …facts of the kind (tied_queries, missing_queries, generations, …)}],
     "rows": [{"id", ["gold": float], "values": {system id: {metric or column: float | null}}}],
     "comparisons": [{"baseline": system id, "metric", "before", "after", "difference", "low"|null, "high"|null, "p",
                      "exact", "units", "wins", "losses", "ties", "higher_is_better", "verdict"}]
                                               tuned against each baseline, then against the teacher; a baseline
                                               of one way of the model (sparse) against the tuned one's (tuned-sparse),
     "verdict": "better" | "worse" | "no measurable difference" | "not compared"   of the headline comparison,
     "power": {"metric", "rows", "spread", "assumed", "smallest", "rows_for_small_gain"} | null
                                               which difference the rows can show: `choice.Power`,
     "gate": {"passed": bool | null, "rules": [{"metric", "rule", "passed", "sentence", ["guard"]}]}
                                               null: the recipe has none; the guards' rules are the last,
     "guards": [{"name", "kind", "unit", "eval", "metrics", "directions", "verdict", "gate"   as above,
                 "means": {"before": {metric: float | null} | null, "after": …},
                 "comparisons": [{"baseline": "before", "metric", …}]}]   the packaged model against the base,
     "gaps": ["…"]}

    With `export` in the recipe the report adds "exports": [export.json of each form], and their gates' rules.

    The headline's baseline is the first one; the teacher, another model, never is.

    Version 1 had rankings only: `per_query` with `qid` for `rows`, and `queries` for `units`.

    Raises RunFolderError for files that are damaged or belong together with others, StageFailedError for scores that
    are not finite, RecipeError for a metric or gate that does not exist or does not fit the evaluation set.
    """
    scored = load_scored(run, plan) if scored is None else scored
    asked, gate = plan.recipe.get("evaluate") or {}, plan.recipe.get("gate") or {}
    kind = scored.evaluation.kind if scored.evaluation else measures.guess_kind(asked.get("metrics") or ())
    names = _require_metrics(kind, asked.get("metrics") or default_metrics(kind), gate)
    seed = SEED if asked.get("seed") is None else int(asked["seed"])  # of resamples, permutations and orders of ties
    systems = _measure_systems(run, plan, scored, names, seed)
    tuned = next((system for system in systems if system.role == measures.TUNED), None)
    reference = next((system for system in systems if system.role == measures.BASELINE), None)
    parts = {system.system_id.removeprefix(_TUNED_PART): system for system in systems if system.role == PART}
    comparisons = [
        {"baseline": system.system_id, **row}
        for role in (measures.BASELINE, measures.TEACHER)
        for system in systems
        if system.role == role and (after := parts.get(system.system_id, tuned)) is not None
        for row in compare_measured(system.measured, after.measured, names, seed)
    ]
    guards = [_measure_guard(run, plan, name, guard, seed) for name, guard in (asked.get("guard") or {}).items()]
    decided = measures.decide_gate(
        gate, tuned.measured.means if tuned else None, reference.measured.means if reference else None
    )
    rules = [*decided["rules"], *(rule for entry, _ in guards for rule in entry["gate"]["rules"])]
    first = reference.system_id if reference else None
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
        "power": describe_power(names[0], [side.measured for side in (reference, tuned) if side]),
        "gate": {"passed": all(rule["passed"] for rule in rules) if rules else None, "rules": rules},
        "guards": [entry for entry, _ in guards],
        "gaps": [*scored.missing, *(sentence for _, missing in guards for sentence in missing)],
    }


def _require_metrics(kind: str, asked: Sequence[str], gate: Mapping[str, object], of: str = "") -> list[str]:
    """Return what is measured, each metric once. Raises RecipeError for one that does not measure the kind."""
    names = list(dict.fromkeys((*asked, *gate)))
    if problems := check_metrics(names, kind):
        raise RecipeError.from_problems([replace(problem, message=of + problem.message) for problem in problems])
    return names


def scoring_stages(plan: Plan) -> dict[str, Stage]:
    """Return {system id (`native`, `trained-format`, `teacher`, `tuned`): the stage that scores it}, the tuned last."""
    baselines = {
        stage.kind.removeprefix("baseline-"): stage for stage in plan.stages if stage.kind.startswith("baseline-")
    }
    evaluate = plan.stage("evaluate")
    return {**baselines, measures.TUNED: evaluate} if evaluate else baselines


def load_scored(run: RunDir, plan: Plan) -> Scored:
    """Return what the stages of a run folder scored. Raises RunFolderError for files that belong to other data."""
    evaluation = load_eval(run.eval_jsonl)
    if evaluation is None:
        return Scored(None, {}, ("The run has no evaluation set: nothing was measured.",))
    stages = scoring_stages(plan)
    scores = _load_scores(run, evaluation, stages)
    missing = (
        f"{LABELS.get(name, name)}: the stage {stage.name} left no scores."
        for name, stage in stages.items()
        if name not in scores
    )
    return Scored(evaluation, scores, tuple(missing))


def _load_scores(run: RunDir, evaluation: EvalSet, stages: Mapping[str, Stage | None]) -> dict[str, Any]:
    paths = {name: run.stage(stage.name).output / "scores.jsonl" for name, stage in stages.items() if stage}
    return {name: evaluation.load_scores(path) for name, path in paths.items() if path.is_file()}


def _measure_systems(run: RunDir, plan: Plan, scored: Scored, names: Sequence[str], seed: int) -> list[System]:
    """Return the scored systems, baselines in the plan's order first."""
    measured = scored.evaluation.measure(scored.scores, names, seed=seed) if scored.evaluation else {}
    alone = {measures.TUNED, measures.TEACHER}
    return [
        System(
            name,
            name if name in alone else PART if name.startswith(_TUNED_PART) else measures.BASELINE,
            stage.name,
            LABELS.get(name, name),
            load_scoring(run.stage(stage.name).output / "scoring.json"),
            measured[name],
        )
        for name, stage in scoring_stages(plan).items()
        if name in measured
    ]


def _measure_guard(
    run: RunDir, plan: Plan, name: str, guard: Mapping[str, Any], seed: int
) -> tuple[dict[str, Any], list[str]]:
    """Return a guard's entry in metrics.json, and a sentence for what of it was not scored.

    Its metrics are the recipe's that fit its data, else its kind's own; then those that only its gate names.
    """
    path = run.guard(name) / run.eval_jsonl.name
    evaluation = load_eval(path)
    gate, asked = guard.get("gate") or {}, (plan.recipe.get("evaluate") or {}).get("metrics") or ()
    kind = evaluation.kind if evaluation else measures.guess_kind((*gate, *asked))
    fitting = [metric for metric in asked if not check_metrics([metric], kind)]
    names = _require_metrics(kind, fitting or default_metrics(kind), gate, of=f"guard {name}: ")
    measured: dict[str, Measured] = {}
    missing = [f"Guard {name}: its data was not prepared, so nothing was measured on it."]
    if evaluation is not None:
        stages = {side: plan.stage(f"guard-{name}-{side}") for side in _SIDES}
        measured = evaluation.measure(_load_scores(run, evaluation, stages), names, seed=seed)
        missing = [f"Guard {name}: {_SIDES[side]} was not scored on it." for side in _SIDES if side not in measured]
    judged = _judge_sides((BEFORE, AFTER), measured, names, gate, seed=seed, of=f"guard {name}")
    for rule in judged["gate"]["rules"]:
        rule["guard"] = name
    described = describe_eval(path, evaluation, run.root) if evaluation else None
    return {"name": name, **describe_kind(kind, names), "eval": described, **judged}, missing


def _judge_sides(
    sides: tuple[str, str], measured: Mapping[str, Measured], names: Sequence[str], gate: Mapping[str, object], *,
    seed: int, of: str = "", against: str = measures.BASELINE
) -> dict[str, Any]:  # fmt: skip
    """Return {"means", "comparisons", "verdict", "gate"} of the second side against the first, if both are there."""
    first, second = (measured.get(side) for side in sides)
    compared = compare_measured(first, second, names, seed) if first and second else ()
    comparisons = [{"baseline": sides[0], **row} for row in compared]
    before, after = (dict(side.means) if side else None for side in (first, second))
    return {
        "means": dict(zip(sides, (before, after), strict=True)),
        "comparisons": comparisons,
        "verdict": judge(comparisons, names[0], sides[0]),
        "gate": measures.decide_gate(gate, after, before, of=of, against=against),
    }


def judge_export(
    evaluation: EvalSet, source: Any, export: Any, metrics: Sequence[str], gate: Mapping[str, object]
) -> dict[str, Any]:
    """Return what a model lost in another form: `source` and `export` are the scores of both on one evaluation set.

    {"kind", "unit", "metrics", "directions", "means": {"source": {metric: float | null}, "export": …},
     "comparisons": [{"baseline": "source", "metric", …}]   as in metrics.json, "verdict", "gate",
     "changes": {"largest", "mean" (of a score, over rows that both have), "lowest", "highest" (of the source's scores),
                 "reordered", "rankings", "discordant": the share of pairs in another order} | {"largest", "mean",
                 "answers", "other_answers"} (chats: of the loss a token)}.

    Raises StageFailedError for scores that are not finite, RecipeError for a gate that cannot be read.
    """
    names = _require_metrics(evaluation.kind, metrics, gate)
    measured = evaluation.measure({measures.SOURCE: source, EXPORT: export}, names, seed=SEED)
    return {
        **describe_kind(evaluation.kind, names),
        **_judge_sides((measures.SOURCE, EXPORT), measured, names, gate, seed=SEED, against=measures.SOURCE),
        "changes": _count_changes(evaluation.kind, source, export),
    }


def _count_changes(kind: str, source: Mapping[str, Any], export: Mapping[str, Any]) -> dict[str, Any]:
    """Return how far scores moved, and how many pairs and rankings are in another order; ties have no order."""
    if kind == measures.CHAT:
        losses = [(one.loss, export[row].loss) for row, one in source.items()]
        moved = [abs(after - before) for before, after in losses if before is not None and after is not None]
        texts = [(one.generation, export[row].generation) for row, one in source.items()]
        written = [pair for pair in texts if None not in pair]
        other = sum(first != second for first, second in written)
        return {**_spread(moved), "answers": len(written), "other_answers": other}
    nested = all(isinstance(one, Mapping) for one in source.values())
    rankings = [(one, export.get(row, {})) for row, one in source.items()] if nested else [(source, export)]
    pairs = [sorted((first[name], second[name]) for name in first.keys() & second.keys()) for first, second in rankings]
    scores = [score for first, _ in rankings for score in first.values()]
    discordant = [_count_discordant(one) for one in pairs]
    possible = sum(len(one) * (len(one) - 1) // 2 for one in pairs)
    return {
        **_spread([abs(after - before) for one in pairs for before, after in one]),
        "lowest": min(scores, default=None),
        "highest": max(scores, default=None),
        "rankings": len(pairs),
        "reordered": sum(count > 0 for count in discordant),
        "discordant": sum(discordant) / possible if possible else 0.0,
    }


def _spread(changes: Sequence[float]) -> dict[str, float | None]:
    return {"largest": max(changes, default=None), "mean": math.fsum(changes) / len(changes) if changes else None}


def _count_discordant(pairs: Sequence[tuple[float, float]]) -> int:
    """Return how many pairs of the sorted (before, after) stand in the other order after; ties count as no change."""
    seen: list[float] = []
    discordant = 0
    for _, tied in groupby(pairs, key=itemgetter(0)):
        values = [after for _, after in tied]
        discordant += sum(len(seen) - bisect_right(seen, value) for value in values)
        for value in values:
            insort(seen, value)
    return discordant


def load_scoring(path: Path) -> dict[str, Any]:
    """Return what a stage's scoring.json says, the keys of its `spec` among the rest; empty where it has none."""
    if not path.is_file():
        return {}
    try:
        scoring = load_json(path)
    except ValueError as error:
        raise RunFolderError(f"not JSON: {error}", where=Where(str(path))) from error
    if not isinstance(scoring, dict):
        return {}
    spec = scoring.pop("spec", None)
    return {**(spec if isinstance(spec, dict) else {}), **scoring}


def compare_measured(before: Measured, after: Measured, metrics: Sequence[str], seed: int) -> list[dict[str, Any]]:
    """Return one comparison a metric, in their order.

    A metric that both have on no row, such as ROUGE-L where nothing was generated, is not compared.
    """
    rows = []
    for metric in map(require_metric, metrics):
        if paired := pair_columns(metric, before.columns, after.columns):
            comparison = compare(paired, higher_is_better=metric.higher_is_better, seed=seed)
            rows.append({"metric": metric.name, **asdict(comparison), "verdict": comparison.verdict})
    return rows


def find_power_of_baseline(run: RunDir, plan: Plan) -> tuple[dict[str, Any], str] | None:
    """Return `power` of metrics.json and the unit, by the first baseline alone; None where it tells nothing."""
    with suppress(OrchError):  # what is wrong with the scores the report will say
        asked, scored = plan.recipe.get("evaluate") or {}, load_scored(run, plan)
        if scored.evaluation is not None:
            kind = scored.evaluation.kind
            name = next(iter(asked.get("metrics") or default_metrics(kind)))
            sides = _measure_systems(run, plan, scored, [name], SEED)
            power = describe_power(name, [sides[0].measured]) if sides else None
            return (power, measures.UNITS[kind]) if power else None
    return None


def describe_power(metric: str, sides: Sequence[Measured]) -> dict[str, Any] | None:
    """Return which difference the rows can show: from those of the first two sides, or from the values of the one."""
    if not sides:
        return None
    power = find_power(require_metric(metric), *(side.columns for side in sides[:2]))
    return asdict(power) if power else None


def judge(comparisons: Iterable[Mapping[str, Any]], metric: str, baseline: str | None) -> str:
    """Return the verdict of the headline comparison: of `metric`, against the reference `baseline`."""
    found = (row for row in comparisons if row["metric"] == metric and row["baseline"] == baseline)
    return next((str(row["verdict"]) for row in found), measures.NOT_COMPARED)


def describe_kind(kind: str, metrics: Sequence[str]) -> dict[str, Any]:
    """Return what metrics.json says of a kind of evaluation set and its metrics."""
    return {
        "kind": kind,
        "unit": measures.UNITS[kind],
        "metrics": list(metrics),
        "directions": {name: "higher" if require_metric(name).higher_is_better else "lower" for name in metrics},
    }


def build_rows(systems: Sequence[System]) -> list[dict[str, Any]]:
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
