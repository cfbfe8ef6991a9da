"""What happens in a run, as typed events, and their form in events.jsonl.

One JSON object a line: {"t": unix seconds, "type": name, "stage"?: name, …}. A reader meets files of other versions
and files whose writer was killed: unknown types stay readable as `Unknown`, and a torn last line is skipped.
Numbers that JSON cannot carry (NaN, infinity: what a diverged training logs) are written as strings.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, get_args

from orchestrator.machine.files import IrregularFileError, open_regular, open_to_append
from orchestrator.machine.json_files import build_record, parse_json


@dataclass(frozen=True)
class RunStarted:
    """A supervisor has taken the run folder."""

    name: str
    stages: tuple[str, ...] = ()
    t: float = 0.0


@dataclass(frozen=True)
class StageStarted:
    """A stage's process runs; `resumed_from` is the checkpoint that it continues."""

    stage: str
    pid: int
    attempt: int
    resumed_from: str | None = None
    t: float = 0.0


@dataclass(frozen=True)
class StageSkipped:
    """A stage was done before, with the same digest."""

    stage: str
    t: float = 0.0


@dataclass(frozen=True)
class Progress:
    """How far a stage is: `done` of `total` of its own units (optimizer steps for a training)."""

    done: int
    total: int
    stage: str = ""
    t: float = 0.0


@dataclass(frozen=True)
class Step:
    """What a training logged; what it did not say is None."""

    step: int | None = None
    max_steps: int | None = None
    epoch: float | None = None
    loss: float | None = None
    learning_rate: float | None = None
    grad_norm: float | None = None
    stage: str = ""
    t: float = 0.0


@dataclass(frozen=True)
class Message:
    """One sentence for the user; `level` is info, warning, caution (the report repeats it) or error."""

    level: str
    text: str
    stage: str = ""
    t: float = 0.0


@dataclass(frozen=True)
class RowsLoaded:
    """A trainer says how many rows it has after reading them; `side` is train or validation."""

    side: str
    rows: int
    stage: str = ""
    t: float = 0.0


@dataclass(frozen=True)
class StageFinished:
    """A stage has ended: done, failed, out-of-memory, diverged, flat, stalled, timed-out, stopped or killed."""

    stage: str
    status: str
    exit_code: int | None = None
    seconds: float = 0.0
    t: float = 0.0


@dataclass(frozen=True)
class RunFinished:
    """The supervisor lets go: done, failed or interrupted, and the exit code that `orch` ends with."""

    status: str
    exit_code: int
    t: float = 0.0


@dataclass(frozen=True)
class Unknown:
    """An event of a type that this version does not know."""

    type: str
    values: dict[str, Any] = field(default_factory=dict)
    stage: str = ""
    t: float = 0.0


Event = (
    RunStarted | StageStarted | StageSkipped | Progress | Step | Message | RowsLoaded | StageFinished | RunFinished
    | Unknown
)  # fmt: skip
Listener = Callable[[Event], None]

_TYPES: dict[str, type[Any]] = {
    re.sub(r"(?<=[a-z])(?=[A-Z])", "_", kind.__name__).lower(): kind for kind in get_args(Event) if kind is not Unknown
}
_NAMES = {kind: name for name, kind in _TYPES.items()}
_NUMBERS = frozenset({"epoch", "loss", "learning_rate", "grad_norm"})  # NaN and infinity stand as words


def event_to_json(event: Event) -> str:
    """Return the event as one line of events.jsonl, without the line end."""
    if isinstance(event, Unknown):
        values = {**event.values, "stage": event.stage}
        name = event.type
    else:
        values = {item.name: getattr(event, item.name) for item in fields(event)}
        name = _NAMES[type(event)]
    said = {key: value for key, value in values.items() if key != "t" and value not in (None, "")}
    said |= {key: str(value) for key, value in said.items() if isinstance(value, float) and not math.isfinite(value)}
    return json.dumps({"t": round(event.t, 3), "type": name, **said}, ensure_ascii=False, allow_nan=False)


def parse_event(line: str) -> Event | None:
    """Return the event of one line, or None when the line is not a whole event."""
    try:
        values = parse_json(line)
        name = values.pop("type")
        if (kind := _TYPES.get(name)) is None:
            known = {key: values.pop(key) for key in ("stage", "t") if key in values}
            return build_record(Unknown, {"type": name, "values": values, **known})
        plain = {key: float(value) if key in _NUMBERS else value for key, value in values.items() if value is not None}
        return build_record(kind, plain)  # type: ignore[no-any-return]
    except (ValueError, TypeError, KeyError, AttributeError):
        return None


def load_events(path: Path) -> Iterator[Event]:
    """Yield the events of a file, oldest first; nothing when there is no such file."""
    with suppress(FileNotFoundError, IrregularFileError), open_regular(path) as stream:
        lines = (line.decode("utf-8", errors="replace") for line in stream)
        yield from (event for line in lines if (event := parse_event(line)))


def load_attempt_events(path: Path, stage: str) -> list[Event]:
    """Return the events of a stage's newest attempt: those after its last start, whatever the clock did meanwhile."""
    events: list[Event] = []
    for event in load_events(path):
        if isinstance(event, StageStarted) and event.stage == stage:
            events = []
        elif getattr(event, "stage", None) == stage:
            events.append(event)
    return events


def load_losses(path: Path, stage: str) -> Iterator[float]:
    """Yield every loss that a stage's attempts have logged, oldest first."""
    for event in load_events(path):
        if isinstance(event, Step) and event.stage == stage and event.loss is not None:
            yield event.loss


@dataclass
class EventLog:
    """Stamps events, by what `now` returns (unix seconds), adds them to events.jsonl and hands them to a listener.

    Events are for looking at, so neither a full disk nor a listener whose terminal has gone may end a training: both
    are let go in silence.
    """

    path: Path
    now: Callable[[], float]
    listener: Listener | None = None

    def emit(self, event: Event) -> None:
        """Stamp `event`, write it, and pass it on."""
        event = replace(event, t=self.now())
        with suppress(OSError):
            append_event(self.path, event)
        if self.listener:
            try:
                self.listener(event)
            except OSError:
                self.listener = None


def append_event(path: Path, event: Event) -> None:
    """Add one line to events.jsonl, in one write, on a line of its own even after a torn one. Raises OSError."""
    with open_to_append(path) as stream:
        torn = False
        if stream.tell() > 0:
            stream.seek(-1, 2)
            torn = stream.read(1) != b"\n"
        stream.write(b"\n" * torn + event_to_json(event).encode() + b"\n")
