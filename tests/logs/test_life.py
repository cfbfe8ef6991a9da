"""What counts as a sign of life in a log: new lines and counts that move, not a bar that redraws itself."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.logs.follow import LogFollower
from orchestrator.logs.live import Activity, LiveLog
from orchestrator.machine.rundir import StageDir

CAPTURED = Path(__file__).parent / "captured"


def news_of(*lines):
    life = Activity()
    for line in lines:
        life.see_line(line)
    return life.new_output


def bar(done, seconds, name="", total=12):
    return f"{name} {100 * done // total}%|███▎      | {done}/{total} [00:{seconds:02d}<00:02,  2.5it/s]"


def test_a_bar_that_is_drawn_again_at_its_count_is_no_news():
    assert news_of(*(bar(3, second) for second in range(50))) == 1


def test_a_bar_that_moves_on_is_news_each_time():
    assert news_of(*(bar(done, 1) for done in range(10))) == 10


def test_bars_that_take_turns_without_moving_are_no_news():
    assert news_of(*[bar(3, 1), bar(40, 2, "Loading:", 41), bar(5, 3, total=9)] * 20) == 3


def test_a_counter_without_a_total_is_a_bar():
    assert news_of("Map: 5it [00:01, 2.5it/s]", "Map: 5it [00:09, 2.5it/s]", "Map: 6it [00:10, 2.5it/s]") == 2


def test_every_other_line_is_news_even_when_it_repeats():
    assert news_of("waiting for the lock", "waiting for the lock") == 2


def test_each_refresh_of_a_real_bar_is_news_once():
    lines = list(LogFollower(CAPTURED / "trained.encoder.stderr.log").iter_lines(at_end=True))
    bars = [line for line in lines if "/12 [" in line]
    assert len(bars) == 12
    assert news_of(*bars) == 9  # at 6 and at 12 it drew itself again


def test_a_line_that_is_written_behind_a_bar_is_news():
    assert news_of(bar(3, 1), bar(3, 1) + "a warning", bar(3, 2)) == 2


@pytest.mark.parametrize(
    ("written", "news"), [("\r" + bar(3, 9), 0), ("\r 25%|██", 0), ("\r" + bar(4, 9), 1), ("\nwaits ..", 1)]
)
def test_a_line_that_is_still_written_counts_like_a_whole_one(tmp_path, written, news):
    folder = StageDir(tmp_path)
    folder.stderr_log.write_text("\r" + bar(3, 1))
    log = LiveLog("t", folder, 0, 0)
    log.read_events(0.0)
    before = log.new_output
    with folder.stderr_log.open("a") as stream:
        stream.write(written)
    for now in range(3):
        log.read_events(float(now))
    assert log.new_output - before == news
