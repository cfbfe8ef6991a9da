from __future__ import annotations

import json
import struct

import pytest

from orchestrator.report.figures import draw_loss_curve, smoothed
from orchestrator.report.record import (
    LossPoint,
    TrainingLog,
    describe_log,
    load_training_log,
)
from orchestrator.run.folder import load_plan


def points(*losses):
    return [LossPoint(step, loss, 1e-4) for step, loss in enumerate(losses, start=1)]


def test_the_newest_checkpoint_gives_the_whole_log(run):
    found = load_training_log(run, load_plan(run)).points
    assert (len(found), found[-1].step) == (120, 360)


def test_logged_strings_are_numbers(run):
    first = load_training_log(run, load_plan(run)).points[0]
    assert (isinstance(first.loss, float), first.learning_rate) == (True, pytest.approx(1.6667e-05))


def test_a_checkpoint_that_was_cut_is_passed_over(run):
    state = run.stage("04-train").output / "checkpoint-360" / "trainer_state.json"
    state.write_text(state.read_text()[:500])
    assert load_training_log(run, load_plan(run)).points[-1].step == 180


def test_checkpoints_are_ordered_by_number_and_not_by_name(run):
    state = run.stage("04-train").output / "checkpoint-90" / "trainer_state.json"
    state.parent.mkdir()
    state.write_text(json.dumps({"log_history": [{"step": 90, "loss": 9.0}]}))
    assert load_training_log(run, load_plan(run)).points[-1].step == 360


def test_without_a_checkpoint_the_step_events_are_read(run):
    for state in run.stage("04-train").output.rglob("trainer_state.json"):
        state.unlink()
    events = [{"t": 1.0, "type": "step", "stage": "04-train", "step": step, "loss": 1 / step} for step in (1, 2)]
    run.events_jsonl.write_text("".join(json.dumps(event) + "\n" for event in events) + '{"t": 2, "ty')
    assert load_training_log(run, load_plan(run)).points == (LossPoint(1, 1.0, None), LossPoint(2, 0.5, None))


def test_a_loss_that_is_nan_is_kept_as_a_step_without_a_number(run):
    state = run.stage("04-train").output / "checkpoint-400" / "trainer_state.json"
    state.parent.mkdir()
    state.write_text(
        '{"log_history": [{"step": 1, "loss": 1.5}, {"step": 2, "loss": NaN}, {"step": 3, "loss": "nan"}]}'
    )
    assert [point.loss for point in load_training_log(run, load_plan(run)).points] == [1.5, None, None]


def test_a_loss_of_zero_to_the_end_is_called_dead():
    assert TrainingLog(tuple(points(1.2, 0.8, 0.0, 0.0, 0.0))).is_dead


def test_a_loss_that_touches_zero_once_is_not_dead():
    assert not TrainingLog(tuple(points(1.2, 0.8, 0.0, 0.1))).is_dead


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
    picture = draw_loss_curve(TrainingLog(tuple(points(2.0, 1.0, 0.5))))
    assert picture is not None
    assert (picture[:8], struct.unpack(">I", picture[16:20])[0]) == (b"\x89PNG\r\n\x1a\n", 2 * 912)


def test_a_single_point_can_be_drawn():
    assert draw_loss_curve(TrainingLog((LossPoint(1, 0.5, None),))) is not None


def test_without_a_number_there_is_no_picture():
    assert draw_loss_curve(TrainingLog(tuple(points(None, None)))) is None


def write_swift(run, *entries):
    path = run.stage("04-train").output / "logging.jsonl"
    path.write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    return path


STEPS = (
    {"loss": 2.5, "learning_rate": 1e-4, "global_step/max_steps": "5/20"},
    {"eval_loss": 2.25, "global_step/max_steps": "10/20"},
    {"loss": 1.5, "learning_rate": 5e-5, "global_step/max_steps": "15/20"},
    {"eval_loss": 2.5, "global_step/max_steps": "20/20"},
    {"train_runtime": 9.1, "global_step/max_steps": "20/20"},
)


def best(path, metric=None):
    return {"last_model_checkpoint": "/x/last", "best_model_checkpoint": path, "best_metric": metric}


def test_the_log_that_ms_swift_wrote_is_read(make_kind):
    run = make_kind("chat")
    log = load_training_log(run, load_plan(run))
    assert [point.step for point in log.points] == [1, 2, 4, 6, 8, 10, 12, 14, 16, 18]
    assert log.evaluations == (LossPoint(6, 3.8954103), LossPoint(12, 3.25637984), LossPoint(18, 3.12199521))
    assert (log.points[0].learning_rate, log.best_step) == (0.00992404, 18)


def test_the_log_of_ms_swift_comes_before_that_of_a_checkpoint(run):
    write_swift(run, *STEPS)
    assert [point.step for point in load_training_log(run, load_plan(run)).points] == [5, 15]


@pytest.mark.parametrize(
    ("last", "step"),
    [
        (best("/x/checkpoint-10"), 10),
        (best("/x/best", 2.25000001), 10),
        (best("/x/best", 7.0), None),
        (best(None), None),
        ({}, None),
    ],
)
def test_the_best_checkpoint_is_found_by_name_or_by_its_loss(run, last, step):
    write_swift(run, *STEPS, last)
    assert load_training_log(run, load_plan(run)).best_step == step


def test_the_best_checkpoint_is_found_by_its_link(run):
    path = write_swift(run, *STEPS, best("/x/best"))
    (path.parent / "checkpoint-20").mkdir()
    (path.parent / "best").symlink_to("checkpoint-20")
    assert load_training_log(run, load_plan(run)).best_step == 20


def test_without_evaluations_no_checkpoint_is_the_best(run):
    write_swift(run, STEPS[0], best("/x/checkpoint-20"))
    assert load_training_log(run, load_plan(run)).best_step is None


def test_a_line_that_was_cut_is_passed_over(run):
    path = write_swift(run, *STEPS)
    path.write_text(path.read_text() + '{"loss": 1.0, "global_st')
    assert len(load_training_log(run, load_plan(run)).points) == 2


def test_a_log_without_a_loss_leaves_the_word_to_the_checkpoint(run):
    write_swift(run, {"train_runtime": 1.0})
    assert len(load_training_log(run, load_plan(run)).points) == 120


def test_evaluations_of_a_checkpoint_are_read_with_the_best_one(run):
    state = run.stage("04-train").output / "checkpoint-400" / "trainer_state.json"
    state.parent.mkdir()
    history = [{"step": 200, "loss": 1.0}, {"step": 200, "eval_loss": 1.5}, {"step": 400, "eval_loss": "nan"}]
    state.write_text(json.dumps({"best_model_checkpoint": "/x/checkpoint-200", "log_history": history}))
    log = load_training_log(run, load_plan(run))
    assert (log.evaluations, log.best_step) == ((LossPoint(200, 1.5), LossPoint(400, None)), 200)


def test_the_last_evaluation_is_described_where_none_is_known_to_be_best():
    log = TrainingLog(tuple(points(2.0, 1.0)), (LossPoint(1, 2.5), LossPoint(2, 1.5)))
    assert describe_log(log) == {
        "step": 2, "first": 2.0, "last": 1.0, "evaluation": LossPoint(2, 1.5), "best_step": None,
    }  # fmt: skip


@pytest.mark.parametrize("best_step", [None, 1, 2, 9])
def test_evaluations_can_be_drawn(best_step):
    log = TrainingLog(tuple(points(2.0, 1.0)), (LossPoint(1, 2.5), LossPoint(2, None), LossPoint(3, 1.0)), best_step)
    assert draw_loss_curve(log) is not None
