"""Compares runs that were measured on the same rows: two, several, or a sweep's settings, of which one is best."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from orchestrator.errors import RunFolderError, StageFailedError, Where
from orchestrator.evaluation import choice, measures
from orchestrator.evaluation.eval_sets import GOLD, Measured
from orchestrator.evaluation.measures import Metric, decide_gate, display_name, require_metric
from orchestrator.evaluation.metrics import METRICS_VERSION, SEED, compare_measured
from orchestrator.evaluation.paired import Columns
from orchestrator.machine.json_files import find_object
from orchestrator.machine.rundir import RunDir
from orchestrator.machine.terminal import Language, Text, align
from orchestrator.report.wording import GATE, counted, figure, interval, p_cell, p_value, signed
from orchestrator.run.folder import load_plan, load_run_object, understood
from orchestrator.run.sweep import DONE, Sweep, is_over, trial_dir

_NOTE_SHOWN = 40  # characters
_COMPARED = {
    measures.BETTER: "is better than",
    measures.WORSE: "is worse than",
    measures.NO_DIFFERENCE: "shows no measurable difference from",
}
_SWEEP = {  # {0} to {8} of a rule: metric, before, after, difference, interval, p, rows, settings, verdict
    "winner": Text("winner: {0} (trials {1})", "优胜：{0}（试验 {1}）"),
    "confirmed": Text(
        "chosen from {7} settings on one half of the evaluation set, confirmed on the other, {6} rows: {8}\n"
        "{0} {1} before and {2} after: {3} {4}, {5}",
        "在评估集的一半上从 {7} 组设置中选出，在另一半（{6} 行）上验证：{8}\n{0} 由 {1} 到 {2}：{3} {4}，{5}",
    ),
    "corrected": Text(
        "chosen from {7} settings on {6} rows, too few to choose on one half and confirm on the other: {8}\n"
        "{0} {1} before and {2} after: {3} {4}, {5}; interval and p are corrected for the choice, not the difference",
        "在 {6} 行上从 {7} 组设置中选出，行数太少，无法分成选择与验证两半：{8}\n"
        "{0} 由 {1} 到 {2}：{3} {4}，{5}；区间与 p 已按选择次数校正，差值未校正",
    ),
    "alone": Text(
        "one setting on {6} rows, the mean of its trainings: {8}\n{0} {1} before and {2} after: {3} {4}, {5}",
        "仅一组设置，{6} 行，取各次训练的均值：{8}\n{0} 由 {1} 到 {2}：{3} {4}，{5}",
    ),
    "better": Text("better than the untouched model", "优于未训练的模型"),
    "worse": Text("worse than the untouched model", "劣于未训练的模型"),
    "not shown": Text("no measurable difference from the untouched model", "与未训练的模型无可测差异"),
    "alike": Text("not measurably worse: {0} settings (trials {1})", "无法区分优劣：{0} 组设置（试验 {1}）"),
    "one_seed": Text(
        "one training of each setting: what the next one would come to is not known; --seeds 3 counts that too",
        "每组设置只训练一次：再训练一次会如何并不知道；--seeds 3 也计入这一偶然性",
    ),
    "not_begun": Text("{0} trials were not run", "{0} 次试验未运行"),
}
_CHOSEN = {measures.BETTER: "better", measures.WORSE: "worse", measures.NO_DIFFERENCE: "not shown"}


def compare_runs(first: RunDir, *others: RunDir) -> dict[str, Any]:
    """Compare runs' tuned models with the first run's, row by row, on the metrics that all measured, in its order.

    Of two runs {"version", "first", "second": folders, "unit", "eval": {"sha256", "units"},
     "verdict": of the first comparison, "comparisons": as in metrics.json, the second run minus the first};
    of more, `others` for `second`, a `run` in every comparison, whose interval and p hold for all of them at once, and
    "best": {"metric", "run", "not_worse": folders of the runs that the rows cannot tell from it}.

    Raises RunFolderError where a run was not measured, or one was measured on another evaluation set.
    """
    runs = (first, *others)
    loaded = _load_alike(runs)
    one = loaded[0]
    shared = [metric for metric in one["metrics"] if all(metric in other["metrics"] for other in loaded)]
    if not shared:
        message = f"the runs share no metric: {' and '.join(', '.join(each['metrics']) for each in loaded)}"
        raise RunFolderError(message, hint="give all recipes the same evaluate.metrics")
    sides = []
    for run, each in zip(runs, loaded, strict=True):
        with understood(run.metrics_json):
            sides.append(_measured(each, [row["id"] for row in one["rows"]]))
    before, *after = sides
    measured_on = {key: one["eval"][key] for key in ("sha256", "units")}
    result = {"version": METRICS_VERSION, "first": str(first.root), "unit": one["unit"], "eval": measured_on}
    if len(others) == 1:
        comparisons = compare_measured(before, after[0], shared, SEED)
        if not comparisons:
            raise RunFolderError("the two runs share no row with a value", where=Where(str(first.metrics_json)))
        verdict = comparisons[0]["verdict"]
        return {**result, "second": str(others[0].root), "verdict": verdict, "comparisons": comparisons}
    comparisons = []
    for metric in map(require_metric, shared):
        pairs = choice.pair_systems(metric, before.columns, [[side.columns] for side in after])
        found = choice.compare_many(pairs, higher_is_better=metric.higher_is_better, seed=SEED)
        for run, comparison in zip(others, found, strict=True):
            row = {"metric": metric.name, **asdict(comparison), "verdict": comparison.verdict}
            comparisons.append({"run": str(run.root), **row})
    return {
        **result,
        "others": [str(run.root) for run in others],
        "comparisons": comparisons,
        "best": _find_best(require_metric(shared[0]), sides, runs),
    }


def _find_best(metric: Metric, sides: Sequence[Measured], runs: Sequence[RunDir]) -> dict[str, Any]:
    """Return which run is best by a metric, and which of the others the rows cannot tell from it."""
    pairs = choice.pair_systems(metric, sides[0].columns, [[side.columns] for side in sides])
    way = 1 if metric.higher_is_better else -1
    best = max(range(len(pairs)), key=lambda place: way * pairs[place][0].after)
    not_worse = [str(runs[place].root) for place in choice.find_not_worse(pairs, best, SEED)]
    return {"metric": metric.name, "run": str(runs[best].root), "not_worse": not_worse}


def format_comparison(compared: Mapping[str, Any]) -> str:
    """Return the verdict of `compare_runs` and a table of plain text."""
    several = "others" in compared
    other = "other" if several else "second"
    table: list[tuple[str, ...]] = [("metric", "first", other, "difference", "95 % interval", "p", "won / lost / tied")]
    table += [
        (
            display_name(row["metric"]),
            figure(row["before"]),
            figure(row["after"]),
            signed(row["difference"]),
            interval(row["low"], row["high"]),
            p_cell(row["p"]),
            f"{row['wins']} / {row['losses']} / {row['ties']}",
        )
        for row in compared["comparisons"]
    ]
    if several:
        names = ["run", *(_name(row["run"]) for row in compared["comparisons"])]
        words = ["", *(row["verdict"] for row in compared["comparisons"])]
        table = [(name, *row, word) for name, row, word in zip(names, table, words, strict=True)]
    lines = align(table)
    units = counted(compared["eval"]["units"], compared["unit"])
    if not several:
        head = f"The second run {_COMPARED[compared['verdict']]} the first, on {units}."
        return "\n".join([head, f"  first   {compared['first']}", f"  second  {compared['second']}", "", *lines])
    best, count = compared["best"], len(compared["others"])
    alike = ", ".join(map(_name, best["not_worse"])) or "none"
    head = f"{counted(count, 'run')} beside {_name(compared['first'])}, on {units}; intervals and p hold for all."
    found = f"Best by {display_name(best['metric'])}: {_name(best['run'])}. Not measurably worse: {alike}."
    starts = {0, *range(1 + count, len(table), count)}  # of the table, and of each metric but the first
    blocks = (f"\n{line}" if place in starts else line for place, line in enumerate(lines))
    return "\n".join([head, found, *blocks])


def _name(run: str) -> str:
    """Return a run's name, of a sweep's trial with the sweep's."""
    path = Path(run)
    return f"{path.parent.parent.name}/{path.name}" if path.parent.name == "trials" else path.name


