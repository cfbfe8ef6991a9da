"""A lock that a killed compilation left is removed; one that a living process may hold is not."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys

from orchestrator.machine import process
from orchestrator.machine.rundir import RunDir
from orchestrator.run.launching import VARIABLE, clear_stale_build_locks
from orchestrator.run.state import held_lock


def make_lock(folder):
    lock = folder / "deepspeed_shm_comm" / "lock"
    lock.parent.mkdir(parents=True)
    lock.touch()
    (lock.parent / "build.ninja").touch()
    return lock


def test_a_lock_that_nobody_can_hold_is_removed_and_said(tmp_path):
    lock = make_lock(tmp_path)
    notes = clear_stale_build_locks({VARIABLE: str(tmp_path)}, process)
    assert not lock.exists()
    assert str(lock) in notes[0]


def test_a_lock_stays_while_a_process_works_with_the_folder(tmp_path):
    lock = make_lock(tmp_path)
    env = {**os.environ, VARIABLE: str(tmp_path)}
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, env=env) as builder:
        assert clear_stale_build_locks({VARIABLE: str(tmp_path)}, process) == []
        assert lock.exists()
        builder.kill()


def test_a_folder_that_the_plan_does_not_name_is_never_touched(tmp_path):
    lock = make_lock(tmp_path)
    assert clear_stale_build_locks({}, process) == []
    assert lock.exists()


def test_a_lock_below_the_folder_of_one_python_is_removed_too(tmp_path):
    lock = make_lock(tmp_path / "py311_cpu")
    assert len(clear_stale_build_locks({VARIABLE: str(tmp_path)}, process)) == 1
    assert not lock.exists()


def test_what_is_called_lock_and_is_no_build_s_stays(tmp_path):
    """As where the folder of extensions is the folder of all runs."""
    runs = [RunDir(tmp_path / "runs" / name) for name in ("free", "held", "building")]
    for run in runs:
        run.root.mkdir(parents=True)
        run.plan_json.touch()
        with held_lock(run):
            pass
    (runs[2].root / "build.ninja").touch()  # a run's lock says who holds it: it is not empty
    deep = make_lock(tmp_path / "runs" / "a" / "b" / "c")
    bare = make_lock(tmp_path / "runs")
    (bare.parent / "build.ninja").unlink()
    outside = make_lock(tmp_path / "elsewhere")
    (tmp_path / "runs" / "link").symlink_to(outside.parent)
    with held_lock(runs[1]):
        assert clear_stale_build_locks({VARIABLE: str(tmp_path / "runs")}, process) == []
    assert all(path.exists() for path in (*(run.lock for run in runs), deep, bare, outside))


def test_a_lock_that_somebody_holds_stays(tmp_path):
    lock = make_lock(tmp_path)
    with lock.open() as stream:
        fcntl.flock(stream, fcntl.LOCK_SH)
        assert clear_stale_build_locks({VARIABLE: str(tmp_path)}, process) == []
    assert lock.exists()
