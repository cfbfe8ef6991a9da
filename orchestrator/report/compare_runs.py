"""Compares the tuned models of two runs that were measured on the same evaluation set."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from orchestrator.errors import RunFolderError, Where
from orchestrator.evaluation.compare import BETTER, WORSE, Comparison, compare
from orchestrator.evaluation.measures import display_name
from orchestrator.evaluation.metrics import METRICS_VERSION, SEED, TUNED
from orchestrator.launch import load_plan
from orchestrator.report.record import load_object
from orchestrator.report.wording import counted, interval, p_value, signed

if TYPE_CHECKING:
    from collections.abc import Mapping

    from orchestrator.rundir import RunDir


@dataclass(frozen=True)
class RunComparison:
    """Two runs' tuned models, `second` minus `first`, metric by metric; the first metric decides the verdict."""

    first: str
    second: str
    eval_sha256: str
    queries: int
    comparisons: Mapping[str, Comparison]

    @property
    def verdict(self) -> str:
        """The word for the second run against the first: better, worse, or no measurable difference."""
        return next(iter(self.comparisons.values())).verdict

    def to_json(self) -> dict[str, Any]:
        """Return {"version", "first", "second", "eval", "verdict", "comparisons": [as in metrics.json]}."""
        return {
            "version": METRICS_VERSION,
            "first": self.first,
            "second": self.second,
            "eval": {"sha256": self.eval_sha256, "queries": self.queries},
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
                f"{one.before:.3f}",
                f"{one.after:.3f}",
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
                f"The second run {word} the first, on {counted(self.queries, 'query')}.",
                f"  first   {self.first}",
                f"  second  {self.second}",
                "",
                *(line.rstrip() for line in lines),
            ]
        )


def compare_runs(first: RunDir, second: RunDir) -> RunComparison:
    """Compare two runs' tuned models query by query, on the metrics that both measured, in the first run's order.

    Raises RunFolderError where a run was not measured, or the two were measured on different evaluation sets.
    """
    one, two = _load_metrics(first), _load_metrics(second)
    if one["eval"]["sha256"] != two["eval"]["sha256"]:
        raise RunFolderError(
            "the two runs were measured on different evaluation sets: "
            f"{one['eval']['sha256'][:12]} ({counted(one['eval']['queries'], 'query')}) and "
            f"{two['eval']['sha256'][:12]} ({counted(two['eval']['queries'], 'query')})",
            hint="give both recipes the same data.eval; a split by eval_ratio depends on the data and the seed",
            where=Where(str(second.eval_jsonl)),
        )
    shared = [metric for metric in one["metrics"] if metric in two["metrics"]]
    if not shared:
        raise RunFolderError(
            f"the two runs share no metric: {', '.join(one['metrics'])} and {', '.join(two['metrics'])}",
            hint="give both recipes the same evaluate.metrics",
        )
    before, after = _tuned_values(one), _tuned_values(two)
    return RunComparison(
        first=str(first.root),
        second=str(second.root),
        eval_sha256=one["eval"]["sha256"],
        queries=one["eval"]["queries"],
        comparisons={
            metric: compare([before[qid][metric] for qid in before], [after[qid][metric] for qid in before], seed=SEED)
            for metric in shared
        },
    )


def _load_metrics(run: RunDir) -> dict[str, Any]:
    """Return a run's metrics.json. Raises RunFolderError where it is missing, or holds no tuned model."""
    load_plan(run)
    metrics = load_object(run.metrics_json)
    if metrics is None:
        raise RunFolderError(
            "the run has no metrics.json: it is not finished",
            hint=f"finish it: orch resume {run.root}",
            where=Where(str(run.root)),
        )
    if not any(system["id"] == TUNED for system in metrics["systems"]):
        raise RunFolderError("the run's tuned model was not measured", where=Where(str(run.metrics_json)))
    return metrics


def _tuned_values(metrics: Mapping[str, Any]) -> dict[str, Mapping[str, float]]:
    return {row["qid"]: row["values"][TUNED] for row in metrics["per_query"]}
