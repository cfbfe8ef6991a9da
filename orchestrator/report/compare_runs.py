"""Compares the tuned models of two runs that were measured on the same evaluation set."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from orchestrator.errors import RunFolderError, Where
from orchestrator.evaluation.eval_sets import GOLD
from orchestrator.evaluation.measures import GROUP, UNITS, display_name, require_metric
from orchestrator.evaluation.metrics import METRICS_VERSION, SEED, TUNED
from orchestrator.evaluation.paired import BETTER, WORSE, Comparison, compare_columns
from orchestrator.machine.json_files import find_object
from orchestrator.machine.rundir import RunDir
from orchestrator.report.wording import counted, figure, interval, p_value, signed
from orchestrator.run.folder import load_plan


@dataclass(frozen=True)
class RunComparison:
    """Two runs' tuned models, `second` minus `first`, metric by metric; the first metric decides the verdict."""

    first: str
    second: str
    eval_sha256: str
    unit: str
    units: int
    comparisons: Mapping[str, Comparison]

    @property
    def verdict(self) -> str:
        """The word for the second run against the first: better, worse, or no measurable difference."""
        return next(iter(self.comparisons.values())).verdict

    def to_json(self) -> dict[str, Any]:
        """Return {"version", "first", "second", "unit", "eval", "verdict", "comparisons": [as in metrics.json]}."""
        return {
            "version": METRICS_VERSION,
            "first": self.first,
            "second": self.second,
            "unit": self.unit,
            "eval": {"sha256": self.eval_sha256, "units": self.units},
            "verdict": self.verdict,
            "comparisons": [
                {"metric": metric, **asdict(comparison), "verdict": comparison.verdict}
                for metric, comparison in self.comparisons.items()
            ],
        }

    def to_text(self) -> str:
        """Return the verdict and a table of plain text."""
        word = {BETTER: "is better than", WORSE: "is worse than"}.get(
            self.verdict, "shows no measurable difference from"
        )
        head = ("metric", "first", "second", "difference", "95 % interval", "p", "won / lost / tied")
        rows = [
            (
                display_name(metric),
                figure(one.before),
                figure(one.after),
                signed(one.difference),
                interval(one.low, one.high),
                p_value(one.p).removeprefix("p ").removeprefix("= "),
                f"{one.wins} / {one.losses} / {one.ties}",
            )
            for metric, one in self.comparisons.items()
        ]
        widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
        lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in (head, *rows)]
        return "\n".join(
            [
                f"The second run {word} the first, on {counted(self.units, self.unit)}.",
                f"  first   {self.first}",
                f"  second  {self.second}",
                "",
                *(line.rstrip() for line in lines),
            ]
        )


def compare_runs(first: RunDir, second: RunDir) -> RunComparison:
    """Compare two runs' tuned models row by row, on the metrics that both measured, in the first run's order.

    Raises RunFolderError where a run was not measured, or the two were measured on different evaluation sets.
    """
    one, two = _load_metrics(first), _load_metrics(second)
    _require_same_data(one["eval"], two["eval"], one["unit"], second)
    shared = [metric for metric in one["metrics"] if metric in two["metrics"]]
    before = _tuned_columns(one)
    after = {name: _reordered(two, column, one) for name, column in _tuned_columns(two).items()}
    comparisons = {}
    for metric in map(require_metric, shared):
        if compared := compare_columns(metric, before, after, seed=SEED):
            comparisons[metric.name] = compared
    if not comparisons:
        raise RunFolderError(
            f"the two runs share no metric: {', '.join(one['metrics'])} and {', '.join(two['metrics'])}",
            hint="give both recipes the same evaluate.metrics",
        )
    return RunComparison(
        first=str(first.root),
        second=str(second.root),
        eval_sha256=one["eval"]["sha256"],
        unit=one["unit"],
        units=one["eval"]["units"],
        comparisons=comparisons,
    )


def _require_same_data(one: Mapping[str, Any], two: Mapping[str, Any], unit: str, second: RunDir) -> None:
    hint = "give both recipes the same data.eval; a split by eval_ratio depends on the data and the seed"
    if one["sha256"] != two["sha256"]:
        raise RunFolderError(
            "the two runs were measured on different evaluation sets: "
            f"{one['sha256'][:12]} ({counted(one['units'], unit)}) and "
            f"{two['sha256'][:12]} ({counted(two['units'], unit)})",
            hint=hint,
            where=Where(str(second.eval_jsonl)),
        )
    if (one.get("corpus") or {}).get("sha256") != (two.get("corpus") or {}).get("sha256"):
        raise RunFolderError("the two runs searched different corpora", hint=hint, where=Where(str(second.data)))


def _load_metrics(run: RunDir) -> dict[str, Any]:
    """Return a run's metrics.json in the newest form. Raises RunFolderError where it holds no tuned model."""
    load_plan(run)
    metrics = find_object(run.metrics_json)
    where = Where(str(run.metrics_json))
    if metrics is None:
        raise RunFolderError(
            "the run has no metrics.json: it is not finished",
            hint=f"finish it: orch resume {run.root}",
            where=Where(str(run.root)),
        )
    if metrics.get("version") not in {1, METRICS_VERSION}:
        raise RunFolderError(
            f"metrics.json has version {metrics.get('version')}; this Orch reads 1 and {METRICS_VERSION}",
            hint=f"use the Orch that wrote it, or measure again: python -m orchestrator.report {run.root}",
            where=where,
        )
    if not any(system["id"] == TUNED for system in metrics["systems"]):
        raise RunFolderError("the run's tuned model was not measured", where=where)
    return _upgraded(metrics) if metrics["version"] == 1 else metrics


def _upgraded(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """Return version 1, which knew ranked candidates only, in the names of version 2."""
    return {
        **metrics,
        "unit": UNITS[GROUP],
        "eval": {**metrics["eval"], "units": metrics["eval"]["queries"]},
        "rows": [{"id": row["qid"], "values": row["values"]} for row in metrics["per_query"]],
    }


def _tuned_columns(metrics: Mapping[str, Any]) -> dict[str, list[float | None]]:
    """Return the tuned model's columns, and the gold scores where the rows have them."""
    rows = metrics["rows"]
    names = rows[0]["values"][TUNED] if rows else ()
    columns = {name: [row["values"][TUNED][name] for row in rows] for name in names}
    return {**columns, GOLD: [row["gold"] for row in rows]} if rows and "gold" in rows[0] else columns


def _reordered(metrics: Mapping[str, Any], column: list[float | None], like: Mapping[str, Any]) -> list[float | None]:
    """Return a column of one run in the other's order of rows: they are paired by id and not by place."""
    by_id = dict(zip((row["id"] for row in metrics["rows"]), column, strict=True))
    return [by_id[row["id"]] for row in like["rows"]]
