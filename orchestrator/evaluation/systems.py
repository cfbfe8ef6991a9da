"""Measured models side by side: what metrics.json says of each, of every row, and of one against another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from orchestrator.errors import RunFolderError, Where
from orchestrator.evaluation.compare import NOT_COMPARED, compare
from orchestrator.evaluation.measured import GOLD, Measured
from orchestrator.evaluation.measures import UNITS, require_metric
from orchestrator.evaluation.pairing import pair_up
from orchestrator.machine.json_files import load_json


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
        paired = pair_up(metric, before.columns, after.columns)
        if paired is None:
            continue
        comparison = compare(paired, higher_is_better=metric.higher_is_better, seed=seed)
        rows.append({"metric": metric.name, **asdict(comparison), "verdict": comparison.verdict})
    return rows


def judge(comparisons: Sequence[Mapping[str, Any]], metric: str, baseline: str | None) -> str:
    """Return the verdict of the headline comparison: of `metric`, against the yardstick `baseline`."""
    found = (row for row in comparisons if row["metric"] == metric and row["baseline"] == baseline)
    return next((str(row["verdict"]) for row in found), NOT_COMPARED)


def describe_kind(kind: str, metrics: Sequence[str]) -> dict[str, Any]:
    """Return what metrics.json says of a kind of evaluation set and its metrics."""
    return {
        "kind": kind,
        "unit": UNITS[kind],
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
