"""Run folders: whom they belong to, and what a hostile one cannot do."""

from __future__ import annotations

import os
import stat

import pytest

from orchestrator.cli import main
from orchestrator.errors import OrchError
from orchestrator.machine.files import write_text
from orchestrator.machine.rundir import RunDir
from orchestrator.recipe.plan import Command, Stage
from orchestrator.run.folder import find_run
from orchestrator.run.resume import prepare_attempt
from orchestrator.run.runs import follow_logs
from orchestrator.run.state import held_lock


@pytest.fixture
def umask():
    """Set the umask as a user's shell does; put it back afterwards."""
    before = os.umask(0o022)
    yield os.umask
    os.umask(before)


@pytest.mark.parametrize(
    ("mask", "folder_mode", "file_mode"), [(0o000, 0o755, 0o644), (0o002, 0o755, 0o644), (0o077, 0o700, 0o600)]
)
def test_nobody_else_may_write_a_run_folder_whatever_the_umask(
    folder, umask, monkeypatch, mask, folder_mode, file_mode
):
    umask(mask)
    monkeypatch.chdir(folder)
    with pytest.raises(SystemExit) as ended:
        main(["render", "recipe.yaml", "-o", "out"])
    assert ended.value.code == 0
    modes = {
        (path.is_dir(), stat.S_IMODE(path.stat().st_mode)) for path in [folder / "out", *(folder / "out").rglob("*")]
    }
    assert modes == {(True, folder_mode), (False, file_mode)}


def test_a_file_is_written_beside_and_renamed_so_a_link_in_its_place_is_replaced_and_not_followed(tmp_path):
    outside = tmp_path / "outside"
    outside.write_text("mine")
    (tmp_path / "state.json").symlink_to(outside)
    write_text(tmp_path / "state.json", "{}")
    assert (outside.read_text(), (tmp_path / "state.json").is_symlink()) == ("mine", False)


def test_a_lock_that_is_a_link_is_not_followed(tmp_path):
    outside = tmp_path / "outside"
    outside.write_text("mine")
    run = RunDir(tmp_path / "run")
    run.root.mkdir()
    run.lock.symlink_to(outside)
    with pytest.raises(OrchError), held_lock(run):
        pass
    assert outside.read_text() == "mine"


def test_leftovers_outside_the_run_folder_are_never_removed(tmp_path):
    outside = tmp_path / "outside"
    (outside / "model").mkdir(parents=True)
    (outside / "model" / "weights").write_text("mine")
    run = RunDir(tmp_path / "run")
    run.root.mkdir()
    run.model.symlink_to(outside / "model")
    stage = Stage(
        "01-a", "package", "a", Command(("true",), (), "."), outputs=("model", "../outside/model", "model/weights")
    )
    prepare_attempt(stage, run, "d", 0.0)
    assert (outside / "model" / "weights").read_text() == "mine"


@pytest.mark.parametrize("name", ["../..", "..", "/etc", "a/../..", "*", "", "\0"])
def test_a_run_s_name_means_a_run_and_nothing_else(tmp_path, name):
    with pytest.raises(OrchError):
        find_run(name, tmp_path)


@pytest.mark.parametrize("stage", ["../..", "..", "/etc", "a/../../.."])
def test_the_logs_of_a_stage_lie_in_the_run_folder(tmp_path, stage):
    (tmp_path / "run" / "stages" / "01-a").mkdir(parents=True)
    (tmp_path / "stdout.log").write_text("not a log of this run")
    with pytest.raises(OrchError):
        list(follow_logs(RunDir(tmp_path / "run"), stage, follow=False))
