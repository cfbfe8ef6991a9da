"""Whoever is killed, whenever: the next call finishes the run, repeats nothing that was done, and leaves no orphan."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator.errors import RunFolderError, StageFailedError
from orchestrator.logs.events import Message, StageStarted, Step, load_events
from orchestrator.machine import process
from orchestrator.machine.process import read_table
from orchestrator.machine.rundir import RunDir
from orchestrator.recipe.plan import Command, Stage
from orchestrator.run.loop import run_plan
from orchestrator.run.runs import follow_logs, list_runs, stop_run, summarise
from orchestrator.run.state import is_supervised, load_launch, load_result, read_state
from orchestrator.run.stopping import StopTimeouts

QUICK = StopTimeouts(2.0, 1.0, 3.0)
WAIT_S = 40.0


@pytest.fixture(params=[False, True], ids=["alone", "forked"])
def plan(request, make_stage, make_plan, make_training):
    """Where another process drives it, the training is a process like any other, or the fork of a resident one."""
    stages = make_stage("01-prepare"), make_training(workers=1), make_stage("03-report")
    return make_plan(*stages, forked=request.param)


@pytest.fixture
def drive_paused(drive, pause):
    """Drive a run whose training waits after a checkpoint, until it is resumed or told to go on."""

    def drive_paused(plan, moment="saved-2"):
        pause(moment)
        return drive(plan)

    return drive_paused


@pytest.fixture
def resume(run_dir, go_on):
    def resume(plan, **more):
        if "listener" not in more:
            go_on()
        return run_plan(plan, run_dir, timeouts=QUICK, poll_s=0.05, **more)

    return resume


def stdout_of(run_dir, name="02-train"):
    return run_dir.stage(name).stdout_log.read_text()


def started(run_dir, name="02-train"):
    return [e for e in load_events(run_dir.events_jsonl) if isinstance(e, StageStarted) and e.stage == name]


def messages(run_dir):
    return [event.text for event in load_events(run_dir.events_jsonl) if isinstance(event, Message)]


def orphans(run_dir):
    """Every process of any attempt of this run, by the folder in its command line."""
    found = []
    for pid in read_table():
        try:
            words = Path(f"/proc/{pid}/cmdline").read_bytes()
        except OSError:
            continue
        if str(run_dir.stage("02-train").output).encode() in words:
            found.append(pid)
    return found


def saw_checkpoint(run_dir, step=2):
    return (run_dir.stage("02-train").output / f"checkpoint-{step}" / "trainer_state.json").exists()


def worker_pid(run_dir):
    return int((run_dir.stage("02-train").output / "worker.pid").read_text())


def test_a_whole_run(plan, run_dir, resume):
    outcome = resume(plan)
    assert [stage.status for stage in outcome.stages] == ["done"] * 3
    assert len([event for event in load_events(run_dir.events_jsonl) if isinstance(event, Step)]) == 10
    assert summarise(run_dir).status == "done"
    assert orphans(run_dir) == []
    again = resume(plan)
    assert [stage.status for stage in again.stages] == ["skipped"] * 3


def test_orch_killed_midway_its_training_is_adopted(plan, run_dir, drive_paused, child_of, wait_until, resume, go_on):
    driver = drive_paused(plan)
    child = child_of()
    wait_until(lambda: saw_checkpoint(run_dir))
    driver.kill()
    driver.wait()
    assert process.is_alive(child.pid, child.start)
    assert [run.status for run in list_runs(run_dir.root.parent)] == ["dead"]
    done_before = run_dir.stage("01-prepare").result_json.stat().st_mtime_ns

    def go_on_when_adopted(event):
        if isinstance(event, Message) and "still runs" in event.text:
            go_on()

    outcome = resume(plan, listener=go_on_when_adopted)

    assert [stage.status for stage in outcome.stages] == ["skipped", "done", "done"]
    assert run_dir.stage("01-prepare").result_json.stat().st_mtime_ns == done_before
    assert len(started(run_dir)) == 1
    assert any("still runs" in text for text in messages(run_dir))
    losses = [event.loss for event in load_events(run_dir.events_jsonl) if isinstance(event, Step)]
    assert losses == [float(f"{1 / step:.4g}") for step in range(1, 11)]
    assert orphans(run_dir) == []


def test_orch_killed_and_the_training_ends_well_unwatched(
    plan, run_dir, drive_paused, child_of, wait_until, resume, go_on
):
    driver = drive_paused(plan)
    child = child_of()
    wait_until(lambda: started(run_dir))  # it is written after the child is known
    driver.kill()
    driver.wait()
    go_on()
    wait_until(lambda: not process.is_alive(child.pid, child.start))
    outcome = resume(plan)
    assert [stage.status for stage in outcome.stages] == ["skipped", "skipped", "done"]
    assert load_result(run_dir.stage("02-train")).exit_code == 0
    assert len(started(run_dir)) == 1


LEAVES_SOMEBODY = """
import pathlib, subprocess, sys, time
while not pathlib.Path("go").exists():
    time.sleep(0.02)
