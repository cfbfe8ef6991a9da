"""Writes the measured results into the packaged model's README, at its marker."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from orchestrator.evaluation.measures import display_name
from orchestrator.machine.files import write_text
from orchestrator.report.wording import best_systems, figure, headline, higher_is_better

OPENING = "<!-- orch:results -->"
CLOSING = "<!-- /orch:results -->"


def write_results(readme: Path, metrics: Mapping[str, Any]) -> bool:
    """Put the results between the markers of a model card; return whether the card changed.

    The first time there is only the opening marker. A card without it, or no card, is left alone.
    """
    if not readme.is_file():
        return False
    text = readme.read_text(encoding="utf-8")
    before, marker, rest = text.partition(OPENING)
    if not marker:
        return False
    _, closing, after = rest.partition(CLOSING)
    card = f"{before}{OPENING}\n{build_results(metrics)}\n{CLOSING}{after if closing else rest}"
    if card == text:
        return False
    write_text(readme, card)
    return True


def build_results(metrics: Mapping[str, Any]) -> str:
    """Return the headline and the table of systems and metrics as Markdown, the best of each metric in bold."""
    best = best_systems(metrics)
    names = metrics["metrics"]
    table = [
        "| | " + " | ".join(map(_column, names)) + " |",
        "|---|" + "---:|" * len(names),
    ]
    for system in metrics["systems"]:
        cells = [
            f"**{figure(system['means'][name])}**" if system["id"] in best[name] else figure(system["means"][name])
            for name in names
        ]
        note = " (newly initialised head: ranks at random)" if system["head"] == "new" else ""
        table.append(f"| {_cell(system['label'])}{note} | " + " | ".join(cells) + " |")
    return "\n".join(["", f"{_cell(headline(metrics))}.", "", *table, ""])


def _column(metric: str) -> str:
    """Return a metric's name, and that it is better when lower: a reader takes the other way for granted."""
    return display_name(metric) if higher_is_better(metric) else f"{display_name(metric)} (lower is better)"


def _cell(text: str) -> str:
    """Return text that Markdown shows as it is, inside a table too."""
    escaped = text.replace("&", "&amp;").replace("<", "&lt;")
    return "".join(f"\\{char}" if char in "|*_`\\#[]" else char for char in " ".join(escaped.split()))
