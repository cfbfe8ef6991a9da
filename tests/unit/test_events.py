from __future__ import annotations

import json
import math

import pytest

from orchestrator.logs.events import (
    EventLog,
    Message,
    Progress,
    RunFinished,
    RunStarted,
    StageFinished,
    StageSkipped,
    StageStarted,
    Step,
    Unknown,
    append_event,
    event_to_json,
    load_events,
    parse_event,
)

ALL = [
    RunStarted("demo", ("01-prepare", "02-train"), 1.5),
    StageStarted("01-prepare", 77, 1, None, 2.0),
    StageStarted("01-prepare", 77, 2, "/x/checkpoint-2", 2.0),
    StageSkipped("01-prepare", 3.0),
    Progress(3, 10, "01-prepare", 4.0),
    Step(3, 10, 0.5, 2.25, 1e-5, 0.5, "02-train", 5.0),
    Step(None, None, 0.5, 0.0, None, None, "02-train", 5.0),
    Message("warning", "文字 and é", "02-train", 6.0),
    StageFinished("02-train", "failed", None, 1.25, 7.0),
    RunFinished("failed", 6, 8.0),
    Unknown("lunar_phase", {"phase": "full"}, "02-train", 9.0),
]


@pytest.mark.parametrize("event", ALL, ids=lambda event: type(event).__name__)
def test_an_event_survives_its_line(event):
    line = event_to_json(event)
    assert "\n" not in line
    assert parse_event(line) == event


def test_a_loss_that_is_no_number_survives_and_stays_json():
    line = event_to_json(Step(loss=math.nan, grad_norm=math.inf))
    json.loads(line, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    event = parse_event(line)
    assert math.isnan(event.loss)
    assert event.grad_norm == math.inf


@pytest.mark.parametrize(
    "line", ["", "{", '{"t": 1}', "[]", "3", '{"t":1,"type":"progress"}', '{"type":"step","loss":"x"}']
)
def test_a_torn_or_foreign_line_is_no_event(line):
    assert parse_event(line) is None


def test_a_torn_last_line_does_not_swallow_the_next_event(tmp_path):
    path = tmp_path / "events.jsonl"
    append_event(path, ALL[0])
    with path.open("a") as stream:
        stream.write('{"t": 1.0, "type": "mess')
    append_event(path, ALL[3])
    assert list(load_events(path)) == [ALL[0], ALL[3]]


def test_no_file_means_no_events(tmp_path):
    assert list(load_events(tmp_path / "none")) == []


def test_a_listener_whose_terminal_is_gone_is_let_go(tmp_path):
    calls = []

    def listener(event):
        calls.append(event)
        raise BrokenPipeError

    log = EventLog(tmp_path / "events.jsonl", lambda: 5.0, listener)
    log.emit(StageSkipped("a"))
    log.emit(StageSkipped("b"))
    assert len(calls) == 1
    assert [event.stage for event in load_events(tmp_path / "events.jsonl")] == ["a", "b"]


def test_an_event_file_that_cannot_be_written_ends_nothing(tmp_path):
    seen = []
    EventLog(tmp_path / "no" / "events.jsonl", lambda: 5.0, seen.append).emit(StageSkipped("a"))
    assert seen == [StageSkipped("a", 5.0)]
