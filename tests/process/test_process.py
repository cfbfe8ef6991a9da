"""Real children, some of them badly behaved."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from orchestrator.logs.follow import LogFollower
from orchestrator.logs.live import parse_line
from orchestrator.machine import process
from orchestrator.machine.process import Child, Launch, parse_stat, read_entry
from orchestrator.run.stopping import Interrupts, StopTimeouts, SupervisorDeps, stop_stage

QUICK = StopTimeouts(0.5, 0.5, 3.0)


def stop(child, timeouts=QUICK, *, signals=0, **more):
    return stop_stage(child, SupervisorDeps(interrupts=Interrupts(signals), timeouts=timeouts), **more)


def wait_for_end(child, timeout_s=10):
    end = time.monotonic() + timeout_s
    while time.monotonic() < end:
        code = process.reap(child)
        if code is not None:
            return code
        time.sleep(0.02)
    raise AssertionError


def launch(tmp_path, argv, env=None):
    paths = (tmp_path / name for name in ("stdout.log", "stderr.log", "exit_code"))
    return Launch(tuple(argv), env or dict(os.environ), tmp_path, *paths, "t-1")


def test_values_reach_the_child_as_they_are(tmp_path):
    words = ["a b", "$HOME", "`id`", "it's", '"', "*", "\n", "", "é 文", "-n", "\\"]
    code = "import sys, json; print(json.dumps(sys.argv[1:]))"
    request = launch(tmp_path, [sys.executable, "-c", code, *words])
    assert wait_for_end(process.spawn(request)) == 0
    import json

    assert json.loads(request.stdout.read_text()) == words


@pytest.mark.parametrize("code", [0, 1, 3, 137, 255])
def test_the_exit_code_is_on_disk_when_the_child_has_ended(tmp_path, code):
    request = launch(tmp_path, [sys.executable, "-c", f"raise SystemExit({code})"])
    assert wait_for_end(process.spawn(request)) == code
    assert request.exit_code.read_text() == f"{code}\n"


def test_a_child_killed_by_a_signal_gives_128_and_the_number(spawn):
    child, request = spawn("kills_itself.py", ready=None)
    assert wait_for_end(child) == 137
    assert request.exit_code.read_text() == "137\n"


def test_a_program_that_does_not_exist_is_127_and_says_so(tmp_path):
    request = launch(tmp_path, ["/no/such/program"])
    assert wait_for_end(process.spawn(request)) == 127
    assert "/no/such/program" in request.stderr.read_text()


def test_a_working_folder_that_does_not_exist_is_a_failure(tmp_path):
    request = launch(tmp_path, ["true"])
    request = Launch(request.argv, request.env, tmp_path / "no", request.stdout, request.stderr, request.exit_code, "t")
    assert wait_for_end(process.spawn(request)) != 0
    assert "no" in request.stderr.read_text()


def test_the_child_has_a_session_of_its_own_an_empty_stdin_and_only_its_own_files(tmp_path):
    code = "import os, sys; print(os.getsid(0) != %d, sys.stdin.read() == '', sorted(os.listdir('/proc/self/fd')))"
    secret = os.open(tmp_path, os.O_RDONLY)
    os.set_inheritable(secret, True)
    request = launch(tmp_path, [sys.executable, "-c", code % os.getsid(0)])
    assert wait_for_end(process.spawn(request)) == 0
    os.close(secret)
    # 3 is the listing's own; dash keeps a 10 for itself
    assert request.stdout.read_text().replace("'10', ", "") == "True True ['0', '1', '2', '3']\n"


def test_signals_that_orch_ignores_are_not_ignored_by_the_child(tmp_path):
    code = "import signal; print([signal.getsignal(n) == signal.SIG_DFL for n in (signal.SIGHUP, signal.SIGTERM)])"
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        request = launch(tmp_path, [sys.executable, "-c", code])
        child = process.spawn(request)
    finally:
        signal.signal(signal.SIGHUP, before)
    assert wait_for_end(child) == 0
    assert request.stdout.read_text() == "[True, True]\n"


def test_output_is_appended_attempt_by_attempt(tmp_path):
    for _ in range(2):
        wait_for_end(process.spawn(launch(tmp_path, ["echo", "hello"])))
    assert (tmp_path / "stdout.log").read_text() == "hello\nhello\n"


def test_a_polite_child_ends_on_interrupt(spawn):
    child, request = spawn("leaves_a_grandchild.py", 0.0, ready="working")
    wait_for_end(child)
    assert request.exit_code.read_text() == "0\n"


@pytest.mark.parametrize(
    ("script", "seconds"), [("ignores_interrupt.py", 0.5), ("ignores_interrupt_and_terminate.py", 1.0)]
)
def test_the_ladder_ends_who_ignores_signals(spawn, script, seconds):
    child, _ = spawn(script)
    begun = time.monotonic()
    assert stop(child) == ()
    assert seconds <= time.monotonic() - begun < seconds + 2
    assert process.find_members(child) == ()


def test_the_exit_code_survives_an_interrupt_to_the_group(spawn):
    child, request = spawn("ignores_interrupt.py")
    process.signal_group(child, signal.SIGTERM)
    assert wait_for_end(child) == 143
    assert request.exit_code.read_text() == "143\n"


def test_a_second_signal_kills_at_once(spawn):
    child, _ = spawn("ignores_interrupt_and_terminate.py")
    begun = time.monotonic()
    assert stop(child, StopTimeouts(30, 30, 3), signals=2) == ()
    assert time.monotonic() - begun < 2


def test_a_stopped_child_can_be_stopped(spawn):
    child, _ = spawn("ignores_interrupt.py")
    process.signal_group(child, signal.SIGSTOP)
    assert stop(child, StopTimeouts(0.2, 3.0, 3.0)) == ()


def test_a_worker_in_a_session_of_its_own_is_found_and_ended(spawn):
    child, _ = spawn("leaves_a_grandchild.py", 60, ready="working")
    members = process.find_members(child)
    assert len(members) == 3  # launcher, parent, worker
    assert any(os.getpgid(pid) != child.pgid for pid in members)
    assert stop(child) == ()


def test_a_worker_is_found_by_its_token_when_its_launcher_was_killed(spawn):
    child, _ = spawn("leaves_a_grandchild.py", 60, ready="working")
    os.killpg(child.pgid, signal.SIGKILL)
    wait_for_end(child)
    members = process.find_members(child)
    assert len(members) == 1
    stranger = Child(child.pid, child.pgid, child.start, "another-token")
    assert process.find_members(stranger) == ()
    assert stop(child, graceful=False) == ()


def test_a_pid_with_another_start_is_not_the_child(spawn):
    child, _ = spawn("ignores_interrupt.py")
    assert process.is_alive(child.pid, child.start)
    assert not process.is_alive(child.pid, "earlier")
    reused = Child(child.pid, child.pgid, "earlier", "another-token")
    process.signal_group(reused, signal.SIGKILL)
    assert process.find_members(reused) == ()
    time.sleep(0.1)
    assert process.is_alive(child.pid, child.start)


def test_a_process_is_alive_though_no_file_handle_is_left_to_look_at_it(spawn):
    child, _ = spawn("ignores_interrupt.py")
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, before[1]))
    try:
        alive, other = process.is_alive(child.pid, child.start), process.is_alive(2**22 + 1, "s")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    assert (alive, other) == (True, False)


def test_what_a_stage_has_written_to_disk_is_counted(spawn):
    child, _ = spawn("ignores_interrupt.py")
    counts = process.count_written_bytes(child)
    assert counts
    assert set(counts) <= set(process.find_members(child))
    for pid, count in counts.items():
        assert f"write_bytes: {count}\n" in Path(f"/proc/{pid}/io").read_text()


def test_a_zombie_is_not_alive(tmp_path):
    child = process.spawn(launch(tmp_path, ["true"]))
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert not process.is_alive(child.pid, child.start)
    assert process.find_members(child) == ()
    assert process.reap(child) == 0
    assert process.reap(child) is None


def test_much_output_blocks_nobody(spawn):
    child, request = spawn("writes_much.py", ready=None)
    assert wait_for_end(child, 20) == 0
    assert request.stdout.stat().st_size == request.stderr.stat().st_size == 10_000_000
    assert len(list(LogFollower(request.stdout).iter_lines(at_end=True))) == 50_000


def test_bars_and_cut_characters_are_followed_from_a_real_child(spawn):
    child, request = spawn("redraws_bars.py", ready=None)
    follower, lines = LogFollower(request.stderr), []
    while process.reap(child) is None:
        lines += follower.iter_lines()
        time.sleep(0.02)
    lines += follower.iter_lines(at_end=True)
    assert [(event.done, event.total) for line in lines if (event := parse_line(line))] == [(1, 3), (2, 3), (3, 3)]
    assert lines[-1] == "café done"


def test_a_probe_returns_what_it_said():
    done = process.run((sys.executable, "-c", "print('hi'); raise SystemExit(3)"), 10)
    assert (done.exit_code, done.stdout, done.stderr) == (3, "hi\n", "")


def test_a_probe_of_nothing_is_127():
    assert process.run(("/no/such/program",), 1).exit_code == 127


def test_a_probe_that_hangs_is_killed_with_what_it_started():
    begun = time.monotonic()
    done = process.run(("/bin/sh", "-c", "sleep 60 & sleep 60"), 0.5)
    assert done.exit_code is None
    assert time.monotonic() - begun < 5


def test_a_process_name_may_hold_anything():
    text = "77 (a) b (c) S 1 70 70 0 -1 4194304 0 0 0 0 0 0 0 0 20 0 1 0 123456 0 0"
    entry = parse_stat(text)
    assert (entry.pid, entry.parent, entry.group, entry.is_zombie) == (77, 1, 70, False)
    assert entry.start.endswith(":123456")
    assert parse_stat("") is None


def test_ps_tells_the_same():
    text = subprocess.run(["ps", "-axo", "pid=,ppid=,pgid="], capture_output=True, text=True, check=True).stdout
    ours = read_entry(os.getpid())
    assert [ours.pid, ours.parent, ours.group] in [[int(word) for word in row.split()] for row in text.splitlines()]


def test_a_system_without_proc_finds_a_stage_too(spawn, monkeypatch):
    child, _ = spawn("leaves_a_grandchild.py", 60, ready="working")
    members = process.find_members(child)
    monkeypatch.setattr(process, "_ON_LINUX", False)
    start = read_entry(child.pid).start
    assert float(start) == pytest.approx(time.time(), abs=120)
    mac = Child(child.pid, child.pgid, start, child.token)
    assert process.is_alive(mac.pid, mac.start)
    assert process.find_members(mac) == members
