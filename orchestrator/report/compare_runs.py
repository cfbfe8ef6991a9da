"""Compares the tuned models of two runs that were measured on the same evaluation set."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from orchestrator.errors import RunFolderError, Where
from orchestrator.evaluation.eval_sets import GOLD, Measured
from orchestrator.evaluation.measures import GROUP, UNITS, display_name
from orchestrator.evaluation.metrics import METRICS_VERSION, SEED, TUNED, compare_measured
from orchestrator.evaluation.paired import BETTER, NO_DIFFERENCE, WORSE
from orchestrator.machine.json_files import find_object
from orchestrator.machine.rundir import RunDir
from orchestrator.report.wording import counted, figure, interval, p_value, signed
from orchestrator.run.folder import load_plan

_WORDS = {BETTER: "is better than", WORSE: "is worse than", NO_DIFFERENCE: "shows no measurable difference from"}


def compare_runs(first: RunDir, second: RunDir) -> dict[str, Any]:
    """Compare two runs' tuned models row by row, on the metrics that both measured, in the first run's order.

    {"version", "first", "second": folders, "unit", "eval": {"sha256", "units"}, "verdict": of the first comparison,
     "comparisons": as in metrics.json, the second run minus the first}

    Raises RunFolderError where a run was not measured, or the two were measured on different evaluation sets.
    """
    one, two = _load_metrics(first), _load_metrics(second)
    _require_same_data(one["eval"], two["eval"], one["unit"], second)
    shared = [metric for metric in one["metrics"] if metric in two["metrics"]]
    order = [row["id"] for row in one["rows"]]
    comparisons = compare_measured(_measured(one, order), _measured(two, order), shared, SEED)
    if not comparisons:
        raise RunFolderError(
            f"the two runs share no metric: {', '.join(one['metrics'])} and {', '.join(two['metrics'])}",
            hint="give both recipes the same evaluate.metrics",
        )
    return {
        "version": METRICS_VERSION,
        "first": str(first.root),
        "second": str(second.root),
        "unit": one["unit"],
        "eval": {"sha256": one["eval"]["sha256"], "units": one["eval"]["units"]},
        "verdict": comparisons[0]["verdict"],
        "comparisons": comparisons,
    }


def format_comparison(compared: Mapping[str, Any]) -> str:
    """Return the verdict of `compare_runs` and a table of plain text."""
    table = [("metric", "first", "second", "difference", "95 % interval", "p", "won / lost / tied")]
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
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in table)
    units = counted(compared["eval"]["units"], compared["unit"])
    head = f"The second run {_WORDS[compared['verdict']]} the first, on {units}."
    return "\n".join([head, f"  first   {compared['first']}", f"  second  {compared['second']}", "", *lines])


def _require_same_data(one: Mapping[str, Any], two: Mapping[str, Any], unit: str, second: RunDir) -> None:
    hint = "give both recipes the same data.eval; a split by eval_ratio depends on the data and the seed"
    if one["sha256"] != two["sha256"]:
        first, other = (f"{side['sha256'][:12]} ({counted(side['units'], unit)})" for side in (one, two))
        message = f"the two runs were measured on different evaluation sets: {first} and {other}"
        raise RunFolderError(message, hint=hint, where=Where(str(second.eval_jsonl)))
    if (one.get("corpus") or {}).get("sha256") != (two.get("corpus") or {}).get("sha256"):
        raise RunFolderError("the two runs searched different corpora", hint=hint, where=Where(str(second.data)))


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


def _measured(metrics: Mapping[str, Any], order: list[str]) -> Measured:
    """Return the tuned model's columns, and the gold scores where the rows have them, row by row of `order`."""
    by_id = {row["id"]: row for row in metrics["rows"]}
    rows = [by_id[row] for row in order]
    names = rows[0]["values"][TUNED] if rows else ()
    columns = {name: [row["values"][TUNED][name] for row in rows] for name in names}
    if rows and "gold" in rows[0]:
        columns[GOLD] = [row["gold"] for row in rows]
    return Measured(tuple(order), columns, {})
