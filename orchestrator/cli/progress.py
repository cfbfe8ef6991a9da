"""What a run looks like while it runs: a live panel on a terminal, plain lines elsewhere. Writes to stderr."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from orchestrator.logs.events import Event, Listener, Message, Progress, StageFinished, StageSkipped, StageStarted, Step
from orchestrator.machine.rundir import RunDir
from orchestrator.machine.terminal import clean, current_language, say
from orchestrator.recipe.plan import Plan

if TYPE_CHECKING:
    from rich.console import Console

_LINE_EVERY_S = 10.0
_STATUS_WIDTH = 58  # bar, steps, loss, learning rate, time left
_WIDTH_WITH_TITLES = 125


@dataclass
class StageView:
    """What is known of the running stage."""

    name: str
    started: float
    done: int = 0
    total: int = 0
    loss: float | None = None
    learning_rate: float | None = None
    first: tuple[float, int] | None = None

    def update(self, event: Event) -> None:
        """Take in one event."""
        if isinstance(event, Progress):
            self.done, self.total = event.done, event.total
        elif isinstance(event, Step):
            self.done, self.total = event.step or self.done, event.max_steps or self.total
            self.loss = event.loss if event.loss is not None else self.loss
            self.learning_rate = event.learning_rate if event.learning_rate is not None else self.learning_rate
        if self.first is None and self.done:
            self.first = (time.monotonic(), self.done)

    def words(self) -> str:
        """Return progress, loss, learning rate and time left, as far as they are known."""
        parts = [f"{self.done}/{self.total}"] if self.total else []
        parts += [f"loss {self.loss:.4f}"] if self.loss is not None else []
        parts += [f"lr {self.learning_rate:.2e}"] if self.learning_rate is not None else []
        if self.first and self.total and self.done > self.first[1]:  # the pace leaves out start-up
            pace = (time.monotonic() - self.first[0]) / (self.done - self.first[1])
            parts.append(f"{show_seconds(pace * (self.total - self.done))} left")
        return "  ".join(parts)


def show_seconds(seconds: float) -> str:
    """Return a duration as people say it: 8s, 3m 05s, 2h 10m."""
    whole = round(seconds)
    if whole < 60:  # noqa: PLR2004
        return f"{whole}s"
    minutes, rest = divmod(whole, 60)
    return f"{minutes}m {rest:02d}s" if minutes < 60 else f"{minutes // 60}h {minutes % 60:02d}m"  # noqa: PLR2004


@dataclass
class PlainLines:
    """One line when a stage starts or ends, and one every few seconds in between."""

    plan: Plan
    view: StageView | None = None
    last: float = 0.0

    def __call__(self, event: Event) -> None:
        """Print what the event says."""
        if isinstance(event, StageStarted):
            title = next((stage.title for stage in self.plan.stages if stage.name == event.stage), "")
            self.view, self.last = StageView(event.stage, time.monotonic()), time.monotonic()
            say(f"{event.stage}: {title}", err=True)
        elif isinstance(event, StageSkipped):
            say(f"{event.stage}: done before", err=True)
        elif isinstance(event, StageFinished):
            say(f"{event.stage}: {event.status} in {show_seconds(event.seconds)}", err=True)
        elif isinstance(event, Message):
            say(f"{event.stage}: {event.text}" if event.stage else event.text, err=True)
        elif self.view:
            self.view.update(event)
            if time.monotonic() - self.last > _LINE_EVERY_S and self.view.words():
                self.last = time.monotonic()
                say(f"{self.view.name}: {self.view.words()}", err=True)


class LivePanel:
    """A list of stages with a bar, loss, learning rate and time left for the running one, redrawn in place."""

    def __init__(self, plan: Plan, console: Console | None = None) -> None:
        from rich.console import Console
        from rich.live import Live

        self.plan = plan
        self.view: StageView | None = None
        self.marks: dict[str, tuple[str, str]] = {}
        self.console = console or Console(stderr=True)
        self.live = Live(console=self.console, get_renderable=self._draw, refresh_per_second=4, transient=False)

    def __call__(self, event: Event) -> None:
        """Take in one event; the panel redraws by itself."""
        if isinstance(event, StageStarted):
            self.view = StageView(event.stage, time.monotonic())
        elif isinstance(event, StageSkipped):
            self.marks[event.stage] = ("✓", "done before")
        elif isinstance(event, StageFinished):
            mark = "✓" if event.status == "done" else "✗"
            words = show_seconds(event.seconds) if mark == "✓" else event.status
            if mark == "✓" and self.view and self.view.loss is not None:
                words += f"  loss {self.view.loss:.4f}"
            self.marks[event.stage] = (mark, words)
            self.view = None
        elif isinstance(event, Message):
            self.console.print(clean(f"{event.stage}: {event.text}"), markup=False, highlight=False)
        elif self.view:
            self.view.update(event)

    def __enter__(self) -> Self:
        self.live.start(refresh=True)
        return self

    def __exit__(self, *_error: object) -> None:
        with suppress(OSError):  # the terminal was closed
            self.live.stop()

    def _draw(self) -> Any:
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        with_titles = self.console.width >= _WIDTH_WITH_TITLES
        table = Table.grid(padding=(0, 1))
        table.add_column(no_wrap=True, min_width=1)
        table.add_column(no_wrap=True, min_width=max(len(stage.name) for stage in self.plan.stages))
        if with_titles:
            table.add_column(no_wrap=True, overflow="ellipsis", max_width=40)
        table.add_column(no_wrap=True, min_width=_STATUS_WIDTH if with_titles else 0)
        for stage in self.plan.stages:
            mark, words = self.marks.get(stage.name, ("·", ""))
            style = {"✓": "green", "✗": "red"}.get(mark, "dim")
            cell: Any = Text(clean(words), style="dim")
            if self.view and self.view.name == stage.name:
                mark, style = "▸", "bold cyan"
                cell = Table.grid(padding=(0, 1))
                text = Text(self.view.words() or show_seconds(time.monotonic() - self.view.started))
                done = ProgressBar(total=self.view.total, completed=self.view.done, width=12)
                cell.add_row(*((done, text) if self.view.total else (text,)))
            title = (Text(clean(stage.title), style="dim"),) if with_titles else ()
            table.add_row(Text(mark, style=style), Text(clean(stage.name), style=style), *title, cell)
        return table


@contextmanager
def listening(plan: Plan, run: RunDir, *, quiet: bool) -> Iterator[Listener]:
    """Show a run's events in a live panel on a terminal, in plain lines otherwise.

    Once the first baseline is scored, it also says which difference the data can show.
    """
    is_live = sys.stderr.isatty() and not quiet
    baseline = next((stage.name for stage in plan.stages if stage.kind.startswith("baseline-")), None)
    with LivePanel(plan) if is_live else nullcontext(PlainLines(plan)) as show:

        def hear(event: Event) -> None:
            show(event)
            if isinstance(event, StageFinished) and (event.stage, event.status) == (baseline, "done"):
                from orchestrator.evaluation.metrics import find_power_of_baseline
                from orchestrator.report.wording import describe_power

                if found := find_power_of_baseline(run, plan):
                    show(Message("info", describe_power(*found, current_language()), event.stage))

        yield hear
