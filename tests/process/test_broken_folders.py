"""Run folders that are full, read-only, gone, or hold damaged files: one clear message, and nothing lost but time."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator.errors import RunFolderError, StageFailedError
from orchestrator.run.runs import list_runs, stop_run, summarise
from orchestrator.run.state import explain_os_error, read_state
from tests.process.recovery import FIRST, LAST, QUICK, STEPS, TRAIN, assert_recovers, make_run

needs_root = pytest.mark.skipif(
    not sys.platform.startswith("linux") or os.geteuid() != 0, reason="only root on Linux can mount"
)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    run = make_run(tmp_path_factory.mktemp("undisturbed"), step_s=0, save_s=0, work_s=0)
    run.resume()
    return run.result()


@pytest.fixture
def run(tmp_path):
    run = make_run(tmp_path, step_s=0.02, save_s=0, work_s=0)
    yield run
    run.clean_up()


@pytest.fixture
def slow_run(tmp_path):
    run = make_run(tmp_path, step_s=0.2, save_s=0, work_s=0)
    yield run
    run.clean_up()


@pytest.fixture(scope="module")
def finished_once(tmp_path_factory):
    run = make_run(tmp_path_factory.mktemp("finished"), step_s=0, save_s=0, work_s=0)
    run.resume()
    kept = run.folder.root.with_name("kept")
    shutil.copytree(run.folder.root, kept)
    return run, kept


@pytest.fixture
def finished(finished_once):
    """A run whose training is over, and whose result is lost: what is left of it are its checkpoints."""
    run, kept = finished_once
    shutil.rmtree(run.folder.root)
    shutil.copytree(kept, run.folder.root)
    for name in ("result.json", "exit_code"):
        (run.folder.stage(TRAIN).root / name).unlink()
    return run


@contextlib.contextmanager
def mounted(folder, *options):
    folder.mkdir(parents=True, exist_ok=True)
    done = subprocess.run(["mount", *options, folder], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"cannot mount here: {done.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


def remount(folder, options):
    subprocess.run(["mount", "-o", f"remount,{options}", folder], check=True)


@needs_root
@pytest.mark.parametrize("size", ["40k", "60k", "76k", "92k", "108k"])
def test_a_full_disk_ends_the_run_and_space_is_all_that_a_resume_needs(run, undisturbed, size):
    """Sizes that fill up in the first writes, in a log, in a checkpoint, or in the last results."""
    with mounted(run.folder.root, "-t", "tmpfs", "-o", f"size={size}", "tmpfs"):
        with pytest.raises((RunFolderError, StageFailedError)) as caught:
            run.resume()
        problem = caught.value.problems[0]
        assert "space" in f"{problem.message} {problem.hint}"
        assert run.processes() == []
        remount(run.folder.root, "size=10m")
        assert_recovers(run, undisturbed)


@needs_root
def test_a_read_only_run_folder_is_refused_with_the_way_out(run, undisturbed):
    with mounted(run.folder.root, "-t", "tmpfs", "tmpfs"):
        run.resume()
        for stage in (TRAIN, LAST):
            run.folder.stage(stage).result_json.unlink()
            run.folder.stage(stage).exit_code.unlink()
        remount(run.folder.root, "ro")
        for act in (run.resume, lambda: stop_run(run.folder, timeouts=QUICK)):
            with pytest.raises(RunFolderError, match="Read-only file system") as caught:
                act()
            assert "writable" in caught.value.problems[0].hint
        assert summarise(run.folder).status == "done"
        remount(run.folder.root, "rw")
        assert_recovers(run, undisturbed)


@needs_root
def test_a_folder_that_becomes_read_only_under_a_training_ends_it_in_order(slow_run, undisturbed):
    with mounted(slow_run.folder.root, "-t", "tmpfs", "tmpfs"):
        slow_run.start(pause="training")
        slow_run.reaches("training")
        # a file that is open for writing forbids the remount: the lock is one, so the mount point alone is made so
        subprocess.run(["mount", "--bind", slow_run.output(), slow_run.output()], check=True)
        remount(slow_run.output(), "bind,ro")
        slow_run.go_on()
        code, said = slow_run.end()
        subprocess.run(["umount", slow_run.output()], check=True)
        assert code == StageFailedError.exit_code, said
        assert "Traceback" not in said
        assert slow_run.processes() == []
        assert_recovers(slow_run, undisturbed)


def test_a_folder_of_another_user_is_refused_with_the_way_out(run):
    if os.geteuid() == 0:
        error = PermissionError(13, "Permission denied", str(run.folder.lock))
        problem = explain_os_error(run.folder, error).problems[0]
    else:
        run.folder.root.mkdir()
        run.folder.root.chmod(0o500)
        with pytest.raises(RunFolderError) as caught:
            run.resume()
        problem = caught.value.problems[0]
    assert "Permission denied" in problem.message
    assert "-o" in problem.hint


def test_a_run_folder_that_is_removed_under_a_run_is_not_made_again(slow_run):
    slow_run.start(pause="training")
    slow_run.reaches("training")
    shutil.move(slow_run.folder.root, slow_run.folder.root.with_name("gone"))
    code, said = slow_run.end()
    assert code in (RunFolderError.exit_code, StageFailedError.exit_code)
    assert "Traceback" not in said
    assert not slow_run.folder.root.exists() or not slow_run.folder.state_json.exists()
    assert slow_run.processes() == []


def test_two_runs_at_once_the_second_is_refused_and_the_first_undisturbed(slow_run, undisturbed):
    slow_run.start(pause="training")
    slow_run.reaches("training")
    with pytest.raises(RunFolderError, match="busy: process"):
        slow_run.resume()
    slow_run.go_on()
    code, said = slow_run.end()
    assert (code, said) == (0, "")
    assert slow_run.result() == undisturbed


@pytest.mark.parametrize("content", ['{"status": "runn',
                                     '{"status": "running", "started": 1, "child": {"pid": "x"}}'])  # fmt: skip
def test_a_damaged_state_is_listed_and_a_resume_ends_what_it_no_longer_names(tmp_path, undisturbed, content):
    run = make_run(tmp_path, step_s=0.2, save_s=0, work_s=0)
    try:
        run.start(pause="training")
        run.reaches("training")
        os.kill(run.pid_of("orch", TRAIN), signal.SIGKILL)
        run.end()
        run.folder.state_json.write_text(content)
        assert [item.status for item in list_runs(tmp_path)] == ["damaged"]
        assert run.processes() != []
        assert_recovers(run, undisturbed)
        assert any("of an earlier attempt" in text for text in run.messages())
    finally:
        run.clean_up()


def test_stop_ends_what_a_damaged_state_no_longer_names(slow_run):
    slow_run.start(pause="training")
    slow_run.reaches("training")
    os.kill(slow_run.pid_of("orch", TRAIN), signal.SIGKILL)
    slow_run.end()
    slow_run.folder.state_json.write_text("{")
    assert "ended the" in stop_run(slow_run.folder, timeouts=QUICK)
    assert slow_run.processes() == []


GARBAGE = ["", "\0" * 40, "[]", '{"stage": 1, "exit_code": "0", "started": null}']


@pytest.mark.parametrize("garbage", GARBAGE)
def test_damaged_files_of_a_stage_cost_a_training_and_never_its_result(finished, undisturbed, garbage):
    folder = finished.folder.stage(TRAIN).root
    for name in ("result.json", "command.json", "exit_code", "stdout.log", "stderr.log"):
        (folder / name).write_text(garbage)
    finished.resume()
    assert finished.result() == undisturbed
    assert read_state(finished.folder).status == "done"


def test_damaged_events_are_passed_over(run, undisturbed):
    run.resume()
    with run.folder.events_jsonl.open("ab") as stream:
        stream.write(b'\xff\xfe{"type": ["x"]}\n{"t": null, "type": "step", "stage": "02-train"}\n' + b"[" * 100_000)
    assert_recovers(run, undisturbed)


def test_a_lost_result_of_a_finished_training_is_found_again_without_training(run, undisturbed):
    run.resume()
    run.folder.stage(TRAIN).result_json.unlink()
    outcome = assert_recovers(run, undisturbed)
    assert [item.status for item in outcome.stages] == ["skipped"] * 3


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 5)


def empty(path: Path) -> None:
    path.write_bytes(b"")


def flip(path: Path) -> None:
    """Flip a bit of what the archive holds: `[` for `{` or the like."""
    content = bytearray(path.read_bytes())
    content[30 + len("archive/data.pkl")] ^= 1  # behind the first local header
    path.write_bytes(content)


def zeros(path: Path) -> None:
    path.write_bytes(b"\0" * path.stat().st_size)


@pytest.mark.parametrize(
    ("name", "damage", "why"),
    [
        ("adapter_model.safetensors", cut, "is cut off"),
        ("adapter_model.safetensors", empty, "is cut off"),
        ("adapter_model.safetensors", zeros, "is cut off"),
        ("adapter_model.safetensors", Path.unlink, "holds no weights"),
        ("optimizer.pt", cut, "is cut off"),
        ("optimizer.pt", empty, "is empty"),
        ("optimizer.pt", flip, "is damaged"),
        ("optimizer.pt", zeros, "is damaged"),
        ("optimizer.pt", Path.unlink, "optimizer.pt is missing"),
        ("scheduler.pt", Path.unlink, "scheduler.pt is missing"),
        ("rng_state.pth", Path.unlink, "rng_state.pth is missing"),
        ("trainer_state.json", cut, "trainer_state.json is missing or cut off"),
        ("trainer_state.json", Path.unlink, "trainer_state.json is missing or cut off"),
    ],
)
def test_the_newest_whole_checkpoint_is_continued(finished, undisturbed, name, damage, why):
    newest = finished.output() / f"checkpoint-{STEPS}"
    damage(newest / name)
    assert_recovers(finished, undisturbed)
    assert any(f"checkpoint-{STEPS} is not complete" in text and why in text for text in finished.messages())
    assert f"resumed at {STEPS - 2}" in finished.folder.stage(TRAIN).stdout_log.read_text()
    aside = finished.folder.stage(TRAIN).root / f"checkpoint-{STEPS}.attempt-1"
    assert aside.is_dir()  # kept, out of the trainer's sight


def test_the_end_of_a_training_is_done_again_from_the_checkpoint_before(finished, undisturbed):
    """Some trainers write less when they have no step to take."""
    (finished.output() / "last").symlink_to(f"checkpoint-{STEPS}")
    assert_recovers(finished, undisturbed)
    assert f"resumed at {STEPS - 2}" in finished.folder.stage(TRAIN).stdout_log.read_text()
    assert not (finished.output() / "last").is_symlink()  # a trainer that makes its links with symlink() would fail


def test_what_a_killed_supervisor_was_just_writing_is_removed(run, undisturbed):
    run.resume()
    for folder in (run.folder.root, run.folder.stage(FIRST).root):
        (folder / ".state.json.x1.part").write_text("{")
    assert_recovers(run, undisturbed)