def _load_alike(runs: Sequence[RunDir]) -> list[dict[str, Any]]:
    """Return each run's metrics.json. Raises RunFolderError where they were not measured on the same data."""
    hint = "give both recipes the same data.eval; a split by eval_ratio depends on the data and the seed"
    loaded: list[dict[str, Any]] = []
    for run in runs:
        with understood(run.metrics_json):
            loaded.append(_load_metrics(run))
            one, two = loaded[0]["eval"], loaded[-1]["eval"]
            if one["sha256"] != two["sha256"]:
                units = (counted(side["units"], loaded[0]["unit"]) for side in (one, two))
                first, other = (f"{side['sha256'][:12]} ({size})" for side, size in zip((one, two), units, strict=True))
                message = f"the two runs were measured on different evaluation sets: {first} and {other}"
                raise RunFolderError(message, hint=hint, where=Where(str(run.eval_jsonl)))
            if (one.get("corpus") or {}).get("sha256") != (two.get("corpus") or {}).get("sha256"):
                raise RunFolderError("the two runs searched different corpora", hint=hint, where=Where(str(run.data)))
    return loaded


def _load_metrics(run: RunDir) -> dict[str, Any]:
    """Return a run's metrics.json in the newest form. Raises RunFolderError where it holds no tuned model."""
    load_plan(run)
    metrics = find_object(run.metrics_json)
    where = Where(str(run.metrics_json))
    if metrics is None:
        hint = f"finish it: orch resume {run.root}"
        raise RunFolderError("the run has no metrics.json: it is not finished", hint=hint, where=Where(str(run.root)))
    if metrics.get("version") not in {1, METRICS_VERSION}:
        raise RunFolderError(
            f"metrics.json has version {metrics.get('version')}; this Orch reads 1 and {METRICS_VERSION}",
            hint=f"use the Orch that wrote it, or measure again: python -m orchestrator.report {run.root}",
            where=where,
        )
    if not any(system["id"] == measures.TUNED for system in metrics["systems"]):
        raise RunFolderError("the run's tuned model was not measured", where=where)
    if metrics["version"] == METRICS_VERSION:
        return metrics
    return {  # version 1, which knew ranked candidates only, in the names of version 2
        **metrics,
        "unit": measures.UNITS[measures.GROUP],
        "eval": {**metrics["eval"], "units": metrics["eval"]["queries"]},
        "rows": [{"id": row["qid"], "values": row["values"]} for row in metrics["per_query"]],
    }


