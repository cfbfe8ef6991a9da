from __future__ import annotations

import json
import os

import pytest

from orchestrator.errors import RunFolderError
from orchestrator.machine.rundir import RunDir
from orchestrator.run.state import held_lock, load_holder


@pytest.fixture
def run_dir(tmp_path):
    return RunDir(tmp_path)


def write_foreign_lock(run_dir, age_s):
    run_dir.lock.write_text(json.dumps({"pid": 1, "start": "x", "host": "another-machine", "since": "today"}))
    seen = run_dir.lock.stat().st_mtime - age_s
    os.utime(run_dir.lock, (seen, seen))


def test_a_lock_names_its_holder_and_can_be_taken_again(run_dir):
    with held_lock(run_dir):
        holder = load_holder(run_dir)
        assert holder.pid == os.getpid()
        assert holder.is_alive()
    with held_lock(run_dir):
        pass


def test_a_held_lock_is_refused(run_dir):
    with held_lock(run_dir), pytest.raises(RunFolderError, match=str(os.getpid())), held_lock(run_dir):
        pass


def test_a_supervisor_on_another_machine_that_shows_life_is_respected(run_dir):
    write_foreign_lock(run_dir, age_s=5)
    with pytest.raises(RunFolderError, match="another-machine"), held_lock(run_dir):
        pass


def test_a_supervisor_on_another_machine_that_fell_silent_is_gone(run_dir):
    write_foreign_lock(run_dir, age_s=300)
    with held_lock(run_dir):
        assert load_holder(run_dir).pid == os.getpid()


def test_a_damaged_lock_file_does_not_lock_anyone_out(run_dir):
    run_dir.lock.write_text("{")
    assert load_holder(run_dir) is None
    with held_lock(run_dir):
        assert load_holder(run_dir)
