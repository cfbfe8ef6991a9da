"""What happens around a run: terminals and pipes that close, clocks that are set, memory that ends, suspended workers."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import pty
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from msgspec.structs import replace

from orchestrator.errors import InterruptedRunError, StageFailedError, StalledError
from orchestrator.logs.events import StageFinished, Step
from orchestrator.machine import process
from orchestrator.run.folder import adopt_run
from orchestrator.run.runs import stop_run, summarise
from orchestrator.run.state import STALE_AFTER_S, held_lock, load_result, read_state
from tests.process.recovery import QUICK, STEPS, TRAIN, assert_recovers, make_run

ORCH = str(Path(sys.executable).parent / "orch")
HOUR_S = 3600.0


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    run = make_run(tmp_path_factory.mktemp("undisturbed"), step_s=0, save_s=0, work_s=0)
    run.resume()
    return run.result()


@pytest.fixture
def run(tmp_path):
    run = make_run(tmp_path, step_s=0.15, save_s=0, work_s=0)
    run.folder.root.mkdir()
    run.folder.plan_json.write_text(run.plan.to_json())
    adopt_run(run.folder)
    yield run
    run.clean_up()


# --- terminals and pipes


def test_a_closed_terminal_ends_the_run_in_order(run, undisturbed, tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path / "bugs"))
    (tmp_path / "bugs").mkdir()
    run.pause("training")
    pid, terminal = pty.fork()
    if pid == 0:
        os.execv(ORCH, [ORCH, "resume", str(run.folder.root)])  # noqa: S606
    os.set_blocking(terminal, False)
    end = time.monotonic() + 40
    while not (run.output() / "checkpoint-2" / "trainer_state.json").exists():
        assert time.monotonic() < end
        with contextlib.suppress(BlockingIOError):
            os.read(terminal, 1 << 16)
        time.sleep(0.02)
    os.close(terminal)
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == InterruptedRunError.exit_code
    assert list((tmp_path / "bugs").glob("orch-bug-*")) == []
    assert run.processes() == []
    assert summarise(run.folder).status == "interrupted"
    assert_recovers(run, undisturbed)


def test_a_reader_that_leaves_does_not_end_the_training(run, undisturbed):
    """`orch resume RUN --json 2>&1 >result.json | head -1`."""
    run.folder.report_json.write_text("{}")
    words = [ORCH, "resume", str(run.folder.root), "--json"]
    reader, writer = os.pipe()
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=writer, text=True) as orch:
        os.close(writer)
        assert b"run folder" in os.read(reader, 100)
        os.close(reader)
        out = orch.communicate(timeout=40)[0]
    assert orch.returncode == 0
    assert json.loads(out)["ok"]
    assert run.result() == undisturbed


def test_a_run_needs_no_standard_streams(run, undisturbed):
    """As from a service that closes them: none of the run's files may get the number of one."""
    run.folder.report_json.write_text("{}")
    script = 'exec "$@" <&- >&- 2>&-'
    done = subprocess.run(["/bin/sh", "-c", script, "sh", ORCH, "resume", run.folder.root, "--json"], check=False)
    assert done.returncode == 0
    assert run.result() == undisturbed
    assert json.loads(run.folder.lock.read_text())["pid"]


def test_an_error_told_to_nobody_keeps_its_exit_code(tmp_path):
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run([ORCH, "resume", str(tmp_path)], stderr=writer, check=False)
    os.close(writer)
    assert done.returncode == 9


# --- clocks


class SetClock:
    """The machine's clock, set by `offset_s` when `when` becomes true."""

    def __init__(self, offset_s, when=lambda: True):
        self.offset_s, self.when = offset_s, when
        self.monotonic, self.sleep = time.monotonic, time.sleep

    def time(self):
        return time.time() + (self.offset_s if self.when() else 0.0)


@pytest.mark.parametrize("offset_s", [-HOUR_S, 48 * HOUR_S])
def test_a_clock_that_is_set_during_a_run_changes_nothing(run, undisturbed, offset_s):
    stages = [replace(stage, timeout_s=HOUR_S) for stage in run.plan.stages]
    run.plan = replace(run.plan, stages=tuple(stages))
    saved = run.output() / "checkpoint-2" / "trainer_state.json"
    assert_recovers(run, undisturbed, clock=SetClock(offset_s, saved.exists))
    finished = [event for event in run.events() if isinstance(event, StageFinished)]
    assert [event.status for event in finished] == ["done"] * 3
    assert all(0 <= event.seconds < 60 for event in finished)
    assert 0 < load_result(run.folder.stage(TRAIN)).seconds < 60
    assert [item.status for item in run.resume().stages] == ["skipped"] * 3


def test_a_time_limit_holds_though_the_clock_is_set_back(run):
    run.plan = replace(run.plan, stages=tuple(replace(stage, timeout_s=0.4) for stage in run.plan.stages))
    saved = run.output() / "worker.pid"
    with pytest.raises(StalledError, match="longer than its limit"):
        run.resume(clock=SetClock(-HOUR_S, saved.exists))


def test_a_training_is_adopted_with_each_step_once_though_the_clock_was_set_back(run, undisturbed):
    run.start(pause="training")
    run.reaches("training")
    os.kill(run.pid_of("orch", TRAIN), signal.SIGKILL)
    run.end()
    assert_recovers(run, undisturbed, clock=SetClock(-HOUR_S), listener=run.go_on_when_adopted)
    losses = [event.loss for event in run.events() if isinstance(event, Step)]
    assert losses == [float(f"{1 / step:.4g}") for step in range(1, STEPS + 1)]


