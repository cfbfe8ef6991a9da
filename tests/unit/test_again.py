"""Which endings are tried again: the table, the fault of a rule, and how often."""

from __future__ import annotations

import json
import os
import signal

import pytest

from orchestrator.errors import OrchError, StageFailedError, StalledError, TakenAwayError
from orchestrator.logs.diagnose import load_rules
from orchestrator.logs.events import RunFinished, StageStarted, append_event
from orchestrator.machine.rundir import RunDir
from orchestrator.run.failures import AGAIN, NEVER, TRIES, count_tries, judge
from orchestrator.run.state import wait_for_lost_holder
from orchestrator.run.stopping import find_scheduler, is_taken_away


@pytest.fixture
def run(tmp_path):
    return RunDir(tmp_path)


def begin(run, *checkpoints, stage="04-train"):
    for number, checkpoint in enumerate(checkpoints, 1):
        append_event(run.events_jsonl, StageStarted(stage, 7, number, checkpoint))


def failed(name):
    return StageFailedError("it failed", hint="mend it", name=name)


def test_every_exit_code_of_orch_is_in_the_table_once():
    codes = {0, OrchError.exit_code, *(kind.exit_code for kind in OrchError.__subclasses__())}
    assert codes == {*AGAIN, *NEVER}
    assert not {*AGAIN} & {*NEVER}
    assert set(AGAIN) == {75, 7}


@pytest.mark.parametrize("kind", [kind for kind in OrchError.__subclasses__() if kind.exit_code not in (6, 7, 75)])
def test_what_a_repetition_cannot_mend_stays_what_it_is(run, kind):
    error = kind("no")
    assert judge(error, run) is error


@pytest.mark.parametrize("kind", [TakenAwayError, StalledError])
def test_a_run_that_was_taken_away_or_stalled_is_tried_again_some_times_only(run, kind):
    begin(run, *[None] * (TRIES - 1))
    assert judge(kind("again"), run).exit_code == kind.exit_code
    begin(run, None)
    given_up = judge(kind("again", hint="do"), run)
    assert given_up.exit_code == 6
    assert "5 attempts in a row" in str(given_up)
    assert given_up.problems[0].hint == "do"


@pytest.mark.parametrize("name", ["nccl-error", "gpu-failed", "peer-gone", "collective-timeout", "device-mismatch"])
def test_a_failed_device_or_connection_counts_as_taken_away(run, name):
    judged = judge(failed(name), run)
    assert isinstance(judged, TakenAwayError)
    assert judged.problems[0].hint == "mend it"
    begin(run, *[None] * TRIES)
    assert judge(failed(name), run).exit_code == 6


@pytest.mark.parametrize("name", ["cuda-out-of-memory", "killed", "not-finite", "exception", "a-later-version", None])
def test_a_failure_of_the_recipe_or_of_memory_is_not_tried_again(run, name):
    assert judge(failed(name), run).exit_code == 6


def test_memory_that_ran_out_is_no_fault_of_a_machine():
    named = {rule.name for rule in load_rules() if rule.fault}
    assert {rule.name for rule in load_rules() if rule.fault == "node"} == {"gpu-failed", "disk-failed"}
    assert not named & {"killed", "cuda-out-of-memory", "host-out-of-memory", "no-gpu"}


def test_a_node_that_is_at_fault_is_named_as_its_engine_names_it(run, monkeypatch):
    monkeypatch.setenv("SLURMD_NODENAME", "gpu-17")
    judge(failed("nccl-error"), run)
    assert not run.excluded_nodes.exists()
    judge(failed("gpu-failed"), run)
    assert run.excluded_nodes.read_text() == "gpu-17\n"


def test_of_several_nodes_none_is_blamed_unheard(run, monkeypatch):
    monkeypatch.setenv("SLURM_NNODES", "2")
    assert judge(failed("gpu-failed"), run).exit_code == 75
    assert not run.excluded_nodes.exists()


def test_whoever_gets_further_begins_to_count_anew(run):
    begin(run, None, None, None)
    assert count_tries(run) == 3
    begin(run, "checkpoint-5")
    assert count_tries(run) == 1
    begin(run, "checkpoint-5", stage="05-merge")
    assert count_tries(run) == 1


def test_an_attempt_that_the_user_stopped_ends_the_row(run):
    begin(run, None, None)
    append_event(run.events_jsonl, RunFinished("interrupted", 130))
    begin(run, None)
    assert count_tries(run) == 1


@pytest.mark.parametrize("variable", ["SLURM_JOB_ID", "KUBERNETES_SERVICE_HOST", "ORCH_PREEMPTIBLE"])
def test_only_in_the_job_of_an_engine_term_takes_a_run_away(monkeypatch, variable):
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    assert find_scheduler({}) is None
    assert not is_taken_away(signal.SIGTERM)
    monkeypatch.setenv(variable, "1")
    assert is_taken_away(signal.SIGTERM)
    assert not is_taken_away(signal.SIGINT)
    assert not is_taken_away(signal.SIGHUP)


def test_usr1_always_does():
    assert is_taken_away(signal.SIGUSR1)


class Clock:
    """Time that stands still but for what happens at each sleep."""

    def __init__(self, *happens):
        self.happens = list(happens)

    def sleep(self, _seconds):
        self.happens.pop(0)()


def write_lock(run, age_s=5):
    run.lock.write_text(json.dumps({"pid": 1, "start": "x", "host": "another-machine", "since": "today"}))
    seen = run.lock.stat().st_mtime - age_s
    os.utime(run.lock, (seen, seen))


def test_a_holder_on_a_lost_machine_is_waited_for_until_it_is_silent(run):
    write_lock(run)
    clock = Clock(lambda: None, lambda: write_lock(run, age_s=300))
    wait_for_lost_holder(run, clock)
    assert not clock.happens


def test_a_holder_on_another_machine_that_lives_is_not_waited_for_longer(run):
    write_lock(run)
    clock = Clock(lambda: write_lock(run, age_s=1), lambda: pytest.fail("waited for nothing"))
    wait_for_lost_holder(run, clock)
    assert len(clock.happens) == 1