def _measured(metrics: Mapping[str, Any], order: list[str], system: str = measures.TUNED) -> Measured:
    """Return a system's columns, and the gold scores where the rows have them, row by row of `order`."""
    by_id = {row["id"]: row for row in metrics["rows"]}
    rows = [by_id[row] for row in order]
    names = rows[0]["values"][system] if rows else ()
    columns = {name: [row["values"][system][name] for row in rows] for name in names}
    if rows and "gold" in rows[0]:
        columns[GOLD] = [row["gold"] for row in rows]
    return Measured(tuple(order), columns, {})


def choose_trial(folder: Path, sweep: Sweep) -> dict[str, Any] | None:
    """Return `choice` of sweep.json, of the trials that are done; None where no untouched model was measured.

    Raises StageFailedError where no trial has come to its end.
    """
    settings = [[trial for trial in trials if trial.state == DONE] for trials in sweep.settings()]
    settings = [trials for trials in settings if trials]
    if not settings:
        notes = [trial.note for trial in sweep.trials if trial.note]
        raise StageFailedError(f"none of {len(sweep.trials)} trials came to its end", hint=next(iter(notes), None))
    chosen = choose_setting([[trial_dir(folder, trial) for trial in trials] for trials in settings])
    if chosen is None:
        return None
    numbers = [[trial.number for trial in trials] for trials in settings]
    best = chosen.pop("best")
    about = {key: chosen.pop(key) for key in ("before", "after", "difference", "interval", "p", "verdict")}
    return {
        **chosen,
        "winner": {"set": settings[best][0].set, "trials": numbers[best], **about},
        "not_worse": [numbers[place] for place in chosen["not_worse"]],
    }


