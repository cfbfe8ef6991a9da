"""A lock that a killed compilation left is removed; one that a living process may hold is not."""

from __future__ import annotations

import os
import subprocess
import sys

from orchestrator import process
from orchestrator.supervise.build_locks import VARIABLE, clear_stale_build_locks


def make_lock(folder):
    lock = folder / "deepspeed_shm_comm" / "lock"
    lock.parent.mkdir(parents=True)
    lock.touch()
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
