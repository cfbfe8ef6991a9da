"""What the backends print, line by line. Files in captured/ are real output (machine paths replaced)."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from orchestrator.logs.events import Message, Progress, RowsLoaded, Step
from orchestrator.logs.follow import LogFollower
from orchestrator.logs.live import LiveLog, parse_line
from orchestrator.machine.rundir import StageDir

CAPTURED = Path(__file__).parent / "captured"


def events_of(name: str) -> list[object]:
    lines = list(LogFollower(CAPTURED / name).iter_lines(at_end=True))
    return [event for line in lines if (event := parse_line(line))]


@pytest.mark.parametrize("name", ["encoder", "decoder-lora", "deepspeed"])
def test_every_logged_loss_of_a_real_training_is_read(name):
    events = events_of(f"trained.{name}.stdout.log")
    steps = [event for event in events if isinstance(event, Step)]
    assert len(steps) == 6
    assert steps[-1].epoch == 1
    assert steps[-1].learning_rate == 4.167e-06
    assert all(1.3 < step.loss < 1.5 for step in steps)
    assert all((step.grad_norm is None) == (name == "deepspeed") for step in steps)
    assert isinstance(events[-1], Message)
    assert "mean loss 1.387" in events[-1].text


def test_what_a_worker_says_of_its_speedups_is_read_beside_the_losses():
    events = events_of("trained.speedups.stdout.log")
    [said] = [event for event in events if isinstance(event, Message) and event.text.startswith("speedups")]
    assert said.level == "info"
    assert said.text.endswith("last_logits (2.2e-07, bound 1e-04), trim_padding (2.2e-07, bound 1e-04)")
    assert len([event for event in events if isinstance(event, Step)]) == 16


def test_what_a_training_goes_on_without_is_a_caution():
    events = events_of("trained.without-speedups.stdout.log")
    [said] = [event for event in events if isinstance(event, Message) and "goes on" in event.text]
    assert said.level == "caution"
    assert said.text.startswith("the training goes on without trim_padding: it needs gradient_checkpointing_kwargs")
    assert len([event for event in events if isinstance(event, Step)]) == 16


def test_a_real_training_of_flagembedding_s_embedders_is_read_with_its_steps():
    events = events_of("trained.flagembedding-embedder.stdout.log")
    steps = [event for event in events if isinstance(event, Step)]
    assert [step.loss for step in steps] == [4.624, 6.582, 9.61, 4.728]
    assert [step.epoch for step in steps] == [0.25, 0.5, 0.75, 1]
    assert isinstance(events[-1], Message)
    assert "mean loss 6.386" in events[-1].text


def test_a_real_cross_encoder_training_is_read_with_its_steps_and_the_rankings_of_its_validation_rows():
    events = events_of("trained.sentence-transformers.stdout.log")
    steps = [event for event in events if isinstance(event, Step)]
    assert [step.loss for step in steps] == [1.083, 0.6137, 0.5514, 0.7722, 0.7756, 0.7921, 0.6506, 0.5827]
    for step, before in zip(events[1:], events, strict=False):
        if isinstance(step, Step):  # the progress right before it is its number
            assert before == Progress(round(step.epoch * 12), 24)
    measured = [event.text for event in events if isinstance(event, Message) and "eval_loss" in event.text]
    assert len(measured) == 2
    assert "eval_validation_ndcg@10 0.9077" in measured[0]


def test_the_losses_of_a_real_swift_training_know_their_steps():
    steps = [event for event in events_of("trained.swift.stdout.log") if isinstance(event, Step)]
    assert [(step.step, step.max_steps) for step in steps] == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert [step.loss for step in steps] == [5.609, 9.017, 4.931, 4.638]


def test_a_real_swift_training_says_how_many_rows_of_each_side_are_left(tmp_path):
    folder = StageDir(tmp_path)
    folder.stderr_log.write_bytes((CAPTURED / "trained.swift.stderr.log").read_bytes())
    loaded = [event for event in LiveLog("t", folder, 0, 0).read_events(0.0) if isinstance(event, RowsLoaded)]
    assert [(event.side, event.rows, event.stage) for event in loaded] == [("train", 22, "t"), ("validation", 24, "t")]


def test_a_number_of_rows_that_belongs_to_no_dataset_says_nothing(tmp_path):
    folder = StageDir(tmp_path)
    folder.stderr_log.write_text("    num_rows: 7\n")
    assert LiveLog("t", folder, 0, 0).read_events(0.0) == []


def test_a_real_bar_gives_the_trainers_progress_and_no_other_bars():
    events = events_of("trained.encoder.stderr.log")
    assert all(isinstance(event, Progress) and event.total == 12 for event in events)
    done = [event.done for event in events]
    assert done == sorted(done)
    assert (done[0], done[-1]) == (0, 12)


def test_steps_are_numbered_from_what_the_other_stream_says(tmp_path):
    folder = StageDir(tmp_path)
    folder.stderr_log.write_bytes((CAPTURED / "trained.encoder.stderr.log").read_bytes())
    folder.stdout_log.write_bytes((CAPTURED / "trained.encoder.stdout.log").read_bytes())
    events = LiveLog("05-train", folder, 0, 0).read_events(0.0, at_end=True)
    steps = [event for event in events if isinstance(event, Step)]
    assert [step.step for step in steps] == [2, 4, 6, 8, 10, 12]
    assert (steps[-1].max_steps, steps[-1].stage) == (12, "05-train")
    assert [event for event in events if isinstance(event, Progress)] == [Progress(12, 12, "05-train")]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("{'loss': 2.0, 'grad_norm': 1.5, 'learning_rate': 1e-05}", Step(None, None, None, 2.0, 1e-05, 1.5)),
        ("{'loss': '1.0', 'epoch': '0.5', 'global_step/max_steps': '5/9', 'memory(GiB)': 2.1}", Step(5, 9, 0.5, 1.0)),
        (" 33%|███▎      | 3/9 [00:01<00:02,  2.5it/s]{'loss': '2.0', 'epoch': '0.3'}", Step(3, 9, 0.3, 2.0)),
        (" 33%|███▎      | 3/9 [00:01<00:02,  2.5it/s]", Progress(3, 9)),
        ("\x1b[A100%|██████████| 9/9 [00:01<00:00]11/21/2026 - INFO - Saving", Progress(9, 9)),
        ("  0%|          | 0/9 [00:00<?, ?it/s]", Progress(0, 9)),
        ("orch-progress 3/10", Progress(3, 10)),
        ("{'eval_loss': '0.5', 'eval_mrr': '1.2', 'epoch': '1'}", Message("info", "eval_loss 0.5, eval_mrr 1.2")),
        ("Loading weights: 100%|██████████| 41/41 [00:00<00:00, 4199.53it/s]", None),
        ("Map: 50%|█████     | 5/10 [00:00<00:00]", None),
        ("{'a': 1}", None),
        ("{'query': 'loss', 'pos': ['x']}", None),
        ("", None),
        ("loss: 3", None),
    ],
)  # fmt: skip
def test_a_line_says(line, expected):
    assert parse_line(line) == expected


@pytest.mark.parametrize("value", ["nan", "'nan'", "inf", "'-inf'"])
def test_losses_that_are_no_numbers_are_kept(value):
    event = parse_line("{'loss': " + value + ", 'epoch': '0.1'}")
    assert isinstance(event, Step)
    assert not math.isfinite(event.loss)


def test_an_adopting_supervisor_reports_no_step_twice(tmp_path):
    folder = StageDir(tmp_path)
    folder.stdout_log.write_text("".join(f"{{'loss': '{n}', 'epoch': '0.{n}'}}\n" for n in (1, 2, 3)))
    log = LiveLog("train", folder, 0, 0)
    log.skip_reported([Step(loss=1.0), Step(loss=2.0), Message("info", "x")])
    assert [event.loss for event in log.read_events(0.0)] == [3.0]


def test_progress_is_reported_once_a_second_and_at_the_end(tmp_path):
    folder = StageDir(tmp_path)
    log = LiveLog("score", folder, 0, 0)
    seen = []
    for number in range(1, 11):
        with folder.stdout_log.open("a") as stream:
            stream.write(f"orch-progress {number}/10\n")
        seen += log.read_events(number * 0.25)
    seen += log.read_events(2.6, at_end=True)
    assert [event.done for event in seen] == [1, 5, 9, 10]


def test_a_follower_waits_for_the_rest_of_a_character_and_of_a_line(tmp_path):
    path = tmp_path / "log"
    follower = LogFollower(path)
    assert list(follower.iter_lines()) == []
    path.write_bytes("one\ntw\u00e9".encode()[:-1])
    assert list(follower.iter_lines()) == ["one"]
    with path.open("ab") as stream:
        stream.write("\u00e9".encode()[1:] + b"\rthree\r\nfour")
    assert list(follower.iter_lines()) == ["tw\u00e9", "three"]
    assert list(follower.iter_lines(at_end=True)) == ["four"]


def test_a_follower_survives_bytes_that_are_no_text_and_lines_without_end(tmp_path):
    path = tmp_path / "log"
    path.write_bytes(b"\xff\xfe\n" + b"x" * 200_000)
    lines = list(LogFollower(path).iter_lines(at_end=True))
    assert lines[0] == "\ufffd\ufffd"
    assert sum(map(len, lines[1:])) == 200_000


def test_without_the_epochs_a_step_takes_the_bars_count(tmp_path):
    folder = StageDir(tmp_path)
    folder.stderr_log.write_text("max_steps=6,\nnum_train_epochs=3.0,\n 33%|███▎  | 2/6 [00:01<00:02, 2.5it/s]\r")
    folder.stdout_log.write_text("{'loss': '1.0', 'epoch': '0.5'}\n")
    steps = [event for event in LiveLog("t", folder, 0, 0).read_events(0.0) if isinstance(event, Step)]
    assert [(step.step, step.max_steps) for step in steps] == [(2, 6)]
