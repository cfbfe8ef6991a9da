"""Real children that hang or run out of memory, and what the supervisor does about them."""

from __future__ import annotations

import stat
import sys
import time
from pathlib import Path

import pytest
from msgspec.structs import replace

from orchestrator.errors import StageFailedError, StalledError
from orchestrator.logs.events import Message, StageFinished, StageStarted, load_events
from orchestrator.machine import process
from orchestrator.machine.process import read_table
from orchestrator.recipe.plan import Fallback, Resume
from orchestrator.run.loop import run_plan
from orchestrator.run.state import load_launch, read_state
from orchestrator.run.stopping import StopTimeouts
from tests.process.conftest import BAD

QUICK = StopTimeouts(0.3, 0.3, 3.0)
POLL_S = 0.02
STALL_S = 50.0
DUMPS = ("PYTHONFAULTHANDLER", "1")


class ClockThatLeapsWhen:
    """Real time until `hangs` says so; from then on each look of the supervisor comes 10 s after the one before."""

    def __init__(self, hangs):
        self.hangs = hangs
        self.leapt = 0.0

    def time(self):
        return time.time()

    def monotonic(self):
        return time.monotonic() + self.leapt

    def sleep(self, seconds):
        time.sleep(seconds)
        if seconds == POLL_S and self.hangs():
            self.leapt += 10


@pytest.fixture
def hangs(run_dir):
    """Tell whether the trainer has come to its third step, and a process of it is suspended."""

    def hangs():
        child = read_state(run_dir).child
        log = run_dir.stage("01-train").stderr_log
        if not child or not child.pid or not log.exists() or "3/" not in log.read_text():
            return False
        return bool(process.find_suspended(process.find_members(child)))

    return hangs


@pytest.fixture
def watch(run_dir, hangs):
    def watch(plan, **more):
        clock = ClockThatLeapsWhen(hangs)
        return run_plan(plan, run_dir, timeouts=QUICK, poll_s=POLL_S, stall_s=STALL_S, clock=clock, **more)

    return watch


class WithoutSpy:
    """The real processes on a machine without py-spy."""

    def __getattr__(self, name):
        return getattr(process, name)

    def find_spy(self, _python):
        return None


@pytest.fixture
def hanging(make_stage):
    def make(*args):
        return make_stage("01-train", script=BAD / "hangs.py", args=args, env=(DUMPS,))

    return make


@pytest.mark.parametrize("args", [(), ("--redraws",)])
def test_a_hanging_stage_shows_where_it_hangs_and_who_is_suspended_and_leaves_nobody(
    watch, hanging, make_plan, run_dir, args
):
    with pytest.raises(StalledError) as caught:
        watch(make_plan(hanging(*args)), processes=WithoutSpy())
    problem = caught.value.problems[0]
    said = run_dir.stage("01-train").stderr_log.read_bytes().decode()
    assert "01-train said nothing new for 50 s, since 2" in problem.message
    assert "at 3 of 10" in problem.message
    suspended = [line for line in problem.message.splitlines() if "is stopped (state T)" in line]
    assert len(suspended) == 1
    assert said.count("Fatal Python error: Aborted") == 3  # the launcher and both workers, one after the other
    if not args:
        assert "in wait_for_the_other_rank" in said
    assert problem.where.path.endswith("01-train/stderr.log")
    assert "Fatal Python error" in said.split("\n")[problem.where.line - 1]
    assert "orch resume" in problem.hint
    assert [e.status for e in load_events(run_dir.events_jsonl) if isinstance(e, StageFinished)] == ["stalled"]
    assert read_state(run_dir).exit_code == 7
    assert not [pid for pid in read_table() if str(run_dir.root) in command_of(pid)]


def command_of(pid):
    try:
        return Path(f"/proc/{pid}/cmdline").read_text(errors="replace")
    except OSError:
        return ""


def test_py_spy_is_asked_where_it_is_installed_and_kills_nobody(watch, hanging, make_plan, run_dir, tmp_path):
    spy = tmp_path / "py-spy"
    spy.write_text('#!/bin/sh\ncase "$*" in *--nonblocking*) exit 1;; esac\necho "Process $3: python hangs.py"\n')
    spy.chmod(spy.stat().st_mode | stat.S_IXUSR)

    class WithSpy(WithoutSpy):
        def find_spy(self, _python):
            return str(spy)

    with pytest.raises(StalledError) as caught:
        watch(make_plan(hanging()), processes=WithSpy())
    stacks = run_dir.stage("01-train").stacks_txt
    assert "python hangs.py" in stacks.read_text()
    assert caught.value.problems[0].where.path == str(stacks)
    assert "Fatal Python error" not in run_dir.stage("01-train").stderr_log.read_text()


