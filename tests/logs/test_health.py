"""Losses that show a training that has diverged or learns nothing, and real and imagined ones that do not."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from orchestrator.logs.events import Step
from orchestrator.logs.health import FLAT_FACTOR, GRADIENT_REPORTS, LossHealth, LossRules
from orchestrator.logs.live import LiveLog
from orchestrator.machine.rundir import StageDir

CAPTURED = Path(__file__).parent / "captured"
LN8 = math.log(8)


def judge(steps, **rules):
    """Return every problem that is said, with the number of the step at which it was."""
    health = LossHealth(LossRules(**rules))
    said = [(step.step, health.add(step)) for step in steps]
    return [(number, problem) for number, problem in said if problem]


def steps_of(losses, *, total=None, grad_norm=1.0):
    total = total or len(losses)
    return [Step(n, total, None, loss, 2e-5, grad_norm) for n, loss in enumerate(losses, 1)]


def live_log(tmp_path, name, **rules):
    folder = StageDir(tmp_path)
    for stream in ("stdout", "stderr"):
        captured = CAPTURED / f"trained.{name}.{stream}.log"
        if captured.exists():
            (tmp_path / f"{stream}.log").write_bytes(captured.read_bytes())
    log = LiveLog("train", folder, 0, 0, LossRules(**rules))
    return log, log.read_events(0.0, at_end=True)


HEALTHY = [
    ("decoder-lora", math.log(4)),
    ("deepspeed", math.log(4)),
    ("encoder", math.log(4)),
    ("sentence-transformers", math.log(2)),
    ("swift", math.log(16)),
]


@pytest.mark.parametrize(("name", "flat_loss"), HEALTHY)
def test_no_real_training_that_went_well_is_stopped(tmp_path, name, flat_loss):
    log, events = live_log(tmp_path, name, flat="stop", flat_loss=flat_loss)
    assert any(isinstance(event, Step) for event in events)
    assert log.fatal is None


def test_a_real_training_that_diverged_is_stopped_with_its_first_bad_step_and_learning_rate(tmp_path):
    log, _ = live_log(tmp_path, "diverged")
    assert log.fatal.kind == "diverged"
    assert "logged as 0 with a gradient norm of nan" in log.fatal.message
    assert "9.17e+29" in log.fatal.message  # of the first gradient that was NaN, before the loss was 0
    assert "learning_rate" in log.fatal.remedy


def test_a_real_training_that_diverged_is_warned_about_where_the_recipe_says_so(tmp_path):
    log, events = live_log(tmp_path, "diverged", diverged="warn")
    assert log.fatal is None
    assert [event.text for event in events if "it is NaN" in getattr(event, "text", "")]


@pytest.mark.parametrize("loss", [math.nan, math.inf, -math.inf])
def test_a_loss_that_is_no_number_warns_at_once_and_stops_after_the_reports(loss):
    said = judge(steps_of([2.0, 1.9] + [loss] * 9), reports=4)
    assert [(number, problem.stops) for number, problem in said] == [(3, False), (6, True)]
    assert "from step 3 (learning rate 2e-05) on, in 4 reports" in said[1][1].message


def test_one_report_is_enough_where_the_recipe_says_so():
    assert [problem.stops for _, problem in judge(steps_of([2.0, math.nan]), reports=1)] == [True]


def test_a_loss_that_recovers_is_not_stopped():
    losses = ([math.nan] * 4 + [1.5]) * 5
    assert not [problem for _, problem in judge(steps_of(losses), reports=5) if problem.stops]


def test_a_loss_of_exactly_0_without_gradient_norms_is_stopped():
    said = judge(steps_of([2.0] + [0.0] * 5, grad_norm=None), reports=5)
    assert [(number, problem.stops) for number, problem in said] == [(6, True)]
    assert "exactly 0" in said[0][1].message


def test_rows_that_give_no_gradient_from_the_start_are_stopped_with_the_reason():
    said = judge(steps_of([0.0] * 6, grad_norm=0.0), reports=5)
    assert [problem.stops for _, problem in said] == [True]
    assert "negative" in said[0][1].remedy


def test_a_loss_that_is_rounded_to_0_is_a_good_training():
    assert judge(steps_of([0.1, 0.001] + [0.0] * 50, grad_norm=1e-4)) == []


def test_a_margin_loss_that_every_row_has_reached_is_a_good_training():
    fitted = [*steps_of([0.4, 0.1]), *steps_of([0.0] * 20, grad_norm=0.0)]
    assert judge(fitted) == []


def test_a_loss_that_is_rounded_to_0_is_a_good_training_also_where_no_gradient_norm_is_logged():
    assert judge(steps_of([0.7, 0.02, 0.0003] + [0.0] * 50, grad_norm=None)) == []


def test_a_training_that_goes_on_where_every_row_is_fitted_is_a_good_one():
    health = LossHealth(LossRules())
    health.remember([math.nan, 0.4, 0.0])
    assert [problem for step in steps_of([0.0] * 20, grad_norm=0.0) if (problem := health.add(step))] == []


def test_a_few_infinite_gradients_are_ordinary_under_loss_scaling():
    steps = [*steps_of([2.0] * 4, grad_norm=math.inf), *steps_of([1.9] * 30)]
    assert judge(steps, reports=5) == []


def test_infinite_gradients_alone_warn_and_stop_only_when_they_stay():
    said = judge(steps_of([2.0] * 30, grad_norm=math.inf), reports=5)
    assert [(number, problem.stops) for number, problem in said] == [(5, False), (GRADIENT_REPORTS, True)]


def test_a_loss_that_stays_at_ln_of_the_group_is_flat():
    said = judge(steps_of([LN8 + 0.002 * (-1) ** n for n in range(100)]), flat_loss=LN8, flat="stop")
    assert [(problem.kind, problem.stops) for _, problem in said] == [("flat", True)]
    # nothing counts before a fifth of the steps, and it must have lasted for another fifth
    assert said[0][0] == 40


def test_a_flat_loss_is_a_warning_by_default_and_nothing_when_ignored():
    steps = steps_of([LN8] * 100)
    assert [problem.stops for _, problem in judge(steps, flat_loss=LN8)] == [False]
    assert judge(steps, flat_loss=LN8, flat="ignore") == []
    assert judge(steps, flat_loss=None, flat="stop") == []


def test_a_new_head_that_begins_at_ln_of_the_group_and_learns_slowly_is_not_flat():
    losses = [LN8] * 30 + [LN8 - 0.02 * n for n in range(1, 71)]
    assert judge(steps_of(losses), flat_loss=LN8, flat="stop") == []


def test_a_hard_training_whose_loss_varies_around_ln_of_the_group_is_not_flat():
    losses = [LN8 + 0.05 * math.sin(n) for n in range(200)]
    assert judge(steps_of(losses), flat_loss=LN8, flat="stop") == []


def test_a_short_training_is_never_flat():
    assert judge(steps_of([LN8] * (FLAT_FACTOR * 5)), flat_loss=LN8, flat="stop") == []


def test_a_supervisor_that_adopts_a_training_judges_the_reports_before_it_too(tmp_path):
    folder = StageDir(tmp_path)
    folder.stdout_log.write_text("{'loss': 'nan', 'grad_norm': 'nan'}\n" * 5)
    log = LiveLog("train", folder, 0, 0, LossRules(reports=5))
    log.skip_reported([Step(loss=math.nan)] * 4)
    assert len([event for event in log.read_events(0.0) if isinstance(event, Step)]) == 1
    assert log.fatal
