"""Lays out the page's two figures as plain coordinates; the template only draws them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from orchestrator.evaluation.measures import Metric, display_name, parse_metric
from orchestrator.report.wording import figure, interval, p_value, signed

WIDTH = 912  # px, the page's text column: text in a figure has the size of text beside it
_PLOT_LEFT, _PLOT_RIGHT = 110, 432
_ROW, _GROUP_GAP, _HEADING = 28, 18, 28
_BARS_LEFT, _BARS_HEIGHT, _MOST_BARS, _WIDEST_SLOT = 48, 190, 400, 40


@dataclass(frozen=True)
class Tick:
    """A labelled place on an axis, in px."""

    at: float
    label: str


@dataclass(frozen=True)
class IntervalRow:
    """One metric's difference as a dot on its interval, and the same in words."""

    y: float
    label: str
    x: float
    low: float
    high: float
    verdict: str
    difference: str
    interval: str
    p: str
    record: str


@dataclass(frozen=True)
class IntervalGroup:
    """The rows of one baseline under its name; the grid runs from `top` to `bottom`."""

    y: float
    top: float
    bottom: float
    title: str
    rows: tuple[IntervalRow, ...]


@dataclass(frozen=True)
class IntervalFigure:
    """Differences with their 95 % intervals against a common zero line.

    `shared` says that all rows have one scale; where they do not, each has its own, and only zero is on the axis.
    """

    width: int
    height: float
    zero: float
    ticks: tuple[Tick, ...]
    groups: tuple[IntervalGroup, ...]
    shared: bool = True


@dataclass(frozen=True)
class Bar:
    """One row's difference; `title` is what pointing at it shows. A win may lie below zero: a loss that fell."""

    x: float
    y: float
    width: float
    height: float
    kind: str  # win | loss | tie
    title: str


@dataclass(frozen=True)
class BarsFigure:
    """Every row's difference, largest gain first. `sampled` says that not every row has its own bar."""

    width: int
    height: float
    left: float
    zero: float
    ticks: tuple[Tick, ...]
    bars: tuple[Bar, ...]
    sampled: bool


def _tick_values(low: float, high: float, most: int) -> list[float]:
    """Return round values inside [low, high], at most about `most`, 0 among them when it is inside."""
    span = high - low
    power = 10.0 ** math.floor(math.log10(span / most))
    step = next(power * factor for factor in (1, 2, 5, 10) if span / (power * factor) <= most)
    return [count * step for count in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]


def _tick_label(value: float) -> str:
    return "0" if abs(value) < 1e-12 else f"{value:+.3g}"  # noqa: PLR2004


def build_interval_figure(comparisons: Sequence[Mapping[str, Any]], labels: Mapping[str, str]) -> IntervalFigure | None:
    """Return the interval plot of metrics.json's comparisons, grouped by baseline; None where there are none."""
    if not comparisons:
        return None
    shared = all(_is_share(row["metric"]) for row in comparisons)
    unit = {name: 1.0 if shared else _reach(comparisons, name) for name in {row["metric"] for row in comparisons}}
    ends = [end / unit[row["metric"]] for row in comparisons for end in _ends(row)]
    low, high = min(0.0, *ends), max(0.0, *ends)
    pad = 0.06 * (high - low) or 0.05
    low, high = low - pad, high + pad

    def x(value: float) -> float:
        return round(_PLOT_LEFT + (value - low) / (high - low) * (_PLOT_RIGHT - _PLOT_LEFT), 2)

    groups, y = [], 0.0
    for baseline in dict.fromkeys(row["baseline"] for row in comparisons):
        heading, top = y + 15, y + _HEADING
        y = top
        rows = []
        for row in comparisons:
            if row["baseline"] != baseline:
                continue
            rows.append(_interval_row(row, y + _ROW / 2, x, unit[row["metric"]]))
            y += _ROW
        groups.append(IntervalGroup(heading, top, y, labels.get(baseline, baseline), tuple(rows)))
        y += _GROUP_GAP
    places = _tick_values(low, high, 5) if shared else [0.0]
    ticks = tuple(Tick(x(value), _tick_label(value)) for value in places)
    return IntervalFigure(WIDTH, y - _GROUP_GAP + 28, x(0), ticks, tuple(groups), shared)


def _is_share(name: str) -> bool:
    """Return whether a metric runs to 1, so that differences of it can stand on one scale with others'."""
    metric = parse_metric(name)
    return not isinstance(metric, Metric) or metric.most == 1


def _ends(row: Mapping[str, Any]) -> list[float]:
    return [row[key] for key in ("difference", "low", "high") if row[key] is not None]


def _reach(comparisons: Sequence[Mapping[str, Any]], metric: str) -> float:
    """Return how far the differences of a metric and their intervals go from zero; 1 where they are zero."""
    return max(abs(end) for row in comparisons if row["metric"] == metric for end in _ends(row)) or 1.0


def _interval_row(row: Mapping[str, Any], y: float, x: Callable[[float], float], unit: float) -> IntervalRow:
    """Lay out one comparison; `x` takes differences in units of `unit`."""
    middle = row["difference"]
    return IntervalRow(
        y=y,
        label=display_name(row["metric"]),
        x=x(middle / unit),
        low=x((middle if row["low"] is None else row["low"]) / unit),
        high=x((middle if row["high"] is None else row["high"]) / unit),
        verdict=row["verdict"],
        difference=signed(middle),
        interval=interval(row["low"], row["high"]),
        p=p_value(row["p"]),
        record=f"{row['wins']} / {row['losses']} / {row['ties']}",
    )


def build_bars_figure(rows: Sequence[tuple[str, float, float]], *, higher_is_better: bool = True) -> BarsFigure | None:
    """Return the bars of (name, before, after), the largest gain first; None where there are none.

    Above 400 rows the bars are an even sample of the sorted rows, so that the shape stays true.
    """
    if not rows:
        return None
    way = 1 if higher_is_better else -1
    ordered = sorted(rows, key=lambda row: way * (row[1] - row[2]))
    sampled = len(ordered) > _MOST_BARS
    if sampled:
        last = len(ordered) - 1
        ordered = [ordered[round(place * last / (_MOST_BARS - 1))] for place in range(_MOST_BARS)]
    differences = [after - before for _, before, after in ordered]
    high, low = max(0.0, *differences), min(0.0, *differences)
    if high == low:
        high, low = 0.1, -0.1
    scale = (_BARS_HEIGHT - 16) / (high - low)
    zero = 8 + high * scale
    slot = min(_WIDEST_SLOT, (WIDTH - _BARS_LEFT) / len(ordered))
    gap = 0.0 if slot < 3 else min(3.0, slot * 0.25)  # noqa: PLR2004
    bars = []
    for place, (name, before, after) in enumerate(ordered):
        difference = after - before
        tied = abs(difference) < 1e-12  # noqa: PLR2004
        height = 2.0 if tied else max(1.0, abs(difference) * scale)
        top = zero - 1 if tied else zero - height if difference > 0 else zero
        bars.append(
            Bar(
                x=round(_BARS_LEFT + place * slot + gap / 2, 2),
                y=round(top, 2),
                width=round(slot - gap, 2),
                height=round(height, 2),
                kind="tie" if tied else "win" if way * difference > 0 else "loss",
                title=f"{signed(difference)}  ({figure(before)} → {figure(after)})  {name}",
            )
        )
    ticks = tuple(Tick(round(zero - value * scale, 2), _tick_label(value)) for value in _tick_values(low, high, 5))
    return BarsFigure(WIDTH, _BARS_HEIGHT, _BARS_LEFT, round(zero, 2), ticks, tuple(bars), sampled)