def choose_setting(settings: Sequence[Sequence[RunDir]]) -> dict[str, Any] | None:
    """Return which setting of a sweep is best, and what holds of it although it is the best of several.

    `settings` are the finished runs of each; all are compared with the untouched model of the first run. The best is
    chosen on one half of the rows and compared on the other; on all of them, with an interval corrected for the number
    of settings, where the rows are too few to be parted, or there is one setting. Gates are held against the mean of
    its trainings, on the rows that they are compared on; those of guards and exports against each training.
    {"rule", "chosen_from", "units", "best": place, "before", "after", "difference", "interval", "p", "verdict",
     "not_worse": [place, …], "gate"}, as in sweep.json; None where no untouched model was measured.

    Raises RunFolderError where the runs were not measured on the same rows.
    """
    trained = [run for runs in settings for run in runs]
    loaded = {run.root: metrics for run, metrics in zip(trained, _load_alike(trained), strict=True)}
    one = loaded[trained[0].root]
    with understood(trained[0].metrics_json):
        baseline = one["headline"]["baseline"]
        if baseline is None:
            return None
        order = [row["id"] for row in one["rows"]]
        reference = _measured(one, order, baseline).columns
        systems = [[_measured(loaded[run.root], order).columns for run in runs] for runs in settings]
        metric = require_metric(one["headline"]["metric"])
        split = len(settings) > 1 and len(order) >= choice.FEWEST_TO_SPLIT
        chosen = choice.choose_best(metric, reference, systems, split=split, seed=SEED)
        rows = choice.split_rows(len(order), SEED)[1] if split else None
        result = chosen.result
        return {
            "rule": "confirmed" if split else "corrected",
            "chosen_from": len(settings),
            "units": result.units,
            "best": chosen.best,
            **{key: getattr(result, key) for key in ("before", "after", "difference", "p")},
            "interval": None if result.low is None else [result.low, result.high],
            "verdict": _CHOSEN[result.verdict],
            "not_worse": list(chosen.not_worse),
            "gate": _hold_gate(reference, systems[chosen.best], rows, settings[chosen.best]),
        }


def _hold_gate(
    reference: Columns, trainings: Sequence[Columns], rows: Sequence[int] | None, runs: Sequence[RunDir]
) -> dict[str, Any]:
    """Return the gate's decision on the mean over trainings, on these rows; with what each one's guards say."""
    gate = load_plan(runs[0]).recipe.get("gate") or {}
    after: dict[str, float | None] = {}
    before: dict[str, float | None] = {}
    for metric in map(require_metric, gate):
        (pairs,) = choice.pair_systems(metric, reference, [trainings], rows)
        found = choice.compare_trainings(pairs, higher_is_better=metric.higher_is_better, seed=SEED)
        before[metric.name], after[metric.name] = found.before, found.after
    decided = decide_gate(gate, after, before)
    reports = [load_run_object(run.report_json) for run in runs]
    others = [
        rule for report in reports for rule in report["gate"]["rules"] if rule["metric"] not in gate or "guard" in rule
    ]
    rules = [*decided["rules"], *others]
    return {"passed": all(rule["passed"] for rule in rules) if rules else None, "rules": rules}


def format_sweep(sweep: Sweep, language: Language = "en") -> Iterator[str]:
    """Yield a table of a sweep's trials, and what may be said of the best setting."""
    headline = display_name(sweep.metric) if sweep.metric else "metric"
    table = [("trial", "state", *sweep.parameters, "seed", headline, "difference", "95 % interval", "")]
    table += [
        (
            f"{trial.number:03d}", trial.state, *(str(trial.set[key]) for key in sweep.parameters), str(trial.seed),
            figure(trial.metric), signed(trial.difference) if trial.difference is not None else "–",
            interval(*(trial.interval or (None, None))), (trial.note or "")[:_NOTE_SHOWN],
        )
        for trial in sweep.trials
    ]  # fmt: skip
    yield from align(table)
    if (chosen := sweep.choice) is None:
        return
    best = chosen["winner"]
    setting = " ".join(f"{key}={value}" for key, value in best["set"].items()) or "seeds"
    words = _SWEEP["alone" if chosen["chosen_from"] == 1 else chosen["rule"]].say(language)
    yield ""
    yield _SWEEP["winner"].say(language).format(setting, ", ".join(f"{number:03d}" for number in best["trials"]))
    yield words.format(
        headline, figure(best["before"]), figure(best["after"]), signed(best["difference"]),
        interval(*(best["interval"] or (None, None))), p_value(best["p"]), chosen["units"], chosen["chosen_from"],
        _SWEEP[best["verdict"]].say(language),
    )  # fmt: skip
    if alike := [" ".join(f"{number:03d}" for number in numbers) for numbers in chosen["not_worse"]]:
        yield _SWEEP["alike"].say(language).format(len(alike), "; ".join(alike))
    if sweep.seeds == 1:
        yield _SWEEP["one_seed"].say(language)
    if not_begun := sum(not is_over(trial) for trial in sweep.trials):
        yield _SWEEP["not_begun"].say(language).format(not_begun)
    if (gate := chosen["gate"])["passed"] is not None:
        yield GATE[gate["passed"]].say(language).format("; ".join(rule["sentence"] for rule in gate["rules"]))
