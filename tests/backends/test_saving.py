"""One rule for all backends: the best checkpoint is one that was evaluated and saved, or the recipe is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
from msgspec.structs import replace

from orchestrator.backends.models import BaseModel
from orchestrator.backends.trainer import find_saving
from orchestrator.checks.settings import read_train_values
from orchestrator.machine.hardware import Hardware
from orchestrator.plan.pipeline import build_plan
from tests.jobs import build_imagined_job

GPU = Hardware("cuda", 1, bf16=True, names=("NVIDIA A100",))
MODELS = {
    "qwen3_embedding_lora": BaseModel("Qwen/Qwen3-Embedding-0.6B", "Qwen/Qwen3-Embedding-0.6B", None, "decoder", None),
    "bert_pointwise": BaseModel("/models/bert", "/models/bert", Path("/models/bert"), "encoder", None),
}
_UNSAID = ("train.eval_steps", "train.save_steps", "train.save_strategy", "train.eval_strategy")


def make_job(name, *overrides):
    job = build_imagined_job(name, MODELS[name], GPU, overrides=("checkpoint=null",))
    given = dict(one.removeprefix("train.").split("=") for one in overrides if one.startswith("train."))
    others = {key: value for key, value in job.recipe.train.items() if f"train.{key}" not in _UNSAID}
    typed = {key: int(value) if value.isdigit() else value for key, value in given.items()}
    asked = dict(one.split("=") for one in overrides if not one.startswith("train."))
    recipe = job.recipe.model_copy(update={"train": {**others, **typed}, **asked})
    return replace(job, recipe=recipe)


def refusals(job):
    return {".".join(map(str, key)): problem for key, problem in job.backend.check_job(job)}


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize(
    ("given", "strategy", "steps"),
    [
        ([], "epoch", None),
        (["train.eval_steps=50"], "steps", "50"),
        (["train.save_steps=50"], "steps", "50"),
        (["train.save_steps=50", "train.eval_steps=50"], "steps", "50"),
        (["train.eval_strategy=steps"], "steps", "500"),
        (["train.eval_strategy=steps", "train.eval_steps=50"], "steps", "50"),
        (["train.eval_strategy=epoch"], "epoch", None),
        (["train.save_strategy=steps"], "steps", "500"),
        (["train.save_strategy=steps", "train.eval_steps=20"], "steps", "20"),
        (["train.save_strategy=epoch"], "epoch", None),
    ],
)
def test_what_is_left_out_follows_what_is_given(name, given, strategy, steps):
    job = make_job(name, *given)
    assert refusals(job) == {}
    values = read_train_values(build_plan(job))
    assert values.get("save_strategy", "steps") == values["eval_strategy"] == strategy
    if steps:
        assert values["save_steps"] == values["eval_steps"] == steps


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize(
    "given",
    [
        ["train.eval_steps=50", "train.save_steps=40"],
        ["train.save_strategy=steps", "train.eval_steps=20", "train.save_steps=40"],
        ["train.save_strategy=epoch", "train.eval_steps=50"],
        ["train.save_strategy=epoch", "train.eval_strategy=steps"],
        ["train.save_steps=50", "train.eval_strategy=epoch"],
    ],
)
def test_a_best_checkpoint_that_may_not_be_saved_is_refused_unless_the_last_one_is_meant(name, given):
    (problem,) = refusals(make_job(name, *given)).values()
    assert "the best one may not be saved" in problem.message
    assert "checkpoint: last" in problem.hint
    assert refusals(make_job(name, *given, "checkpoint=last")) == {}


@pytest.mark.parametrize("name", MODELS)
def test_the_hint_on_strategies_that_differ_can_be_followed(name):
    hint = refusals(make_job(name, "train.save_strategy=epoch", "train.eval_steps=50"))["train.eval_strategy"].hint
    assert "save_strategy: steps and save_steps: 50" in hint
    follow = ("train.save_strategy=steps", "train.save_steps=50", "train.eval_steps=50")
    assert refusals(make_job(name, *follow)) == {}


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("strategy", ["no", "best"])
def test_a_training_that_keeps_no_checkpoint_is_refused(name, strategy):
    assert "train.save_strategy" in refusals(make_job(name, f"train.save_strategy={strategy}"))


@pytest.mark.parametrize("name", MODELS)
def test_validation_rows_are_not_set_aside_for_nothing(name):
    assert (
        "remove it" in refusals(make_job(name, "train.eval_strategy=no", "checkpoint=last"))["train.eval_strategy"].hint
    )


def test_ms_swift_links_the_best_checkpoint_only_where_there_must_be_one():
    given = ("train.save_steps=40", "train.eval_steps=50", "checkpoint=last")
    assert "create_checkpoint_symlink" not in read_train_values(build_plan(make_job("qwen3_embedding_lora", *given)))
    assert "create_checkpoint_symlink" in read_train_values(build_plan(make_job("qwen3_embedding_lora")))


def test_shares_of_the_training_are_steps_too():
    saving = find_saving({"eval_steps": 0.1})
    assert (saving.save_strategy, saving.save_steps, saving.eval_steps) == ("steps", 0.1, 0.1)
