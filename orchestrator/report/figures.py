"""Draws the page's figures: the SVG ones as plain coordinates for the template, the loss curve as a picture."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from typing import Any

from orchestrator.data.rows.records import is_relevant
from orchestrator.evaluation.measures import Metric, parse_metric
from orchestrator.report.record import TrainingLog
from orchestrator.report.wording import figure, plain, signed

WIDTH = 912  # px, the page's text column: text in a figure has the size of text beside it
_PLOT_LEFT, _PLOT_RIGHT = 110, 432
_ROW, _GROUP_GAP, _HEADING = 28, 18, 28
_BARS_LEFT, _BARS_HEIGHT, _MOST_BARS, _WIDEST_SLOT = 48, 190, 400, 40
_SAME = 1e-12
LABELS_WIDTH, _LABELS_HEIGHT = 1000, 190
_LABELS_GAP, _LABELS_TOP, _LABELS_BOTTOM = 60.0, 46.0, 30.0  # between the two panels; above the bars; below them
_WIDEST_LABEL = 64.0
_SMOOTH_FROM = 40  # points; fewer are shown as they are
_DPI = 200  # twice the usual 100, for dense screens
_INK, _MUTED, _LINE, _ACCENT, _OTHER = "#1d2126", "#6d7278", "#e3e1dc", "#0b6e69", "#b3470e"


def _tick_values(low: float, high: float, most: int) -> list[float]:
    """Return round values inside [low, high], at most about `most`, 0 among them when it is inside."""
    span = high - low
    power = 10.0 ** math.floor(math.log10(span / most))
    step = next(power * factor for factor in (1, 2, 5, 10) if span / (power * factor) <= most)
    return [count * step for count in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]


def _tick(at: float, value: float) -> dict[str, Any]:
    return {"at": at, "label": "0" if abs(value) < _SAME else f"{value:+.3g}"}


def build_interval_figure(comparisons: Sequence[Mapping[str, Any]], labels: Mapping[str, str]) -> dict[str, Any] | None:
    """Return the plot of metrics.json's comparisons, a dot on its 95 % interval each; None where there are none.

    {"width", "height", "zero": x of the common zero line, "ticks": [{"at", "label"}],
     "groups": [{"title": a baseline, "y": of the title, "top", "bottom": of the grid,
                 "rows": [{…the comparison, "y", "x", "from", "to"}]}],
     "shared": whether all rows have one scale; where not, each metric has its own, and only zero is on the axis}
    """
    if not comparisons:
        return None
    parsed = {row["metric"]: parse_metric(row["metric"]) for row in comparisons}
    shared = all(not isinstance(metric, Metric) or metric.most == 1 for metric in parsed.values())

    def ends(row: Mapping[str, Any]) -> list[float]:
        return [row[key] for key in ("difference", "low", "high") if row[key] is not None]

    unit = dict.fromkeys(parsed, 1.0)
    for name in () if shared else parsed:
        unit[name] = max(abs(end) for row in comparisons if row["metric"] == name for end in ends(row)) or 1.0
    places = [end / unit[row["metric"]] for row in comparisons for end in ends(row)]
    low, high = min(0.0, *places), max(0.0, *places)
    pad = 0.06 * (high - low) or 0.05
    low, high = low - pad, high + pad

    def x(value: float) -> float:
        return round(_PLOT_LEFT + (value - low) / (high - low) * (_PLOT_RIGHT - _PLOT_LEFT), 2)

    def place(row: Mapping[str, Any], y: float) -> dict[str, Any]:
        middle, scale = row["difference"], unit[row["metric"]]
        first, last = (middle if row[end] is None else row[end] for end in ("low", "high"))
        return {**row, "y": y, "x": x(middle / scale), "from": x(first / scale), "to": x(last / scale)}

    groups, y = [], 0.0
    for baseline in dict.fromkeys(row["baseline"] for row in comparisons):
        top = y + _HEADING
        of_group = [row for row in comparisons if row["baseline"] == baseline]
        rows = [place(row, top + (number + 0.5) * _ROW) for number, row in enumerate(of_group)]
        bottom = top + len(rows) * _ROW
        title = labels.get(baseline, baseline)
        groups.append({"title": title, "y": y + 15, "top": top, "bottom": bottom, "rows": rows})
        y = bottom + _GROUP_GAP
    values = _tick_values(low, high, 5) if shared else [0.0]
    return {
        "width": WIDTH,
        "height": y - _GROUP_GAP + 28,
        "zero": x(0),
        "ticks": [_tick(x(value), value) for value in values],
        "groups": groups,
        "shared": shared,
    }


def build_bars_figure(
    rows: Sequence[tuple[str, float, float]], *, higher_is_better: bool = True
) -> dict[str, Any] | None:
    """Return the bars of (name, before, after), the largest gain first; None where there are none.

    {"width", "height", "left": x of the first bar, "zero": y of the zero line, "ticks": [{"at", "label"}],
     "bars": [{"x", "y", "width", "height", "kind": "win"|"tie"|"loss", "title": what pointing at it shows}],
     "sampled": whether they are an even sample of the sorted rows: above 400, so that the shape stays true}

    A win may lie below zero: a loss that fell.
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
    for place, ((name, before, after), difference) in enumerate(zip(ordered, differences, strict=True)):
        tied = abs(difference) < _SAME
        height = 2.0 if tied else max(1.0, abs(difference) * scale)
        top = zero - 1 if tied else zero - height if difference > 0 else zero
        bars.append({
            "x": round(_BARS_LEFT + place * slot + gap / 2, 2), "y": round(top, 2),
            "width": round(slot - gap, 2), "height": round(height, 2),
            "kind": "tie" if tied else "win" if way * difference > 0 else "loss",
            "title": f"{signed(difference)}  ({figure(before)} → {figure(after)})  {name}",
        })  # fmt: skip
    return {
        "width": WIDTH,
        "height": _BARS_HEIGHT,
        "left": _BARS_LEFT,
        "zero": round(zero, 2),
        "ticks": [_tick(round(zero - value * scale, 2), value) for value in _tick_values(low, high, 5)],
        "bars": bars,
        "sampled": sampled,
    }