def test_a_sign_of_life_that_lies_ahead_is_none(run):
    content = {"pid": 1, "start": "x", "host": "another-machine", "since": "2026-01-01 00:00:00"}
    run.folder.lock.write_text(json.dumps(content))
    ahead = time.time() + STALE_AFTER_S + HOUR_S
    os.utime(run.folder.lock, (ahead, ahead))
    with held_lock(run.folder):
        assert json.loads(run.folder.lock.read_text())["pid"] == os.getpid()


# --- memory


def test_a_training_that_may_not_have_its_memory_fails_and_goes_on_with_more(tmp_path, undisturbed):
    run = make_run(tmp_path, step_s=0.02, save_s=0, work_s=0, args=["--grab_mb", 200])
    train = run.plan.stages[1]
    limited = '[ -e allowed ] || ulimit -v 300000; exec "$@"'
    argv = ("/bin/sh", "-c", limited, "sh", *train.command.argv)
    stages = (run.plan.stages[0], replace(train, command=replace(train.command, argv=argv)), run.plan.stages[2])
    run.plan = replace(run.plan, stages=stages)
    with pytest.raises(StageFailedError, match="memory"):
        run.resume()
    assert read_state(run.folder).reason == "out-of-memory"
    assert run.processes() == []
    (run.folder.root / "allowed").touch()
    assert_recovers(run, undisturbed)
    assert run.events()[-1].exit_code == 0


@pytest.fixture
def memory_group():
    """A control group of 150 MiB, of cgroup v1, where this user may make one."""
    group = Path(f"/sys/fs/cgroup/memory/orch-test-{os.getpid()}")
    try:
        group.mkdir()
        (group / "memory.limit_in_bytes").write_text(str(150 << 20))
    except OSError as error:
        pytest.skip(f"no control group of memory can be made here: {os.strerror(error.errno or errno.EIO)}")
    yield group
    for _ in range(100):
        with contextlib.suppress(OSError):
            group.rmdir()
            break
        time.sleep(0.05)


def test_a_kill_by_the_kernel_for_memory_is_told_as_such(tmp_path, undisturbed, memory_group):
    run = make_run(tmp_path, step_s=0.1, save_s=0, work_s=0.2, args=["--grab_mb", 100])
    try:
        run.start()
        (memory_group / "cgroup.procs").write_text(str(run.driver.pid))
        code, said = run.end()
        assert code == StageFailedError.exit_code, said
        assert "memory" in said
        assert read_state(run.folder).reason == "out-of-memory"
        assert run.processes() == []
        assert_recovers(run, undisturbed)
    finally:
        run.clean_up()


# --- suspension


def test_a_suspended_worker_is_ended_after_its_silence(run, undisturbed):
    run.start(pause="training")
    run.reaches("training")
    os.kill(run.pid_of("worker", TRAIN), signal.SIGSTOP)
    assert "stopped at" in stop_and_say(run)
    assert run.processes() == []
    assert_recovers(run, undisturbed)


def stop_and_say(run):
    """Ctrl-C: the worker cannot take it, so that the ladder must climb to TERM and CONT."""
    os.kill(run.pid_of("orch", TRAIN), signal.SIGINT)
    code, said = run.end()
    assert code == InterruptedRunError.exit_code
    return said


def test_a_silent_training_with_a_suspended_worker_is_stalled(tmp_path, undisturbed):
    run = make_run(tmp_path, step_s=0.1, save_s=0, work_s=0)
    clock = Suspend(run)
    try:
        with pytest.raises(StalledError):
            run.resume(stall_s=1.5, clock=clock)
        assert clock.done
        assert read_state(run.folder).exit_code == StalledError.exit_code
        assert run.processes() == []
        assert_recovers(run, undisturbed)
    finally:
        run.clean_up()


class Suspend:
    """The machine's clock, by whose ticks the worker is suspended after its first checkpoint."""

    def __init__(self, run):
        self.run, self.done = run, False
        self.time, self.monotonic = time.time, time.monotonic

    def sleep(self, seconds):
        time.sleep(seconds)
        if not self.done and (self.run.output() / "checkpoint-2" / "trainer_state.json").exists():
            os.kill(int((self.run.output() / "worker.pid").read_text()), signal.SIGSTOP)
            self.done = True


def test_a_suspended_orch_can_be_stopped(run, undisturbed):
    run.start(pause="training")
    run.reaches("training")
    os.kill(run.driver.pid, signal.SIGSTOP)
    assert str(run.driver.pid) in stop_run(run.folder, timeouts=QUICK)
    assert run.end()[0] == InterruptedRunError.exit_code
    assert run.processes() == []
    assert_recovers(run, undisturbed)


def test_a_command_that_is_told_to_end_takes_its_probe_along(tmp_path):
    """TERM and HUP outside a stage: nothing that was started to look around may stay."""
    script = (
        "import sys; from orchestrator.machine import process; from orchestrator.cli import "
        "raise_on_stop_signals as r; r(); print('ready', flush=True); process.run(('sleep', '987.125'), 60)"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as orch:
        assert orch.stdout.readline() == b"ready\n"
        end = time.monotonic() + 20
        while not find_sleepers() and time.monotonic() < end:
            time.sleep(0.02)
        assert find_sleepers()
        orch.terminate()
        orch.wait(20)
    assert find_sleepers() == []


def find_sleepers():
    found = []
    for pid in process.read_table():
        with contextlib.suppress(OSError):
            if b"987.125" in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0"):
                found.append(pid)
    return found
