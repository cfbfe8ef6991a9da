"""`track:` in a recipe: what the trainer is told, what is sent at the end, and what is said where a tracker is missing."""

from __future__ import annotations

import json

import pytest

from orchestrator.backends.protocol import list_tracking
from orchestrator.checks import CHECKS, Check
from orchestrator.checks.settings import advise_trackers, read_train_values
from orchestrator.errors import RecipeError
from orchestrator.machine.secrets import is_secret
from orchestrator.plan.pipeline import build_plan
from orchestrator.recipe.schema import Track
from orchestrator.workers.track import OPENERS, TRACKERS
from tests.jobs import TESTED
from tests.shipped import build_shipped_job

ALL = "track={to: [wandb, swanlab, tensorboard], project: shop}"
THERE = TESTED | {"wandb": "0.31.0", "tensorboard": "2.21.0", "swanlab": "0.10.3", "peft": "0.20.0"}


def build(name, *overrides, versions=THERE):
    job = build_shipped_job(name, *overrides, versions=versions)
    return job, build_plan(job)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("qwen3_reranker", "wandb"),  # one name is all that its argument takes
        ("bge_pointwise", "wandb"),
        ("qwen3_sft_lora", "wandb swanlab tensorboard"),
    ],
)
def test_the_trainer_reports_and_the_verdict_follows_the_report(name, said):
    job, plan = build(name, ALL)
    train, last = plan.stage("train"), plan.stages[-1]
    assert read_train_values(plan)["report_to"] == said
    words = ["--run", str(job.run_dir), "--to", "wandb,swanlab,tensorboard", "--project", "shop"]
    words += ["--group", job.recipe.name]
    for stage, worker in ((train, "track_training"), (last, "track")):
        place = stage.command.argv.index(worker)
        assert list(stage.command.argv[place + 1 : place + 9]) == words
    assert [stage.kind for stage in plan.stages[-2:]] == ["report", "track"]
    assert "track.json" in plan.stages[-2].outputs
    assert last.inputs == ("track.json",)
    config = next((json.loads(file.text) for file in plan.files if file.path == "files/train.json"), None)
    assert config is None or config["arguments"]["report_to"] == "wandb"


@pytest.mark.parametrize("name", ["qwen3_reranker", "bge_pointwise", "qwen3_sft_lora"])
def test_without_the_key_no_trainer_reports_and_nothing_else_changes(name):
    _, plan = build(name)
    assert read_train_values(plan)["report_to"] == "none"
    assert plan.stage("track") is None
    assert "track" not in plan.recipe
    assert "track_training" not in plan.stage("train").command.argv


def test_what_is_not_installed_is_not_asked_of_the_trainer_and_is_said_with_the_line_that_installs_it(monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    job, plan = build("qwen3_sft_lora", "track=[swanlab, wandb]", versions=TESTED | {"wandb": "0.31.0"})
    assert read_train_values(plan)["report_to"] == "wandb"
    (problem,) = advise_trackers(job, plan)
    assert problem.message == "track: swanlab is not installed, and will hear nothing of this run"
    assert problem.hint == f"{job.backend_python} -m pip install swanlab"
    _, plan = build("qwen3_sft_lora", "track=swanlab", versions=TESTED)
    assert read_train_values(plan)["report_to"] == "none"


def test_a_tracker_without_its_key_is_said_unless_it_is_offline_or_logged_in(monkeypatch, tmp_path):
    for name in ("WANDB_API_KEY", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    job, plan = build("qwen3_sft_lora", "track=wandb")
    (problem,) = advise_trackers(job, plan)
    assert "wandb has no WANDB_API_KEY" in problem.message
    assert "orch track" in problem.message
    assert Check(advise_trackers, "advise", here=True) in CHECKS  # said by run, check and doctor, and refused by none
    offline, plan = build("qwen3_sft_lora", "track=wandb", "launch.env={WANDB_MODE: offline}")
    assert list(advise_trackers(offline, plan)) == []
    (tmp_path / ".netrc").write_text("machine api.wandb.ai login user password 0\n")
    assert list(advise_trackers(job, plan)) == []


def test_a_trial_belongs_to_its_sweep(tmp_path):
    track = Track(to=["wandb", "wandb"])
    assert list_tracking(track, tmp_path / "rates" / "trials" / "003", "demo")["group"] == "rates"
    assert list_tracking(track, tmp_path / "runs" / "demo-1", "demo") == {
        "run": str(tmp_path / "runs" / "demo-1"), "to": "wandb", "project": "orch", "group": "demo",
    }  # fmt: skip


@pytest.mark.parametrize(
    "track", ["track=comet", "track=[]", "track={project: shop}", "track={to: wandb, project: a/b}"]
)
def test_a_tracker_that_there_is_not_is_refused_with_the_recipe(track):
    with pytest.raises(RecipeError):
        build("qwen3_reranker", track)


def test_a_project_of_too_many_characters_is_told_how_many_it_may_have():
    assert build("qwen3_reranker", f"track={{to: wandb, project: {'p' + '項' * 99}}}")
    with pytest.raises(RecipeError, match="expected text of at most 100 characters"):
        build("qwen3_reranker", f"track={{to: wandb, project: {'x' * 101}}}")


def test_every_tracker_of_the_table_has_its_opening():
    assert TRACKERS.keys() == OPENERS.keys()


@pytest.mark.parametrize(
    "name",
    ["WANDB_API_KEY", "SWANLAB_API_KEY", "MLFLOW_TRACKING_TOKEN", "MLFLOW_TRACKING_PASSWORD", "HF_TOKEN",
     "HUGGING_FACE_HUB_TOKEN", "TRACKIO_WRITE_TOKEN"],
)  # fmt: skip
def test_the_keys_of_trackers_are_secrets(name):
    assert is_secret(name)
