"""Two runs side by side: their tuned models compared, and a run made once more compared with its first."""

from __future__ import annotations

import json
import re
import secrets
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from orchestrator.errors import RunFolderError, StageFailedError, Where
from orchestrator.evaluation import choice
from orchestrator.evaluation.eval_sets import GOLD, Measured
from orchestrator.evaluation.measures import GROUP, UNITS, Metric, decide_gate, display_name, require_metric
from orchestrator.evaluation.metrics import METRICS_VERSION, SEED, TUNED, compare_measured, scoring_stages
from orchestrator.evaluation.paired import BETTER, NO_DIFFERENCE, WORSE, Columns
from orchestrator.machine.files import ABSENT, hash_path, read_regular, write_json
from orchestrator.machine.hardware import CPU, find_hardware
from orchestrator.machine.json_files import find_object
from orchestrator.machine.rundir import RunDir
from orchestrator.machine.terminal import Language
from orchestrator.recipe.plan import Plan, plan_from_json
from orchestrator.report.record import load_training_log
from orchestrator.report.wording import GATE, SWEEP, counted, figure, interval, p_value, signed
from orchestrator.run.folder import load_plan, load_run_object, understood, write_run
from orchestrator.run.provenance import Asked, build_provenance
from orchestrator.run.sweep import DONE, Sweep, is_over, trial_dir

REPRODUCES = "reproduces"  # the key of provenance.json that says which run this one repeats
REPRODUCTION_VERSION = 1
IDENTICAL = "identical"
WITHIN_NOISE = "no measurable difference"
DIFFERENT = "different"
_MIN_PROVENANCE = 2  # the first version that hashes the inputs
_HASH_SHOWN, _TEXT_SHOWN = 12, 40  # characters
_WORDS = {BETTER: "is better than", WORSE: "is worse than", NO_DIFFERENCE: "shows no measurable difference from"}


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
            p_value(row["p"]).removeprefix("p ").removeprefix("= "),
            f"{row['wins']} / {row['losses']} / {row['ties']}",
        )
        for row in compared["comparisons"]
    ]
    if several:
        names = ["run", *(_name(row["run"]) for row in compared["comparisons"])]
        words = ["", *(row["verdict"] for row in compared["comparisons"])]
        table = [(name, *row, word) for name, row, word in zip(names, table, words, strict=True)]
    lines = _align(table)
    units = counted(compared["eval"]["units"], compared["unit"])
    if not several:
        head = f"The second run {_WORDS[compared['verdict']]} the first, on {units}."
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
    if not any(system["id"] == TUNED for system in metrics["systems"]):
        raise RunFolderError("the run's tuned model was not measured", where=where)
    if metrics["version"] == METRICS_VERSION:
        return metrics
    return {  # version 1, which knew ranked candidates only, in the names of version 2
        **metrics,
        "unit": UNITS[GROUP],
        "eval": {**metrics["eval"], "units": metrics["eval"]["queries"]},
        "rows": [{"id": row["qid"], "values": row["values"]} for row in metrics["per_query"]],
    }


def _measured(metrics: Mapping[str, Any], order: list[str], system: str = TUNED) -> Measured:
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


_CHOSEN = {BETTER: "better", WORSE: "worse", NO_DIFFERENCE: "not shown"}


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


def format_sweep(sweep: Sweep, language: Language = "en") -> Iterator[str]:
    """Yield a table of a sweep's trials, and what may be said of the best setting."""
    headline = display_name(sweep.metric) if sweep.metric else "metric"
    table = [("trial", "state", *sweep.parameters, "seed", headline, "difference", "95 % interval", "")]
    table += [
        (
            f"{trial.number:03d}", trial.state, *(str(trial.set[key]) for key in sweep.parameters), str(trial.seed),
            figure(trial.metric), signed(trial.difference) if trial.difference is not None else "–",
            interval(*(trial.interval or (None, None))), (trial.note or "")[:_TEXT_SHOWN],
        )
        for trial in sweep.trials
    ]  # fmt: skip
    yield from _align(table)
    if (chosen := sweep.choice) is None:
        return
    best = chosen["winner"]
    setting = " ".join(f"{key}={value}" for key, value in best["set"].items()) or "seeds"
    words = SWEEP["alone" if chosen["chosen_from"] == 1 else chosen["rule"]].say(language)
    yield ""
    yield SWEEP["winner"].say(language).format(setting, ", ".join(f"{number:03d}" for number in best["trials"]))
    yield words.format(
        headline, figure(best["before"]), figure(best["after"]), signed(best["difference"]),
        interval(*(best["interval"] or (None, None))), p_value(best["p"]), chosen["units"], chosen["chosen_from"],
        SWEEP[best["verdict"]].say(language),
    )  # fmt: skip
    if alike := [" ".join(f"{number:03d}" for number in numbers) for numbers in chosen["not_worse"]]:
        yield SWEEP["alike"].say(language).format(len(alike), "; ".join(alike))
    if sweep.seeds == 1:
        yield SWEEP["one_seed"].say(language)
    if not_begun := sum(not is_over(trial) for trial in sweep.trials):
        yield SWEEP["not_begun"].say(language).format(not_begun)
    if (gate := chosen["gate"])["passed"] is not None:
        yield GATE[gate["passed"]].say(language).format("; ".join(rule["sentence"] for rule in gate["rules"]))


