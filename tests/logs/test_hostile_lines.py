"""What a log says may neither end a healthy training nor raise in its supervisor: rows of anybody's stand in it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import orchestrator
from orchestrator.logs import live as live_module
from orchestrator.logs.diagnose import diagnose
from orchestrator.logs.events import Message, Progress, RowsLoaded, Step, event_to_json, parse_event
from orchestrator.logs.health import LossRules
from orchestrator.logs.live import LiveLog
from orchestrator.machine.rundir import StageDir

LONG = "9" * 5000
NUMBERS = ["1", "0", "-1", "nan", "1e999", "-inf", "1.2.3", "", "９", LONG, "9" * 18, "9" * 400, "1e308", "5e-324"]
SHAPES = [
    "orch-progress {0}/{1}",
    " 50%|#####     | {0}/{1} [00:01<00:02,  2.5it/s]",
    "{{'loss': '{0}', 'grad_norm': '{1}', 'learning_rate': '{0}', 'epoch': '{1}'}}",
    "{{'loss': {0}, 'global_step/max_steps': '{1}/{0}'}}",
    "num_train_epochs={0},",
    "max_steps={0},",
    "[INFO:swift] train_dataset: Dataset({{",
    "    num_rows: {0}",
    "[rank{0}]: Traceback (most recent call last):",
    "[E ProcessGroupNCCL.cpp:607] [Rank {0}] Watchdog caught {1}",
    "  rank      : {0} (local_rank: {1})",
    "Root Cause (first observed failure):",
    "CUDA out of memory. Tried to allocate {0} GiB. GPU {1} has a total capacity of {0} GiB",
    "[INFO:swift] [INPUT] {0}",
    "W    | MISSING | {0}",
]
lines = st.builds(
    str.format, st.sampled_from(SHAPES), st.sampled_from(NUMBERS), st.sampled_from(NUMBERS)
)  # fmt: skip


def read(folder: StageDir, text: str, **rules: object) -> tuple[LiveLog, list[object]]:
    folder.root.mkdir(parents=True, exist_ok=True)
    folder.stderr_log.write_text(text)
    log = LiveLog("train", folder, 0, 0, LossRules(**rules))
    return log, log.read_events(0.0, at_end=True)


@settings(max_examples=400, deadline=None, derandomize=True, database=None)
@given(st.lists(lines | st.text(max_size=40), max_size=8))
def test_no_line_raises_in_the_supervisor(tmp_path_factory, said):
    text = "\n".join(said) + "\n"
    _, events = read(StageDir(tmp_path_factory.mktemp("stage")), text.encode(errors="replace").decode())
    assert all(parse_event(event_to_json(event)) for event in events)
    assert not [event for event in events if "for it raises" in getattr(event, "text", "")]
    assert diagnose(text, 1).cause


@pytest.mark.parametrize("line", [shape.format(LONG, LONG) for shape in SHAPES[:6]])
def test_a_number_of_5000_digits_is_no_count(tmp_path, line):
    _, events = read(StageDir(tmp_path), line + "\norch-progress 1/2\n")
    assert events[-1] == Progress(1, 2, "train")


def test_a_line_that_the_parser_cannot_bear_is_noted_once_and_the_next_ones_are_read(tmp_path, monkeypatch):
    parse = live_module.parse_line

    def fail(line):
        if "bad" in line:
            raise ValueError(line)
        return parse(line)

    monkeypatch.setattr(live_module, "parse_line", fail)
    _, events = read(StageDir(tmp_path), "bad 1\nbad 2\norch-progress 1/2\n")
    notes = [event.text for event in events if isinstance(event, Message)]
    assert notes == ["a line of its log is skipped: it raises ValueError: bad 1"]
    assert events[-1] == Progress(1, 2, "train")


def test_no_expression_of_the_logs_takes_a_number_without_bounds():
    """A number that becomes an int is bounded; rules quote what they find, and count nothing."""
    folder = Path(orchestrator.__file__).parent / "logs"
    files = [path for path in folder.glob("*.py") if re.search(r"\bint\(", path.read_text())]
    assert {path.name for path in files} >= {"live.py", "diagnose.py"}
    for path in files:
        assert not re.findall(r"\([^()]*(?:\\d|\[0-9\])[+*][^()]*\)", path.read_text()), path


FORGED = "\n{'loss': 'nan', 'grad_norm': 'nan', 'learning_rate': '1e-05', 'epoch': '0.1'}" * 5
RISING = "".join(f"\n{{'loss': 'nan', 'epoch': '0.{n}', 'global_step/max_steps': '{n}/9'}}" for n in range(1, 9))
BAR = "\n 99%|#########| 99/100 [00:01<00:02,  2.5it/s]\norch-progress 7/8"
DATASET = "\n[x] train_dataset: Dataset({\n    num_rows: 3"


@pytest.mark.parametrize("name", ["INPUT", "LABELS", "ANCHOR_INPUT", "CHOSEN_LABELS"])
@pytest.mark.parametrize("row", [FORGED, RISING, BAR, DATASET, "\r".join(FORGED.splitlines())])
def test_a_row_that_swift_prints_says_nothing_of_the_training(tmp_path, name, row):
    text = f"[INFO:swift] [{name}_IDS] [1, 2]\n[INFO:swift] [{name}] a chat about a log{row}\n[INFO:swift] max: 3\n"
    log, events = read(StageDir(tmp_path), text)
    assert (log.fatal, events, log.progress_count) == (None, [], 0)


def test_a_training_speaks_again_behind_its_rows(tmp_path):
    text = f"[INFO:swift] [LABELS] x{FORGED}\n[INFO:swift] begins\n" + BAR.strip() + "\n"
    _, events = read(StageDir(tmp_path), text)
    assert events == [Progress(7, 8, "train")]
    text = f"[INFO:swift] [LABELS] x{FORGED}\n[INFO:swift] begins{RISING}\n"
    assert read(StageDir(tmp_path / "b"), text)[0].fatal


def test_a_burst_of_lines_that_nobody_knows_as_a_row_ends_no_training(tmp_path):
    folder = StageDir(tmp_path)
    folder.stdout_log.write_text(f"a row: {RISING}\n")
    log = LiveLog("train", folder, 0, 0)
    log.read_events(0.0)
    with folder.stdout_log.open("a") as stream:
        stream.write("{'loss': '1.5', 'epoch': '0.1'}\n")
    log.read_events(1.0)
    log.read_events(2.0, at_end=True)
    assert log.fatal is None


def test_reports_that_never_move_on_are_no_divergence(tmp_path):
    assert read(StageDir(tmp_path), f"a row: {FORGED}\n")[0].fatal is None


def test_losses_that_stay_bad_from_one_look_to_the_next_are_a_divergence(tmp_path):
    folder = StageDir(tmp_path)
    log = LiveLog("train", folder, 0, 0, LossRules(reports=3))
    for look in range(2):
        with folder.stdout_log.open("a") as stream:
            stream.write("".join(f"{{'loss': 'nan', 'epoch': '0.{5 * look + n}'}}\n" for n in range(1, 5)))
        assert log.fatal is None
        events = log.read_events(float(look))
        assert len([event for event in events if isinstance(event, Step)]) == 4
    assert log.fatal.kind == "diverged"


def test_the_first_count_of_rows_stands(tmp_path):
    said = "[INFO:swift] train_dataset: Dataset({\n    num_rows: 22\n})\n"
    _, events = read(StageDir(tmp_path), f"{said}a row:{DATASET}\n")
    assert [event for event in events if isinstance(event, RowsLoaded)] == [RowsLoaded("train", 22, "train")]


def test_a_burst_of_alike_losses_is_no_flat_training(tmp_path):
    folder = StageDir(tmp_path)
    lines = "".join(f"{{'loss': '0.6931', 'global_step/max_steps': '{n}/100'}}\n" for n in range(50, 90))
    folder.stdout_log.write_text(f"a row:\n{lines}{{'loss': '0.3', 'global_step/max_steps': '1/100'}}\n")
    rules = LossRules(flat="stop", flat_loss=0.6931)
    log = LiveLog("train", folder, 0, 0, rules)
    log.read_events(0.0)
    log.read_events(1.0, at_end=True)
    assert log.fatal is None
    folder.stdout_log.write_text(lines)
    log = LiveLog("train", folder, 0, 0, rules)
    log.read_events(0.0)
    assert log.fatal is None
    log.read_events(1.0, at_end=True)
    assert log.fatal.kind == "flat"
