"""Each signal, to each process of a run, at each moment: one clear end, and a resume that loses and repeats nothing."""

from __future__ import annotations

import os
import signal
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import product

import pytest

from orchestrator.errors import InterruptedRunError, StageFailedError
from orchestrator.run.runs import summarise
from tests.process.recovery import assert_recovers, make_run

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGKILL)
TARGETS = ("orch", "launcher", "worker")
MOMENTS = ("first stage", "training", "checkpoint save", "last stage")


@dataclass(frozen=True)
class Fault:
    number: signal.Signals
    target: str
    moment: str
    forked: bool

    def __str__(self) -> str:
        return f"{self.number.name}-{self.target}-{self.moment.replace(' ', '-')}{'-forked' * self.forked}"


FAULTS = [
    Fault(number, target, moment, forked)
    for forked in (False, True)
    for moment in MOMENTS
    for number, target in [*product(SIGNALS, TARGETS), (signal.SIGKILL, "shell")]
]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    run = make_run(tmp_path_factory.mktemp("undisturbed"), step_s=0, save_s=0, work_s=0)
    run.resume()
    return run.result()


@pytest.fixture(scope="module")
def outcomes(request, tmp_path_factory, undisturbed):
    """Every fault that the collected tests ask for, some at a time: what takes long is waiting."""
    wanted = [
        item.callspec.params["fault"]
        for item in request.session.items
        if item.path == request.path and "fault" in getattr(item, "callspec", request).params
    ]
    with ThreadPoolExecutor(max_workers=6) as pool:
        yield {fault: pool.submit(do, fault, tmp_path_factory.mktemp("fault"), undisturbed) for fault in wanted}


def do(fault, root, undisturbed):
    run = make_run(root, forked=fault.forked)
    try:
        run.start(pause=fault.moment)
        stage = run.reaches(fault.moment)
        os.kill(run.pid_of(fault.target, stage), fault.number)
        code, said = run.end()
        assert "Traceback" not in said
        killed = fault.target == "orch" and fault.number == signal.SIGKILL
        if killed:
            assert (code, summarise(run.folder).status) == (-signal.SIGKILL, "dead")
        else:  # one message, and an end in order
            assert run.processes() == []
            assert said.count(stage) == 1
            stopped = fault.target == "orch"
            assert code == (InterruptedRunError if stopped else StageFailedError).exit_code, said
            assert summarise(run.folder).status == ("interrupted" if stopped else "failed")
        outcome = assert_recovers(run, undisturbed)
        if fault.moment == "checkpoint save" and fault.target == "worker":
            assert any("checkpoint-4 is not complete" in text for text in run.messages())
            assert "resumed at 2" in run.folder.stage(stage).stdout_log.read_text()
        return outcome
    finally:
        run.clean_up()


@pytest.mark.parametrize("fault", FAULTS, ids=str)
def test_a_fault_is_recovered_from(fault, outcomes):
    outcomes[fault].result()
