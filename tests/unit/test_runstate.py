from __future__ import annotations

import json

import pytest

from orchestrator.errors import RunFolderError
from orchestrator.machine.process import Child
from orchestrator.machine.rundir import RunDir
from orchestrator.run.runs import list_runs, stop_run, summarise
from orchestrator.run.state import (
    LaunchRecord,
    RunState,
    find_state,
    load_launch,
    load_result,
    read_state,
    write_launch,
    write_state,
)


@pytest.fixture
def run_dir(tmp_path):
    (tmp_path / "run").mkdir()
    return RunDir(tmp_path / "run")


def test_a_state_survives_its_file(run_dir):
    state = RunState("running", 1.5, "02-train", Child(7, 7, "boot:99", "uuid"), None, None, None, None)
    write_state(run_dir, state)
    assert read_state(run_dir) == state


def test_a_launch_survives_its_file_but_for_its_secrets(run_dir):
    env = (("HF_TOKEN", "hf_x"), ("WANDB_API_KEY", "k"), ("TOKENIZERS_PARALLELISM", "false"), ("OMP_NUM_THREADS", "1"))
    record = LaunchRecord(("a", "b c"), env, "/x", "digest", 2, "uuid", 1.5, 10, 20, "/x/checkpoint-2")
    write_launch(run_dir.stage("a"), record)
    found = load_launch(run_dir.stage("a"))
    assert found.argv == record.argv
    assert dict(found.env) == {
        "HF_TOKEN": "***", "WANDB_API_KEY": "***", "TOKENIZERS_PARALLELISM": "false", "OMP_NUM_THREADS": "1",
    }  # fmt: skip


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"argv": 1}'])
def test_damaged_stage_files_mean_not_done(run_dir, text):
    folder = run_dir.stage("a")
    folder.root.mkdir(parents=True)
    for path in (folder.result_json, folder.command_json):
        path.write_text(text)
    assert load_result(folder) is None
    assert load_launch(folder) is None


def test_a_state_of_another_version_is_refused_and_listed(run_dir):
    run_dir.state_json.write_text('{"status": "running", "started": 1, "colour": "red"}')
    with pytest.raises(RunFolderError):
        read_state(run_dir)
    assert [run.status for run in list_runs(run_dir.root.parent)] == ["damaged"]


def test_runs_are_listed_newest_first_with_their_verdict(tmp_path):
    for name, started in (("old", 1.0), ("new", 2.0)):
        (tmp_path / name).mkdir()
        write_state(RunDir(tmp_path / name), RunState("done", started))
    RunDir(tmp_path / "new").report_json.write_text(json.dumps({"verdict": "better", "headline": "+0.1 nDCG@10"}))
    (tmp_path / "not a run").mkdir()
    (tmp_path / "planned").mkdir()
    RunDir(tmp_path / "planned").plan_json.write_text("{}")
    assert [(run.name, run.status, run.verdict) for run in list_runs(tmp_path)] == [
        ("new", "done", "better: +0.1 nDCG@10"),
        ("old", "done", None),
        ("planned", "planned", None),
    ]
    assert list_runs(tmp_path / "nowhere") == []


def test_a_run_that_says_running_without_a_supervisor_is_dead_until_it_is_stopped(run_dir):
    write_state(run_dir, RunState("running", 1.0))
    assert summarise(run_dir).status == "dead"
    assert stop_run(run_dir) == "nothing runs"
    assert summarise(run_dir).status == "interrupted"


def test_a_run_folder_that_was_removed_is_not_made_again(run_dir):
    run_dir.root.rmdir()
    with pytest.raises(FileNotFoundError):
        write_state(run_dir, RunState("running", 1.0))
    assert not run_dir.root.exists()


@pytest.mark.parametrize(
    ("key", "value"),
    [("started", "now"), ("status", None), ("exit_code", "0"), ("child", {"pid": "7"}), ("child", [7]), ("stage", 1)],
)
def test_a_state_with_a_value_of_another_type_is_damaged(run_dir, key, value):
    write_state(run_dir, RunState("running", 1.0))
    values = json.loads(run_dir.state_json.read_text()) | {key: value}
    run_dir.state_json.write_text(json.dumps(values))
    with pytest.raises(RunFolderError, match="damaged"):
        read_state(run_dir)
    assert find_state(run_dir) is None


def test_a_run_that_never_started_has_nothing_to_stop(run_dir):
    assert stop_run(run_dir) == "it never started"
