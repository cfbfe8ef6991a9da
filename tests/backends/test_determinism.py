"""`deterministic: true` renders the same switches for every backend, and is contradicted by nothing in silence."""

from __future__ import annotations

import json

import pytest

from orchestrator.backends.models import BaseModel
from orchestrator.machine.hardware import CPU, Hardware
from orchestrator.plan.pipeline import build_plan
from tests.jobs import build_imagined_job

GPU = Hardware("cuda", 1, bf16=True)
MODELS = {
    "qwen3_reranker": BaseModel(
        "Qwen/Qwen3-Reranker-0.6B", "Qwen/Qwen3-Reranker-0.6B", None, "decoder", "qwen3-native"
    ),
    "qwen3_sft_lora": BaseModel("Qwen/Qwen3-4B", "Qwen/Qwen3-4B", None, "decoder", None),
    "bert_pointwise": BaseModel("hfl/chinese-roberta-wwm-ext", "hfl/chinese-roberta-wwm-ext", None, "encoder", None),
}


def make_job(name, *overrides, hardware=GPU):
    overrides = ("deterministic=true", *overrides)
    return build_imagined_job(name, MODELS[name], hardware, overrides=overrides)


def switches(plan):
    """Return full_determinism, dataloader_num_workers and tf32 as the train stage is told."""
    names = ("full_determinism", "dataloader_num_workers", "tf32")
    if plan.backend == "sentence-transformers":
        arguments = json.loads(plan.file("files/train.json").text)["arguments"]
        return {name: str(arguments[name]) for name in names if name in arguments}
    argv = list(plan.stage("train").command.argv)
    return {name: argv[argv.index(f"--{name}") + 1] for name in names if f"--{name}" in argv}


def problems(job):
    return {".".join(key): problem.message for key, problem in job.backend.check_job(job)}


@pytest.mark.parametrize("name", MODELS)
def test_each_backend_is_told_to_repeat_itself(name):
    plan = build_plan(make_job(name, "train.seed=7"))
    assert switches(plan) == {"full_determinism": "True", "dataloader_num_workers": "0", "tf32": "False"}
    env = dict(plan.stage("train").command.env)
    assert env["PYTHONHASHSEED"] == "7"
    assert env["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
    explained = {note.argument for note in plan.notes if note.why.startswith("deterministic")}
    assert explained >= {"full_determinism", "dataloader_num_workers", "tf32", "PYTHONHASHSEED"}


@pytest.mark.parametrize("name", MODELS)
def test_nothing_of_it_is_rendered_where_nobody_asked(name):
    plan = build_plan(make_job(name, "deterministic=false"))
    assert "full_determinism" not in switches(plan)
    assert "PYTHONHASHSEED" not in dict(plan.stage("train").command.env)


def test_a_cpu_has_no_tf32_to_turn_off():
    assert "tf32" not in switches(build_plan(make_job("bert_pointwise", hardware=CPU)))


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize(
    ("override", "key", "message"),
    [
        ("train.dataloader_num_workers=4", "train.dataloader_num_workers", "several data workers"),
        ("train.tf32=true", "train.tf32", "rounds differently"),
        ("train.auto_find_batch_size=true", "train.auto_find_batch_size", "free memory"),
        ("launch.env.PYTHONHASHSEED=random", "launch.env.PYTHONHASHSEED", "needs 42"),
        ("launch.env.CUBLAS_WORKSPACE_CONFIG=:0:0", "launch.env.CUBLAS_WORKSPACE_CONFIG", "needs :4096:8"),
    ],
)
def test_what_contradicts_it_is_refused(name, override, key, message):
    assert message in problems(make_job(name, override))[key]


def test_switching_the_kernels_back_is_refused():
    assert "any order" in problems(make_job("qwen3_reranker", "train.full_determinism=false"))["train.full_determinism"]


def test_the_other_workspace_that_repeats_itself_is_as_good():
    job = make_job("bert_pointwise", "launch.env.CUBLAS_WORKSPACE_CONFIG=:16:8")
    assert problems(job) == {}
    assert dict(build_plan(job).stage("train").command.env)["CUBLAS_WORKSPACE_CONFIG"] == ":16:8"
