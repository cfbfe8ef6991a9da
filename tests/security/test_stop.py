"""`orch stop` ends what was started in that very folder by this user, whatever its files say."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import pytest

from orchestrator.errors import RunFolderError
from orchestrator.machine import process
from orchestrator.machine.process import TOKEN_VARIABLE, Child
from orchestrator.machine.rundir import RunDir
from orchestrator.recipe.plan import Plan
from orchestrator.run.folder import adopt_run
from orchestrator.run.runs import stop_run, summarise
from orchestrator.run.state import RunState, is_supervised, write_state
from orchestrator.run.stopping import StopTimeouts

QUICK = StopTimeouts(interrupt_s=2.0, terminate_s=2.0, kill_s=2.0)
HOLD = """
import sys, time
from pathlib import Path
from orchestrator.machine.rundir import RunDir
from orchestrator.run.state import held_lock
with held_lock(RunDir(Path(sys.argv[1]))):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def start() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Start processes that end with the test."""
    started: list[subprocess.Popen[str]] = []

    def start(*argv: object, **env: str) -> subprocess.Popen[str]:
        child = subprocess.Popen(
            list(map(str, argv)), stdout=subprocess.PIPE, text=True, env={**os.environ, **env}, start_new_session=True
        )
        started.append(child)
        return child

    yield start
    for child in started:
        child.kill()
        child.wait()


@pytest.fixture
def run(tmp_path) -> RunDir:
    """A run of this user's, whose state says that it is running."""
    run = RunDir(tmp_path / "run")
    run.root.mkdir()
    run.plan_json.write_text(Plan("t", str(run.root), "reranker", "fake", False, {}, (), ()).to_json())
    adopt_run(run)
    write_state(run, RunState("running", started=time.time()))
    return run


def identify(child: subprocess.Popen[str]) -> dict[str, object]:
    entry = process.read_entry(child.pid)
    assert entry is not None
    return {"pid": child.pid, "start": entry.start}


def test_the_stop_of_a_copy_leaves_the_original_alone(run, start, tmp_path):
    supervisor = start(sys.executable, "-c", HOLD, run.root)
    assert supervisor.stdout.readline() == "held\n"
    copy = RunDir(shutil.copytree(run.root, tmp_path / "copy"))
    assert is_supervised(run)
    assert not is_supervised(copy)
    assert summarise(copy).status == "dead"
    assert stop_run(copy, timeouts=QUICK) == "nothing runs"
    assert supervisor.poll() is None
    assert str(supervisor.pid) in stop_run(run, timeouts=QUICK)
    assert supervisor.wait(5) != 0


def test_a_copy_by_hard_links_is_a_copy(run, start, tmp_path):
    supervisor = start(sys.executable, "-c", HOLD, run.root)
    assert supervisor.stdout.readline() == "held\n"
    copy = RunDir(shutil.copytree(run.root, tmp_path / "copy", copy_function=os.link))
    with pytest.raises(RunFolderError, match="is a copy"):
        stop_run(copy, timeouts=QUICK)
    assert supervisor.poll() is None
    assert str(supervisor.pid) in stop_run(run, timeouts=QUICK)


@pytest.mark.parametrize("make", [os.link, os.symlink])
def test_a_foreign_folder_with_the_lock_of_ones_run_does_not_stop_it(run, start, tmp_path, make):
    supervisor = start(sys.executable, "-c", HOLD, run.root)
    assert supervisor.stdout.readline() == "held\n"
    theirs = RunDir(tmp_path / "theirs")
    theirs.root.mkdir()
    theirs.plan_json.write_text(Plan("t", str(theirs.root), "reranker", "fake", False, {}, (), ()).to_json())
    write_state(theirs, RunState("running", started=time.time()))
    make(run.lock, theirs.lock)
    with pytest.raises(RunFolderError):
        stop_run(theirs, timeouts=QUICK)
    assert supervisor.poll() is None


def test_where_nobody_shows_who_has_a_file_open_the_lock_itself_is_tried(run, start, tmp_path, monkeypatch):
    supervisor = start(sys.executable, "-c", HOLD, run.root)
    assert supervisor.stdout.readline() == "held\n"
    copy = RunDir(shutil.copytree(run.root, tmp_path / "copy"))
    monkeypatch.setattr(process, "has_open", lambda _pid, _path: None)
    assert is_supervised(run)
    assert not is_supervised(copy)


def test_a_process_that_a_foreign_lock_names_is_left_alone(run, start):
    bystander = start("sleep", "60")
    run.lock.write_text(json.dumps({**identify(bystander), "host": process.host(), "since": "today"}))
    assert not is_supervised(run)
    assert stop_run(run, timeouts=QUICK) == "nothing runs"
    assert bystander.poll() is None


def test_a_process_that_a_foreign_lock_names_is_left_alone_though_another_holds_the_lock(run, start):
    bystander = start("sleep", "60")
    holder = start(sys.executable, "-c", HOLD, run.root)
    assert holder.stdout.readline() == "held\n"
    run.lock.write_text(json.dumps({**identify(bystander), "host": process.host(), "since": "today"}))
    with pytest.raises(RunFolderError, match="busy"):
        stop_run(run, timeouts=QUICK)
    assert bystander.poll() is None


def test_a_process_that_a_foreign_state_names_is_left_alone(run, start):
    bystander = start("sleep", "60")
    known = identify(bystander)
    child = Child(bystander.pid, bystander.pid, str(known["start"]), "guessed")
    write_state(run, RunState("running", started=time.time(), stage="01-a", child=child))
    assert stop_run(run, timeouts=QUICK) == "nothing runs"
    assert bystander.poll() is None


def build_left(run: RunDir, child: subprocess.Popen[str]) -> RunState:
    """Return the state of a run whose supervisor is gone and whose stage is this process."""
    left = Child(child.pid, child.pid, str(identify(child)["start"]), "token-1")
    return RunState("running", started=time.time(), stage="01-a", child=left)


def test_what_a_dead_supervisor_left_is_ended_from_its_own_folder_and_from_no_copy(run, start, tmp_path):
    stage = start("sleep", "60", **{TOKEN_VARIABLE: "token-1"})
    write_state(run, build_left(run, stage))
    copy = RunDir(shutil.copytree(run.root, tmp_path / "copy"))
    with pytest.raises(RunFolderError, match="is a copy") as refused:
        stop_run(copy, timeouts=QUICK)
    assert refused.value.problems[0].hint == f"to end that run: orch stop {run.root}"
    assert stage.poll() is None
    assert "ended the 1 processes" in stop_run(run, timeouts=QUICK)
    assert stage.wait(5) is not None


def test_a_folder_of_somebody_else_ends_nothing_though_it_knows_the_token(run, start):
    stage = start("sleep", "60", **{TOKEN_VARIABLE: "token-1"})
    write_state(run, build_left(run, stage))
    run.seal.write_text("0" * 64)
    with pytest.raises(RunFolderError, match="was not made by you") as refused:
        stop_run(run, timeouts=QUICK)
    assert f"kill {stage.pid}" in refused.value.problems[0].hint
    assert stage.poll() is None
