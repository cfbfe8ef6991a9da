from __future__ import annotations

import json
import struct

import pytest

from orchestrator.launch import load_plan
from orchestrator.report.curve import LossPoint, draw_loss_curve, is_dead, load_loss_points, smoothed


def points(*losses):
    return [LossPoint(step, loss, 1e-4) for step, loss in enumerate(losses, start=1)]


def test_the_newest_checkpoint_gives_the_whole_log(run):
    found = load_loss_points(run, load_plan(run))
    assert (len(found), found[-1].step) == (120, 360)


def test_logged_strings_are_numbers(run):
    first = load_loss_points(run, load_plan(run))[0]
    assert (isinstance(first.loss, float), first.learning_rate) == (True, pytest.approx(1.6667e-05))


def test_a_checkpoint_that_was_cut_is_passed_over(run):
    state = run.stage("04-train").output / "checkpoint-360" / "trainer_state.json"
    state.write_text(state.read_text()[:500])
    assert load_loss_points(run, load_plan(run))[-1].step == 180


def test_checkpoints_are_ordered_by_number_and_not_by_name(run):
    state = run.stage("04-train").output / "checkpoint-90" / "trainer_state.json"
    state.parent.mkdir()
    state.write_text(json.dumps({"log_history": [{"step": 90, "loss": 9.0}]}))
    assert load_loss_points(run, load_plan(run))[-1].step == 360


def test_without_a_checkpoint_the_step_events_are_read(run):
    for state in run.stage("04-train").output.rglob("trainer_state.json"):
        state.unlink()
    events = [{"t": 1.0, "type": "step", "stage": "04-train", "step": step, "loss": 1 / step} for step in (1, 2)]
    run.events_jsonl.write_text("".join(json.dumps(event) + "\n" for event in events) + '{"t": 2, "ty')
    assert load_loss_points(run, load_plan(run)) == (LossPoint(1, 1.0, None), LossPoint(2, 0.5, None))


def test_a_loss_that_is_nan_is_kept_as_a_step_without_a_number(run):
    state = run.stage("04-train").output / "checkpoint-400" / "trainer_state.json"
    state.parent.mkdir()
    state.write_text(
        '{"log_history": [{"step": 1, "loss": 1.5}, {"step": 2, "loss": NaN}, {"step": 3, "loss": "nan"}]}'
    )
    assert [point.loss for point in load_loss_points(run, load_plan(run))] == [1.5, None, None]


def test_a_loss_of_zero_to_the_end_is_called_dead():
    assert is_dead(points(1.2, 0.8, 0.0, 0.0, 0.0))


def test_a_loss_that_touches_zero_once_is_not_dead():
    assert not is_dead(points(1.2, 0.8, 0.0, 0.1))


def test_the_moving_average_begins_and_ends_on_the_curve():
    values = [float(100 - place) + place % 2 for place in range(100)]
    average = smoothed(values)
    assert (average[0], average[-1], len(average)) == (values[0], values[-1], 100)


def test_the_moving_average_does_not_lag_behind_a_falling_line():
    values = [float(100 - place) for place in range(100)]
    assert smoothed(values) == pytest.approx(values)


def test_few_points_are_not_averaged():
    assert smoothed([3.0, 1.0, 2.0]) == [3.0, 1.0, 2.0]


def test_the_picture_is_a_png_of_twice_the_page_width():
    picture = draw_loss_curve(points(2.0, 1.0, 0.5))
    assert picture is not None
    assert (picture[:8], struct.unpack(">I", picture[16:20])[0]) == (b"\x89PNG\r\n\x1a\n", 2 * 912)


def test_a_single_point_can_be_drawn():
    assert draw_loss_curve([LossPoint(1, 0.5, None)]) is not None


def test_without_a_number_there_is_no_picture():
    assert draw_loss_curve(points(None, None)) is None