def test_py_spy_is_found_beside_the_backends_python(tmp_path):
    spy = tmp_path / "py-spy"
    spy.write_text("")
    assert process.find_spy(str(tmp_path / "python")) == str(spy)


def test_a_suspended_trainer_is_stopped_and_goes_on_where_it_was(watch, make_training, make_plan, run_dir):
    stage = make_training("01-train", workers=1, step_s=0.01, steps=8, env=(DUMPS,))
    argv = (sys.executable, str(BAD / "suspends_itself.py"), *stage.command.argv[2:])
    plan = make_plan(replace(stage, command=replace(stage.command, argv=argv)))
    with pytest.raises(StalledError, match=r"is stopped \(state T\)"):
        watch(plan, processes=WithoutSpy())
    assert watch(plan).exit_code == 0
    starts = [event for event in load_events(run_dir.events_jsonl) if isinstance(event, StageStarted)]
    assert [start.resumed_from and start.resumed_from[-1] for start in starts] == [None, "4"]


@pytest.fixture
def make_greedy(make_stage, run_dir):
    """A training in batches of 4, with smaller ones to fall back on, on a machine that holds `fits` rows."""

    def make(fits, *, fallbacks=True, resumable=True):
        def words(batch):
            output = run_dir.stage("02-train").output
            sizes = ["--per_device_train_batch_size", batch, "--gradient_accumulation_steps", 4 // batch]
            trainer = ["--output_dir", output, "--steps", 6, "--step_s", 0.01]
            return [fits, *sizes, *trainer]

        script = BAD / "runs_out_of_memory.py"
        smaller = [
            Fallback(f"batch {batch}", (sys.executable, str(script), *map(str, words(batch))), "") for batch in (2, 1)
        ]
        return make_stage(
            "02-train",
            script=script,
            args=words(4),
            kind="train",
            outputs=("stages/02-train/output/adapter_model.safetensors",),
            resume=Resume("--resume_from_checkpoint", "stages/02-train/output") if resumable else None,
            fallbacks=tuple(smaller) if fallbacks else (),
        )

    return make


def texts_of(run_dir, kind=Message):
    return [event.text for event in load_events(run_dir.events_jsonl) if isinstance(event, kind)]


def test_a_training_that_runs_out_of_memory_goes_on_from_its_checkpoint_in_smaller_batches(
    watch, make_greedy, make_plan, run_dir
):
    outcome = watch(make_plan(make_greedy(fits=2)))
    assert (outcome.exit_code, outcome.stages[0].attempts) == (0, 2)
    said = run_dir.stage("02-train").stdout_log.read_text()
    assert "batch 4 x 1" in said
    assert "batch 2 x 2\nresumed at 4" in said
    assert "memory ran out: it goes on with batch 2" in texts_of(run_dir)
    statuses = [e.status for e in load_events(run_dir.events_jsonl) if isinstance(e, StageFinished)]
    assert statuses == ["out-of-memory", "done"]
    assert load_launch(run_dir.stage("02-train")).fallback == 1


def test_a_training_without_resume_starts_anew_in_smaller_batches(watch, make_greedy, make_plan, run_dir):
    watch(make_plan(make_greedy(fits=2, resumable=False)))
    assert "the training starts anew: its trainer cannot continue what it has saved" in texts_of(run_dir)
    assert "resumed" not in run_dir.stage("02-train").stdout_log.read_text()


def test_at_the_end_of_the_ladder_the_error_says_what_was_tried_and_a_resumed_run_stays_there(
    watch, make_greedy, make_plan, run_dir
):
    plan = make_plan(make_greedy(fits=0))
    with pytest.raises(StageFailedError, match="GPU has not enough memory") as caught:
        watch(plan)
    assert "smaller batches were tried, and failed too: batch 2; batch 1" in caught.value.problems[0].message
    assert read_state(run_dir).reason == "out-of-memory"
    with pytest.raises(StageFailedError):
        watch(plan)
    said = run_dir.stage("02-train").stdout_log.read_text().splitlines()
    sizes = [line.removeprefix("batch ") for line in said if line.startswith("batch")]
    assert sizes == ["4 x 1", "2 x 2", "1 x 4", "1 x 4"]


def test_without_fallbacks_the_first_failure_ends_the_run(watch, make_greedy, make_plan, run_dir):
    with pytest.raises(StageFailedError) as caught:
        watch(make_plan(make_greedy(fits=2, fallbacks=False)))
    assert "tried" not in caught.value.problems[0].message
    starts = [event for event in load_events(run_dir.events_jsonl) if isinstance(event, StageStarted)]
    assert len(starts) == 1
