"""Draws the loss curve: training loss, validation loss with the best checkpoint, learning rate."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from typing import Any

from orchestrator.report.training_log import TrainingLog

_SMOOTH_FROM = 40  # points; fewer are shown as they are
_DPI = 200  # twice the usual 100, for dense screens
_INK, _MUTED, _LINE, _ACCENT, _OTHER = "#1d2126", "#6d7278", "#e3e1dc", "#0b6e69", "#b3470e"


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
        figure = Figure(
            figsize=(9.12, 3.9 if rates else 3.0), dpi=_DPI, layout=ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.1)
        )
        panels: Any = figure.subplots(
            2 if rates else 1, 1, sharex=True, squeeze=False, height_ratios=[3, 1] if rates else [1]
        )
        _draw_loss(panels[0][0], losses, evaluations, log.best_step)
        if rates:
            _draw_rate(panels[1][0], rates)
        for (panel,) in panels:
            _bare(panel)
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

    steps, values = [step for step, _ in losses], [loss for _, loss in losses]
    shown = smoothed(values)
    title = "Training loss"
    if shown != values:
        panel.plot(steps, values, color=_ACCENT, alpha=0.28, linewidth=0.9)
        title += "  (bold: moving average)"
    panel.plot(steps, shown, color=_ACCENT, linewidth=1.8, marker="o" if len(values) == 1 else None)
    panel.plot(steps[-1], shown[-1], "o", color=_ACCENT, markersize=4, clip_on=False, zorder=3)
    everything = [*values, *(loss for _, loss in evaluations)]
    top = max(*everything, 1e-9) * 1.05
    beside = _apart(shown[-1], evaluations[-1][1] if evaluations else None, 0.07 * top)
    panel.annotate(f"{shown[-1]:.3f}", (steps[-1], shown[-1]), xytext=(7, beside), textcoords="offset points",
                   va="center", color=_ACCENT, weight="bold", annotation_clip=False)  # fmt: skip
    panel.set_title(title, loc="left", fontsize=9.5, color=_ACCENT if evaluations else _INK, pad=8)
    panel.set_ylim(bottom=min(0.0, *everything), top=top)
    panel.yaxis.set_major_locator(MaxNLocator(nbins=5))
    if evaluations:
        _draw_evaluations(panel, evaluations, best_step, -beside)


def _apart(one: float, other: float | None, least: float) -> float:
    """Return how far, in points, a label moves so that it does not lie on the other curve's."""
    if other is None or abs(one - other) >= least:
        return 0.0
    return 5.0 if one >= other else -5.0


def _draw_evaluations(
    panel: Any, evaluations: Sequence[tuple[int, float]], best_step: int | None, beside: float
) -> None:
    """Draw the validation loss as dots on a line; the best checkpoint's is a ring with its step."""
    steps, values = [step for step, _ in evaluations], [loss for _, loss in evaluations]
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
    panel.plot([step for step, _ in rates], [rate for _, rate in rates], color=_MUTED, linewidth=1.3)
    panel.set_title("Learning rate", loc="left", fontsize=9.5, color=_INK, pad=6)
    panel.set_ylim(bottom=0)
    peak = max(rate for _, rate in rates)
    panel.set_yticks([0, peak] if peak > 0 else [0])
    panel.yaxis.set_major_formatter(lambda value, _: f"{value:.3g}".replace("e-0", "e-"))


def _bare(panel: Any) -> None:
    """Take away the frame, keep hairlines."""
    for side in ("top", "right", "left"):
        panel.spines[side].set_visible(False)
    panel.spines["bottom"].set_color(_LINE)
    panel.tick_params(length=0, labelcolor=_MUTED)
    panel.grid(axis="y", color=_LINE, linewidth=0.8)
    panel.set_axisbelow(True)
