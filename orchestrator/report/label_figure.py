"""Lays out how labels are distributed on each side of the data: one bar a label, as plain coordinates."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from orchestrator.recipe.relevance import is_relevant
from orchestrator.report.wording import plain

WIDTH, HEIGHT = 1000, 190
_GAP, _TOP, _BOTTOM = 60.0, 46.0, 30.0  # between the two panels; above the bars; below them
_WIDEST_BAR = 64.0


@dataclass(frozen=True)
class LabelBar:
    """One label, or a range of labels, of one side; `title` is shown on hovering."""

    x: float
    y: float
    width: float
    height: float
    middle: float
    label: str
    count: str
    relevant: bool
    title: str


@dataclass(frozen=True)
class LabelPanel:
    """One side of the data."""

    left: float
    right: float
    title: str
    bars: tuple[LabelBar, ...]


@dataclass(frozen=True)
class LabelFigure:
    """Both sides beside each other; bars stand on the line at `base`."""

    width: float
    height: float
    base: float
    panels: tuple[LabelPanel, ...]


def build_label_figure(stats: Mapping[str, Any]) -> LabelFigure | None:
    """Return the figure of stats.json's `labels`; None where no side has labels."""
    sides = {side: _read_counts((stats.get(side) or {}).get("labels") or {}) for side in ("train", "eval")}
    sides = {side: counts for side, counts in sides.items() if counts}
    if not sides:
        return None
    width = (WIDTH - _GAP) / 2
    panels = []
    for place, (side, counts) in enumerate(sides.items()):
        left = place * (width + _GAP)
        total = sum(count for _, _, count in counts)
        title = f"{'Training' if side == 'train' else 'Evaluation'}: {total:,} labelled documents"
        panels.append(LabelPanel(left, left + width, title, _lay_out(counts, left, width, total)))
    return LabelFigure(WIDTH, HEIGHT, HEIGHT - _BOTTOM, tuple(panels))


def _read_counts(labels: Mapping[str, Any]) -> list[tuple[str, bool, int]]:
    """Return (label as text, whether it is relevant, how many), the lowest label first."""
    if counts := labels.get("counts"):
        return [(plain(row["label"]), is_relevant(row["label"]), row["count"]) for row in counts]
    return [(plain(row["from"]), is_relevant(row["from"]), row["count"]) for row in labels.get("bins") or ()]


def _lay_out(counts: list[tuple[str, bool, int]], left: float, width: float, total: int) -> tuple[LabelBar, ...]:
    slot = width / len(counts)
    room = HEIGHT - _TOP - _BOTTOM
    most = max(count for _, _, count in counts) or 1
    bar = min(_WIDEST_BAR, slot * 0.7)
    bars = []
    for place, (label, relevant, count) in enumerate(counts):
        height = max(1.0, room * count / most) if count else 0.0
        middle = left + (place + 0.5) * slot
        bars.append(
            LabelBar(
                x=round(middle - bar / 2, 2),
                y=round(HEIGHT - _BOTTOM - height, 2),
                width=round(bar, 2),
                height=round(height, 2),
                middle=round(middle, 2),
                label=label,
                count=f"{count:,}",
                relevant=relevant,
                title=f"label {label}: {count:,} documents, {100 * count / total:.0f} %",
            )
        )
    return tuple(bars)