def _align(table: Sequence[tuple[str, ...]]) -> Iterator[str]:
    """Yield the rows of a table of plain text, each column as wide as its widest cell."""
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for row in table:
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()


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


# A run once more: its plan in a fresh folder, what has changed since, and in the end the comparison of both.


@dataclass(frozen=True)
class Difference:
    """One thing that was `then` and is `now`; an input's difference makes a reproduction meaningless."""

    what: str
    then: str
    now: str
    is_input: bool = False

    def __str__(self) -> str:
        return f"{self.what}: {self.then} then, {self.now} now"


@dataclass(frozen=True)
class Rerun:
    """A run that is about to be made once more: `plan` is its own, in the new folder."""

    first: RunDir
    plan: Plan
    provenance: dict[str, Any]
    differences: tuple[Difference, ...]

    def write(self) -> RunDir:
        """Write the new run folder, up to its plan. Raises RunFolderError when it cannot be written."""
        with understood(self.first.recipe_yaml):
            text = read_regular(self.first.recipe_yaml).decode("utf-8")
        repeated = {"run": str(self.first.root), "differences": [asdict(item) for item in self.differences]}
        return write_run(self.plan, text, {**self.provenance, REPRODUCES: repeated})


@dataclass(frozen=True)
class Finding:
    """One thing that both runs made. `same`: it is equal, bit for bit; `words` say how far apart it is where not."""

    what: str
    same: bool
    words: str


@dataclass(frozen=True)
class Reproduction:
    """The result of running a run once more, as reproduction.json has it.

    `outcome` is identical (every finding is), no measurable difference (the paired comparison of the tuned models sees
    none on any metric), or different; all but the last are `reproduced`.
    """

    version: int
    first: str
    second: str
    outcome: str
    reproduced: bool
    findings: tuple[Finding, ...]


def begin_rerun(first: RunDir, plan: Plan, folder: Path | None, runs: Path, *, may_run: bool = True) -> Rerun:
    """Return the rerun of a finished run, in `folder` or a fresh one under `runs`. Raises RunFolderError.

    Without `may_run` no interpreter of the plan is started.
    """
    with understood(first.provenance_json):
        then = require_provenance(first, find_object(first.provenance_json))
        asked = Asked(Path(then["recipe"]), tuple(then["asked"]["set"]), then["asked"]["hardware"])
    if not first.report_json.is_file():
        message = f"{first.root.name} is not finished: there is nothing to compare with"
        raise RunFolderError(message, hint=f"finish it first: orch resume {first.root}")
    name = f"{plan.name}-again-{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(2)}"
    moved = move_plan(plan, folder or runs.resolve() / name)
    cpu = plan.smoke or asked.hardware == "cpu"
    now = build_provenance(moved, CPU if cpu else find_hardware(), asked, may_run=may_run)
    with understood(first.provenance_json):
        return Rerun(first, moved, now, tuple(find_differences(then, now)))


def is_rerun(run: RunDir) -> bool:
    """Tell whether a run was made to repeat another one."""
    return REPRODUCES in (find_object(run.provenance_json) or {})


def finish_rerun(second: RunDir) -> Reproduction:
    """Compare a finished rerun with the run that it repeats, and keep the answer in its reproduction.json.

    Raises RunFolderError where that run has gone, or has no result.
    """
    with understood(second.provenance_json):
        repeated = (find_object(second.provenance_json) or {})[REPRODUCES]
        first, differences = RunDir(Path(repeated["run"])), repeated["differences"]
    with understood(first.metrics_json):
        result = compare_reproduction(first, second, load_plan(second))
    write_json(second.reproduction_json, {**asdict(result), "differences": differences})
    return result


def move_plan(plan: Plan, folder: Path) -> Plan:
    """Return the plan with every path into its run folder leading into `folder` (absolute).

    It is the plan of that run and not one made anew from its recipe, so that another version of Orch, or a recipe that
    has been edited since, cannot change a flag unseen.
    """
    # The folder is a whole path: /runs/a is not the beginning of /runs/a-2.
    pattern = re.compile(re.escape(plan.run_dir) + r"(?![\w.-])")

    def moved(value: Any) -> Any:
        if isinstance(value, str):
            return pattern.sub(lambda _: str(folder), value)
        if isinstance(value, list):
            return [moved(item) for item in value]
        if isinstance(value, dict):
            return {key: moved(item) for key, item in value.items()}
        return value

    return plan_from_json(json.dumps(moved(json.loads(plan.to_json()))))


