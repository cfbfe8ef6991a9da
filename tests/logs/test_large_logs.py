"""Logs of any size and shape: gigabytes, lines without end, files that are emptied or away while they are followed."""

from __future__ import annotations

import signal
import tracemalloc

import pytest

from orchestrator.logs.diagnose import TAIL_BYTES, count_line_ends, diagnose, find_line_number, read_tail
from orchestrator.logs.events import Step
from orchestrator.logs.follow import CHUNK_BYTES, LogFollower, scrub_log
from orchestrator.logs.live import LiveLog
from orchestrator.machine.rundir import StageDir


@pytest.fixture
def alarm():
    """Let a search that would take hours fail instead, after so many seconds."""

    def ring(_number, _frame):
        raise AssertionError("it takes for ever")

    before = signal.signal(signal.SIGALRM, ring)
    yield signal.alarm
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def test_a_log_that_somebody_emptied_is_followed_from_its_new_beginning(tmp_path):
    path = tmp_path / "log"
    path.write_text("one\ntwo\nthr")
    follower = LogFollower(path)
    assert list(follower.iter_lines()) == ["one", "two"]
    path.write_text("four\n")  # `: > stderr.log`: a writer that appends goes on at the new end
    assert list(follower.iter_lines()) == ["four"]


def test_a_log_that_cannot_be_read_for_a_moment_is_read_later(tmp_path):
    path = tmp_path / "log"
    path.mkdir()  # every read fails, as on a network disk that is away
    follower = LogFollower(path)
    assert list(follower.iter_lines()) == []
    path.rmdir()
    path.write_text("one\n")
    assert list(follower.iter_lines()) == ["one"]


def test_a_log_of_any_size_is_read_piece_by_piece(tmp_path):
    path = tmp_path / "log"
    path.write_text("a line of a log\n" * (4 * CHUNK_BYTES // 16))
    follower = LogFollower(path)
    next(follower.iter_lines())
    assert follower.offset == CHUNK_BYTES
    begun = LogFollower(path)
    first = list(begun.iter_lines(most_bytes=CHUNK_BYTES))
    assert len(first) == CHUNK_BYTES // 16
    assert len(first) + len(list(begun.iter_lines(at_end=True))) == 4 * CHUNK_BYTES // 16


HUGE = 1_000_000
ENDLESS = {
    "dots": "." * HUGE,
    "digits": "1" * HUGE,
    "bars": "1%|" * HUGE,
    "slashes": "1%| |" + "a/" * HUGE,
    "dictionaries": "{'a': " * HUGE,
    "address": "https://" + "a" * HUGE,
}


@pytest.mark.parametrize("name", ENDLESS)
def test_a_line_of_megabytes_holds_nobody_up(tmp_path, name, alarm):
    """A search that is quadratic in the line's length would take hours, in which no signal is heeded."""
    folder = StageDir(tmp_path)
    folder.stdout_log.write_text(ENDLESS[name] + "\n{'loss': '0.5', 'epoch': '1'}\n" + ENDLESS[name])
    alarm(60)
    log = LiveLog("train", folder, 0, 0)
    events = log.read_events(0.0) + log.read_events(0.0, at_end=True)
    scrub_log(folder.stdout_log, ())
    diagnose(read_tail(folder.stdout_log), 1)
    assert [event.loss for event in events if isinstance(event, Step)] == [0.5]
    assert log.new_output >= 2


def test_a_line_that_only_grows_is_a_sign_of_life(tmp_path):
    folder = StageDir(tmp_path)
    log, news = LiveLog("train", folder, 0, 0), []
    for _ in range(3):
        with folder.stdout_log.open("a") as stream:
            stream.write("." * 10_000)
        log.read_events(0.0)
        news.append(log.new_output)
    assert news == [1, 2, 3]


def test_the_line_of_an_evidence_is_counted_from_the_beginning_of_the_file(tmp_path):
    log = tmp_path / "log"
    log.write_text("early\n" * TAIL_BYTES + "KeyError: 'neg'\n" + "late\n" * 100)
    assert find_line_number(log, "KeyError: 'neg'") == TAIL_BYTES + 1
    assert find_line_number(log, "no such line") is None
    assert find_line_number(tmp_path / "nothing", "KeyError") is None


def test_a_log_of_bars_without_a_line_end_is_never_in_memory(tmp_path):
    log = tmp_path / "log"
    log.write_bytes(b"\r 40%|####      | 4/10" * (3 << 20) + b"\nKeyError: 'neg'\n")
    tracemalloc.start()
    assert find_line_number(log, "KeyError: 'neg'") == 2
    assert count_line_ends(log) == 2
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8 << 20


def test_the_tail_of_a_log_that_was_emptied_after_the_attempt_began_is_read(tmp_path):
    log = tmp_path / "log"
    log.write_text("KeyError: 'neg'\n")
    assert read_tail(log, offset=5000) == "KeyError: 'neg'\n"