subprocess.Popen(["sleep", "60"], start_new_session=True)
out = pathlib.Path(sys.argv[1])
out.parent.mkdir(exist_ok=True)
out.write_text("done")
"""


@pytest.mark.parametrize("stopped_first", [False, True])
def test_a_stage_that_ended_well_unwatched_is_done_though_it_left_somebody(
    make_plan, make_stage, run_dir, drive, child_of, wait_until, resume, stopped_first
):
    plan = make_plan(make_stage("02-train", LEAVES_SOMEBODY), make_stage("03-report"))
    driver = drive(plan)
    child = child_of()
    driver.kill()
    driver.wait()
    (run_dir.root / "go").touch()
    wait_until(lambda: not process.is_alive(child.pid, child.start))
    assert len(process.find_members(child)) == 1
    if stopped_first:
        assert "ended the 1 processes" in stop_run(run_dir, timeouts=QUICK)
    outcome = resume(plan)
    assert [stage.status for stage in outcome.stages] == ["skipped", "done"]
    assert process.find_members(child) == ()


def test_orch_and_worker_killed_one_resume_is_enough(plan, run_dir, drive_paused, child_of, wait_until, resume):
    driver = drive_paused(plan)
    child_of()
    wait_until(lambda: saw_checkpoint(run_dir))
    driver.kill()
    driver.wait()
    os.kill(worker_pid(run_dir), signal.SIGKILL)

    outcome = resume(plan)

    assert [stage.status for stage in outcome.stages] == ["skipped", "done", "done"]
    assert started(run_dir)[1].resumed_from
    assert orphans(run_dir) == []


def test_orch_and_launcher_killed_the_worker_is_ended_and_the_checkpoint_continued(
    plan, run_dir, drive_paused, child_of, wait_until, resume
):
    driver = drive_paused(plan)
    child = child_of()
    wait_until(lambda: saw_checkpoint(run_dir))
    driver.kill()
    driver.wait()
    worker = worker_pid(run_dir)
    os.killpg(child.pgid, signal.SIGKILL)
    wait_until(lambda: process.find_members(child) == (worker,))  # a killed launcher is there until the kernel is done

    outcome = resume(plan)

    assert outcome.stages[1].attempts == 2
    assert started(run_dir)[1].resumed_from.split("/")[-1].startswith("checkpoint-")
    assert any(f"ends processes {worker}" in text for text in messages(run_dir))
    assert "resumed at" in stdout_of(run_dir)
    assert orphans(run_dir) == []


def test_launcher_killed_under_a_living_orch(plan, run_dir, drive_paused, child_of, wait_until, resume):
    driver = drive_paused(plan)
    child = child_of()
    wait_until(lambda: saw_checkpoint(run_dir))
    os.killpg(child.pgid, signal.SIGKILL)
    assert driver.wait(WAIT_S) == StageFailedError.exit_code
    assert read_state(run_dir).reason == "killed"
    assert orphans(run_dir) == []
    assert any("outlived the stage" in text for text in messages(run_dir))
    assert resume(plan).stages[1].attempts == 2


def test_worker_killed_under_a_living_orch(plan, run_dir, drive_paused, child_of, wait_until, resume):
    driver = drive_paused(plan)
    child_of()
    wait_until(lambda: saw_checkpoint(run_dir))
    os.kill(worker_pid(run_dir), signal.SIGKILL)
    assert driver.wait(WAIT_S) == StageFailedError.exit_code
    assert read_state(run_dir).reason == "killed"
    outcome = resume(plan)
    assert [stage.status for stage in outcome.stages] == ["skipped", "done", "done"]
    assert started(run_dir)[1].resumed_from


def test_a_schedulers_term_to_every_process_leaves_the_checkpoint(
    plan, run_dir, drive_paused, child_of, wait_until, resume, monkeypatch
):
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    driver = drive_paused(plan)
    child = child_of()
    wait_until(lambda: saw_checkpoint(run_dir))
    process.signal_pids((*process.find_members(child), driver.pid), signal.SIGTERM)
    assert driver.wait(WAIT_S) == 75
    assert orphans(run_dir) == []
    assert resume(plan).stages[1].attempts == 2
    assert started(run_dir)[1].resumed_from


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_stop_signal_ends_the_run_resumably(plan, run_dir, drive_paused, child_of, wait_until, resume, number):
    driver = drive_paused(plan)
    child_of()
    wait_until(lambda: saw_checkpoint(run_dir))
    os.kill(driver.pid, number)
    assert driver.wait(WAIT_S) == 130
    assert orphans(run_dir) == []
    assert summarise(run_dir).status == "interrupted"
    assert resume(plan).stages[1].attempts == 2
    assert "resumed at" in stdout_of(run_dir)


def test_a_second_signal_kills_at_once(make_plan, make_stage, run_dir, drive, child_of, wait_until):
    script = Path(__file__).parent / "bad_children" / "ignores_interrupt_and_terminate.py"
    driver = drive(make_plan(make_stage("02-train", script=script)), 60)
    child = child_of()
    wait_until(lambda: "ready" in stdout_of(run_dir))
    os.kill(driver.pid, signal.SIGINT)
    assert not ended_within(driver, 0.5)
    # a slow machine may take two signals for one; without a second the ladder would wait for 60 s
    for _ in range(10):
        os.kill(driver.pid, signal.SIGINT)
        if ended_within(driver, 4):
            break
    assert driver.returncode == 130
    assert process.find_members(child) == ()


def ended_within(driver, seconds):
    with contextlib.suppress(subprocess.TimeoutExpired):
        driver.wait(seconds)
    return driver.returncode is not None


def test_a_busy_run_folder_is_refused_with_the_way_out(plan, run_dir, drive_paused, child_of, resume):
    driver = drive_paused(plan)
    child_of()
    before = run_dir.state_json.read_bytes()
    with pytest.raises(RunFolderError, match=f"busy: process {driver.pid}") as caught:
        resume(plan)
    assert "orch stop" in caught.value.problems[0].hint
    assert run_dir.state_json.read_bytes() == before
    assert is_supervised(run_dir)
    assert driver.wait(WAIT_S) == 0


def test_the_stage_does_not_hold_the_lock_of_its_dead_orch(plan, run_dir, drive_paused, child_of):
    driver = drive_paused(plan)
    child = child_of()
    driver.kill()
    driver.wait()
    assert process.is_alive(child.pid, child.start)
    with run_dir.lock.open() as stream:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_stop_run_asks_the_supervisor(plan, run_dir, drive_paused, child_of):
    driver = drive_paused(plan)
    child_of()
    assert str(driver.pid) in stop_run(run_dir)
    assert driver.wait(WAIT_S) == 130
    assert orphans(run_dir) == []
    assert stop_run(run_dir) == "nothing runs"


def test_stop_run_ends_what_a_dead_supervisor_left(plan, run_dir, drive_paused, child_of, wait_until):
    driver = drive_paused(plan)
    child_of()
    wait_until(lambda: worker_pid(run_dir))
    driver.kill()
    driver.wait()
    assert "ended the 3 processes" in stop_run(run_dir, timeouts=QUICK)
    assert orphans(run_dir) == []
    assert summarise(run_dir).status == "interrupted"


def test_logs_are_followed_until_the_run_is_over(plan, run_dir, drive, child_of):
    driver = drive(plan)
    child_of()
    lines = [line for line in follow_logs(run_dir, "02-train") if line.stream == "stdout"]
    assert driver.wait(WAIT_S) == 0
    assert len(lines) == 11
    assert "train_runtime" in lines[-1].text
    with pytest.raises(RunFolderError, match="no stage 09-x"):
        list(follow_logs(run_dir, "09-x"))


def test_an_incomplete_newest_checkpoint_is_passed_over(plan, run_dir, drive_paused, child_of, wait_until, resume):
    driver = drive_paused(plan, "saved-4")
    child_of()
    wait_until(lambda: saw_checkpoint(run_dir, 4))
    os.kill(driver.pid, signal.SIGTERM)
    driver.wait(WAIT_S)
    output = run_dir.stage("02-train").output
    newest = max(output.glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))
    (newest / "trainer_state.json").write_text("")
    broken = output / "checkpoint-99"
    broken.mkdir()
    # the fake trainer, like the real ones, refuses nothing: the choice must be right before the launch
    (output / newest.name).rename(output / "checkpoint-98")
    resume(plan)
    assert started(run_dir)[1].resumed_from.endswith(f"checkpoint-{int(newest.name.split('-')[1]) - 2}")
    assert sum("is not complete" in text for text in messages(run_dir)) == 2


def test_without_a_checkpoint_the_output_is_put_aside_and_the_training_starts_fresh(
    make_plan, make_training, run_dir, resume
):
    plan = make_plan(make_training())
    output = run_dir.stage("02-train").output
    output.mkdir(parents=True)
    (output / "notes.txt").write_text("mine")
    resume(plan)
    assert (output.with_name("output.attempt-0") / "notes.txt").read_text() == "mine"
    assert not (output / "notes.txt").exists()
    assert "resumed" not in stdout_of(run_dir)


def test_another_learning_rate_does_not_continue_the_old_checkpoint(make_plan, make_training, run_dir, resume):
    resume(make_plan(make_training(steps=4, step_s=0)))
    resume(make_plan(make_training(steps=6, step_s=0)))
    assert "resumed" not in stdout_of(run_dir)
    assert (run_dir.stage("02-train").root / "output.attempt-1" / "checkpoint-4").is_dir()
    assert load_launch(run_dir.stage("02-train")).attempt == 2


def test_a_run_with_another_plan_ends_the_old_training_first(
    plan, make_plan, make_training, run_dir, drive_paused, child_of, resume
):
    driver = drive_paused(plan)
    old = child_of()
    driver.kill()
    driver.wait()
    resume(make_plan(plan.stages[0], make_training(steps=2, step_s=0)))
    assert process.find_members(old) == ()
    assert orphans(run_dir) == []


COPY = """
import pathlib, sys
target = pathlib.Path(sys.argv[2])
target.parent.mkdir(parents=True, exist_ok=True)
target.write_text(pathlib.Path(sys.argv[1]).read_text())
"""


def copying_stage(name, origin, target, **more):
    command = Command((sys.executable, "-c", COPY, str(origin), str(target)))
    return Stage(name, "work", name, command, outputs=(str(target),), **more)


def test_a_changed_input_runs_the_stages_that_read_it_again_and_no_others(make_plan, make_stage, run_dir, resume):
    source = run_dir.root.with_name("data.jsonl")
    source.write_text("1")
    first, third = (run_dir.stage(name).output / "x" for name in ("01-a", "03-c"))
    plan = make_plan(
        copying_stage("01-a", source, first, inputs=(str(source),)),
        make_stage("02-b"),
        copying_stage("03-c", first, third),  # reads an earlier output, though it does not declare it
    )
    resume(plan)
    source.write_text("2")
    outcome = resume(plan)
    assert [item.status for item in outcome.stages] == ["done", "skipped", "done"]
    assert third.read_text() == "2"
    source.touch()
    assert {item.status for item in resume(plan).stages} == {"skipped"}


def test_a_lost_output_is_made_again(make_plan, make_stage, run_dir, resume):
    plan = make_plan(make_stage("01-a"), make_stage("02-b"))
    resume(plan)
    (run_dir.root / plan.stages[0].outputs[0]).unlink()
    assert [item.status for item in resume(plan).stages] == ["done", "skipped"]


def test_a_moved_run_is_refused(plan, tmp_path):
    with pytest.raises(RunFolderError, match="was made for"):
        run_plan(plan, RunDir(tmp_path / "elsewhere"))


SHOW_LENGTH = """
import os, pathlib, sys
path = pathlib.Path(sys.argv[1])
path.parent.mkdir()
path.write_text(str(len(os.environ["HUGGING_FACE_HUB_TOKEN"])))
"""


def test_secrets_of_the_environment_are_not_written(make_plan, make_stage, run_dir, resume):
    resume(make_plan(make_stage("01-a", SHOW_LENGTH, env=(("HF_TOKEN", "hf_abc123"), ("MODE", "x")))))
    assert (run_dir.stage("01-a").output / "out.txt").read_text() == "9"
    for name in ("command.json", "command.sh"):
        text = (run_dir.stage("01-a").root / name).read_text()
        assert "hf_abc123" not in text
        assert "MODE" in text


def test_the_supervisor_is_light(plan, run_dir, drive_paused, child_of, wait_until, go_on):
    driver = drive_paused(plan)
    child_of()
    wait_until(lambda: saw_checkpoint(run_dir))
    rows = dict(line.split(":", 1) for line in Path(f"/proc/{driver.pid}/status").read_text().splitlines())
    assert int(rows["VmRSS"].split()[0]) < 80_000  # kB
    maps = Path(f"/proc/{driver.pid}/maps").read_text()
    assert "torch" not in maps
    go_on()
    assert driver.wait(WAIT_S) == 0


def test_every_file_of_a_finished_run_is_whole_json(plan, run_dir, resume):
    resume(plan)
    files = [run_dir.state_json, run_dir.plan_json, *run_dir.root.glob("stages/*/*.json")]
    assert len(files) == 8
    for path in files:
        json.loads(path.read_text())
    assert not list(run_dir.root.rglob("*.part"))