def require_provenance(run: RunDir, provenance: Mapping[str, Any] | None) -> Mapping[str, Any]:
    """Return a run's provenance. Raises RunFolderError for one without the hashes of its inputs."""
    if provenance and int(provenance.get("version", 0)) >= _MIN_PROVENANCE:
        return provenance
    raise RunFolderError(
        "provenance.json is missing, or of an Orch that did not hash the inputs: nobody can tell whether they changed",
        hint="run its recipe anew: orch run RECIPE",
        where=Where(str(run.provenance_json)),
    )


def find_differences(then: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[Difference]:
    """Yield how two provenance.json differ, inputs first. The recipe does not count: its plan is what is run."""
    for path, old, new in _changed(then["inputs"], now["inputs"]):
        yield Difference(path, (old or "absent")[:_HASH_SHOWN], (new or "absent")[:_HASH_SHOWN], is_input=True)
    before, after = then["environments"], now["environments"]
    for python in sorted({*before, *after}):
        for name, old, new in _changed(before.get(python, {}), after.get(python, {})):
            yield Difference(f"{name} in {python}", old or "absent", new or "absent")
    for key in ("orch", "orch_sha256", "templates_sha256", "platform"):
        if then.get(key) != now.get(key):
            old, new = (str(side.get(key))[:_TEXT_SHOWN] for side in (then, now))
            yield Difference(key.removesuffix("_sha256"), old, new)
    for part in ("hardware", "cpu"):
        for key, old, new in _changed(then.get(part) or {}, now.get(part) or {}):
            yield Difference(f"{part} {key}", _plain(old), _plain(new))


def _changed(then: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    """Yield (key, old, new) of what is not the same in both, None for what is absent."""
    for key in sorted({*then, *now}):
        if then.get(key) != now.get(key):
            yield key, then.get(key), now.get(key)


def _plain(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def compare_reproduction(first: RunDir, second: RunDir, plan: Plan) -> Reproduction:
    """Compare two finished runs of one plan. Raises RunFolderError where there is nothing to compare."""
    measured, all_alike = _compare_measures(first, second)
    findings = (*_compare_files(first, second, plan), *_compare_losses(first, second, plan), *measured)
    if not findings:
        raise RunFolderError(f"{first.root} has no result to compare with", hint="finish it first: orch resume RUN")
    if all(finding.same for finding in findings):
        outcome = IDENTICAL
    else:
        outcome = WITHIN_NOISE if measured and all_alike else DIFFERENT
    reproduced = outcome != DIFFERENT
    return Reproduction(REPRODUCTION_VERSION, str(first.root), str(second.root), outcome, reproduced, findings)


def _compare_files(first: RunDir, second: RunDir, plan: Plan) -> Iterator[Finding]:
    """Yield the files whose bytes say it: prepared rows, weights, scores. A folder counts with its weights."""
    tuned = scoring_stages(plan).get(TUNED)

    def files(run: RunDir) -> dict[str, list[Path]]:
        return {
            "training rows": [run.train_jsonl],
            "evaluation rows": [run.eval_jsonl],
            "packaged weights": sorted(run.model.glob("*.safetensors")),
            "scores of the tuned model": [run.stage(tuned.name).output / "scores.jsonl"] if tuned else [],
        }

    theirs = files(second)
    for what, paths in files(first).items():
        before, after = ([hash_path(path) for path in side] for side in (paths, theirs[what]))
        if set(before) - {ABSENT}:
            yield Finding(what, before == after, "the same bytes" if before == after else "other bytes")


def _compare_losses(first: RunDir, second: RunDir, plan: Plan) -> Iterator[Finding]:
    """Yield how far the logged training losses are apart, step by step."""
    before, after = (
        {point.step: point.loss for point in load_training_log(run, plan).points} for run in (first, second)
    )
    if not before:
        return
    if before == after:
        yield Finding("training losses", same=True, words=f"the same at all {len(before)} logged steps")
        return
    gaps = {
        step: abs(loss - other)
        for step, loss in before.items()
        if loss is not None and (other := after.get(step)) is not None
    }
    apart = [step for step in before if before[step] != after.get(step)]
    words = f"apart from step {min(apart)} on" if apart else f"{len(after)} logged steps instead of {len(before)}"
    if gaps:
        worst = max(gaps, key=gaps.__getitem__)
        words += f", at most {gaps[worst]:.3g} (step {worst})"
    yield Finding("training losses", same=False, words=words)


def _compare_measures(first: RunDir, second: RunDir) -> tuple[list[Finding], bool]:
    """Return the tuned models' measures, and whether the paired comparison sees no difference in any of them."""
    if not (first.metrics_json.is_file() and second.metrics_json.is_file()):
        return [], False
    compared = compare_runs(first, second)["comparisons"]
    findings = []
    for row in compared:
        said = row["verdict"] if row["before"] != row["after"] else "the same"
        words = f"{row['before']:.4f} then, {row['after']:.4f} now: {said}"
        same = row["before"] == row["after"] and row["ties"] == row["units"]
        findings.append(Finding(display_name(row["metric"]), same, words))
    return findings, all(row["verdict"] == NO_DIFFERENCE for row in compared)
