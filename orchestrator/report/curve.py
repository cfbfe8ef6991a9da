"""Reads the training loss that a run logged, and draws it."""

from __future__ import annotations

import io
import json
import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from orchestrator.plan import Plan
    from orchestrator.rundir import RunDir

_CHECKPOINT = re.compile(r"checkpoint-(\d+)")
_SMOOTH_FROM = 40  # points; fewer are shown as they are
_DPI = 200  # twice the usual 100, for dense screens
_INK, _MUTED, _LINE, _ACCENT = "#1d2126", "#6d7278", "#e3e1dc", "#0b6e69"


@dataclass(frozen=True)
class LossPoint:
    """One logged training step; a value that was not logged, or is not a number, is None."""

    step: int
    loss: float | None
    learning_rate: float | None


def load_loss_points(run: RunDir, plan: Plan) -> tuple[LossPoint, ...]:
    """Return the logged steps in order: from the newest checkpoint that parses, else from the run's step events."""
    stage = plan.stage("train")
    if stage is None:
        return ()
    history = _newest_history(run.stage(stage.name).output) or _step_events(run.events_jsonl)
    points = {
        int(entry["step"]): LossPoint(int(entry["step"]), _number(entry["loss"]), _number(entry.get("learning_rate")))
        for entry in history
        if isinstance(entry, dict) and isinstance(entry.get("step"), int) and entry.get("loss") is not None
    }
    return tuple(points[step] for step in sorted(points))


def _newest_history(output: Path) -> list[Any]:
    """Return log_history of the newest complete checkpoint. trainer_state.json is written last, so it may be cut."""
    found = [
        (int(match[1]), path)
        for path in output.rglob("checkpoint-*/trainer_state.json")
        if (match := _CHECKPOINT.fullmatch(path.parent.name))
    ]
    for _, path in sorted(found, reverse=True):
        try:
            history = json.loads(path.read_text(encoding="utf-8"))["log_history"]
        except (KeyError, TypeError, ValueError):
            continue
        if isinstance(history, list):
            return history
    return []


def _step_events(path: Path) -> list[Any]:
    """Return the step events of events.jsonl; a line cut by a crash is passed over."""
    events = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else ():
        try:
            event = json.loads(line)
        except ValueError:
            continue
        if isinstance(event, dict) and event.get("type") == "step":
            events.append(event)
    return events


def _number(value: object) -> float | None:
    """Return a logged value as a float: transformers 5 logs strings. None for what is not a finite number."""
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None


def smoothed(values: Sequence[float]) -> list[float]:
    """Return the centred moving average over about a twelfth of the values, narrower near both ends; few stay as is.

    Centred, because a trailing average lags behind a falling loss and shows it worse than it is.
    """
    if len(values) < _SMOOTH_FROM:
        return list(values)
    reach, last = max(2, len(values) // 24), len(values) - 1
    windows = (min(reach, place, last - place) for place in range(len(values)))
    return [math.fsum(values[place - near : place + near + 1]) / (2 * near + 1) for place, near in enumerate(windows)]


def draw_loss_curve(points: Sequence[LossPoint]) -> bytes | None:
    """Return a PNG of the loss over the learning rate, 1824 px wide; None where no loss is a number."""
    losses = [(point.step, point.loss) for point in points if point.loss is not None]
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
        _draw_loss(panels[0][0], losses)
        if rates:
            _draw_rate(panels[1][0], rates)
        for (panel,) in panels:
            _bare(panel)
        last = panels[-1][0]
        last.set_xlabel("optimizer step", color=_MUTED, loc="right")
        last.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=True))
        last.set_xlim(losses[0][0] - 0.5, losses[-1][0] + 0.5)
        picture = io.BytesIO()
        figure.savefig(picture, format="png", metadata={"Software": None})
    return picture.getvalue()


def _draw_loss(panel: Any, losses: Sequence[tuple[int, float]]) -> None:
    from matplotlib.ticker import MaxNLocator

    steps, values = [step for step, _ in losses], [loss for _, loss in losses]
    shown = smoothed(values)
    title = "Training loss"
    if shown != values:
        panel.plot(steps, values, color=_ACCENT, alpha=0.28, linewidth=0.9)
        title += "  (bold: moving average)"
    panel.plot(steps, shown, color=_ACCENT, linewidth=1.8, marker="o" if len(values) == 1 else None)
    panel.plot(steps[-1], shown[-1], "o", color=_ACCENT, markersize=4, clip_on=False, zorder=3)
    panel.annotate(f"{shown[-1]:.3f}", (steps[-1], shown[-1]), xytext=(7, 0), textcoords="offset points",
                   va="center", color=_ACCENT, weight="bold", annotation_clip=False)  # fmt: skip
    panel.set_title(title, loc="left", fontsize=9.5, color=_INK, pad=8)
    panel.set_ylim(bottom=min(0.0, *values), top=max(*values, 1e-9) * 1.05)
    panel.yaxis.set_major_locator(MaxNLocator(nbins=5))


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


def count_not_finite(points: Sequence[LossPoint]) -> int:
    """Return how many logged losses are not numbers."""
    return sum(point.loss is None for point in points)


def is_dead(points: Sequence[LossPoint]) -> bool:
    """Return whether the last half of the losses is exactly 0: a trainer that hides NaN logs a diverged run so."""
    half = points[len(points) // 2 :]
    return bool(half) and all(point.loss == 0 for point in half)


def describe_points(points: Sequence[LossPoint]) -> Mapping[str, Any] | None:
    """Return {"step", "first", "last"}: the last step, the first and the last loss; None where there is no loss."""
    losses = [point.loss for point in points if point.loss is not None]
    if not losses:
        return None
    return {"step": points[-1].step, "first": losses[0], "last": losses[-1]}