def build_label_figure(stats: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return how stats.json's `labels` are distributed, both sides beside each other; None where no side has labels.

    {"width", "height", "base": y of the line that bars stand on,
     "panels": [{"left", "right", "title", "bars": [{"x", "y", "width", "height", "middle": x of its texts,
                 "label", "count", "relevant": bool, "title": what pointing at it shows}]}]}
    """
    panels: list[dict[str, Any]] = []
    width = (LABELS_WIDTH - _LABELS_GAP) / 2
    for side, title in (("train", "Training"), ("eval", "Evaluation")):
        labels = (stats.get(side) or {}).get("labels") or {}
        if rows := labels.get("counts") or labels.get("bins"):
            counts = [(row.get("label", row.get("from")), row["count"]) for row in rows]
            left, total = len(panels) * (width + _LABELS_GAP), sum(count for _, count in counts)
            bars = _lay_out_labels(counts, left, width, total)
            heading = f"{title}: {total:,} labelled documents"
            panels.append({"left": left, "right": left + width, "title": heading, "bars": bars})
    base = _LABELS_HEIGHT - _LABELS_BOTTOM
    return {"width": LABELS_WIDTH, "height": _LABELS_HEIGHT, "base": base, "panels": panels} if panels else None


def _lay_out_labels(counts: Sequence[tuple[float, int]], left: float, width: float, total: int) -> list[dict[str, Any]]:
    slot = width / len(counts)
    room = _LABELS_HEIGHT - _LABELS_TOP - _LABELS_BOTTOM
    most = max(count for _, count in counts) or 1
    bar = min(_WIDEST_LABEL, slot * 0.7)
    bars = []
    for place, (label, count) in enumerate(counts):
        height = max(1.0, room * count / most) if count else 0.0
        middle = left + (place + 0.5) * slot
        bars.append({
            "x": round(middle - bar / 2, 2), "y": round(_LABELS_HEIGHT - _LABELS_BOTTOM - height, 2),
            "width": round(bar, 2), "height": round(height, 2), "middle": round(middle, 2),
            "label": plain(label), "count": f"{count:,}", "relevant": is_relevant(label),
            "title": f"label {plain(label)}: {count:,} documents, {100 * count / total:.0f} %",
        })  # fmt: skip
    return bars


def smoothed(values: Sequence[float]) -> list[float]:
    """Return the centred moving average over about a twelfth of the values, narrower near both ends; few stay as is.

    Centred, because a trailing average lags behind a falling loss and shows it worse than it is.
    """
    if len(values) < _SMOOTH_FROM:
        return list(values)
    reach, last = max(2, len(values) // 24), len(values) - 1
    windows = (min(reach, place, last - place) for place in range(len(values)))
    return [math.fsum(values[place - near : place + near + 1]) / (2 * near + 1) for place, near in enumerate(windows)]


def draw_loss_curve(log: TrainingLog) -> bytes | None:
    """Return a PNG of the losses over the learning rate, 1824 px wide; None where no training loss is a number."""
    points = log.points
    losses = [(point.step, point.loss) for point in points if point.loss is not None]
    evaluations = [(point.step, point.loss) for point in log.evaluations if point.loss is not None]
    if not losses:
        return None
    rates = [(point.step, point.learning_rate) for point in points if point.learning_rate is not None]
    import matplotlib as mpl
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine
    from matplotlib.ticker import MaxNLocator

    with mpl.rc_context({"font.family": "DejaVu Sans", "font.size": 8.5, "axes.linewidth": 0.8, "text.color": _INK}):
        size, heights = ((9.12, 3.9), [3, 1]) if rates else ((9.12, 3.0), [1])
        figure = Figure(figsize=size, dpi=_DPI, layout=ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.1))
        panels: Any = figure.subplots(len(heights), 1, sharex=True, squeeze=False, height_ratios=heights)
        _draw_loss(panels[0][0], losses, evaluations, log.best_step)
        if rates:
            _draw_rate(panels[1][0], rates)
        for (panel,) in panels:  # no frame, hairlines only
            for side in ("top", "right", "left"):
                panel.spines[side].set_visible(False)
            panel.spines["bottom"].set_color(_LINE)
            panel.tick_params(length=0, labelcolor=_MUTED)
            panel.grid(axis="y", color=_LINE, linewidth=0.8)
            panel.set_axisbelow(True)
        last = panels[-1][0]
        last.set_xlabel("optimizer step", color=_MUTED, loc="right")
        last.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=True))
        steps = [step for step, _ in (*losses, *evaluations)]
        last.set_xlim(min(steps) - 0.5, max(steps) + 0.5)
        picture = io.BytesIO()
        figure.savefig(picture, format="png", metadata={"Software": None})
    return picture.getvalue()


def _draw_loss(
    panel: Any, losses: Sequence[tuple[int, float]], evaluations: Sequence[tuple[int, float]], best_step: int | None
) -> None:
    from matplotlib.ticker import MaxNLocator

    steps, values = zip(*losses, strict=True)
    shown = smoothed(values)
    title = "Training loss"
    if shown != [*values]:
        panel.plot(steps, values, color=_ACCENT, alpha=0.28, linewidth=0.9)
        title += "  (bold: moving average)"
    panel.plot(steps, shown, color=_ACCENT, linewidth=1.8, marker="o" if len(values) == 1 else None)
    panel.plot(steps[-1], shown[-1], "o", color=_ACCENT, markersize=4, clip_on=False, zorder=3)
    everything = [*values, *(loss for _, loss in evaluations)]
    top = max(*everything, 1e-9) * 1.05
    other, beside = evaluations[-1][1] if evaluations else math.inf, 0.0
    if abs(shown[-1] - other) < 0.07 * top:  # points, so that a label does not lie on the other curve's
        beside = 5.0 if shown[-1] >= other else -5.0
    panel.annotate(f"{shown[-1]:.3f}", (steps[-1], shown[-1]), xytext=(7, beside), textcoords="offset points",
                   va="center", color=_ACCENT, weight="bold", annotation_clip=False)  # fmt: skip
    panel.set_title(title, loc="left", fontsize=9.5, color=_ACCENT if evaluations else _INK, pad=8)
    panel.set_ylim(bottom=min(0.0, *everything), top=top)
    panel.yaxis.set_major_locator(MaxNLocator(nbins=5))
    if evaluations:
        _draw_evaluations(panel, evaluations, best_step, -beside)


def _draw_evaluations(
    panel: Any, evaluations: Sequence[tuple[int, float]], best_step: int | None, beside: float
) -> None:
    """Draw the validation loss as dots on a line; the best checkpoint's is a ring with its step."""
    steps, values = zip(*evaluations, strict=True)
    panel.plot(steps, values, color=_OTHER, linewidth=1.5, marker="o", markersize=3.5, clip_on=False)
    panel.annotate(f"{values[-1]:.3f}", (steps[-1], values[-1]), xytext=(7, beside), textcoords="offset points",
                   va="center", color=_OTHER, weight="bold", annotation_clip=False)  # fmt: skip
    panel.set_title("Validation loss", loc="right", fontsize=9.5, color=_OTHER, pad=8)
    best = next((loss for step, loss in evaluations if step == best_step), None)
    if best is not None:
        panel.plot(best_step, best, "o", markersize=9, markerfacecolor="none", color=_OTHER, clip_on=False)
        panel.annotate(f"best: step {best_step}", (best_step, best), xytext=(0, 10), textcoords="offset points",
                       ha="right" if best_step == steps[-1] else "center", color=_OTHER)  # fmt: skip


def _draw_rate(panel: Any, rates: Sequence[tuple[int, float]]) -> None:
    panel.plot(*zip(*rates, strict=True), color=_MUTED, linewidth=1.3)
    panel.set_title("Learning rate", loc="left", fontsize=9.5, color=_INK, pad=6)
    panel.set_ylim(bottom=0)
    peak = max(rate for _, rate in rates)
    panel.set_yticks([0, peak] if peak > 0 else [0])
    panel.yaxis.set_major_formatter(lambda value, _: f"{value:.3g}".replace("e-0", "e-"))
