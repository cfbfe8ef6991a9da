"""Processes that trained together are told from those that trained apart, and a global batch is kept where it can be."""

from __future__ import annotations

import json
import struct

import pytest

from orchestrator.checks.settings import advise_names
from orchestrator.machine.hardware import CPU, Hardware
from orchestrator.machine.rundir import RunDir
from orchestrator.plan.pipeline import build_plan
from orchestrator.recipe.plan import Command, Stage
from orchestrator.run.resume import find_missing_outputs
from orchestrator.workers.failure import WorkerError
from orchestrator.workers.launch import require_one_group
from tests.backends.test_parallelism import EMBEDDING, QWEN, make_job, refusals
from tests.golden.regenerate import BGE_LARGE

TWO = Hardware("cuda", 2, bf16=True)


def save(folder, *names):
    folder.mkdir(parents=True)
    for name in names:
        (folder / name).touch()


def test_the_newest_checkpoint_has_a_state_of_every_process(tmp_path):
    save(tmp_path / "checkpoint-2", "rng_state.pth")
    save(tmp_path / "checkpoint-10", "rng_state_0.pth", "rng_state_1.pth")
    require_one_group(tmp_path, 2)


@pytest.mark.parametrize(
    ("names", "says"),
    [
        (["rng_state.pth"], "2 processes have trained apart"),
        (["rng_state_0.pth"], "lacks rng_state_1.pth"),
        (None, "holds no checkpoint"),
    ],
)
def test_what_proves_no_group_is_an_error(tmp_path, names, says):
    if names:
        save(tmp_path / "checkpoint-10", *names)
    with pytest.raises(WorkerError, match=says):
        require_one_group(tmp_path, 2)


@pytest.mark.parametrize("argument", ["save_strategy=no", "save_only_model=true"])
def test_a_recipe_without_that_proof_is_refused_for_several_processes(argument):
    name = argument.partition("=")[0]
    job = make_job("qwen3_reranker", QWEN, f"train.{argument}", "deepspeed=null", hardware=TWO)
    assert "no checkpoint would prove" in refusals(job)[f"train.{name}"].message
    assert refusals(make_job("qwen3_reranker", QWEN, f"train.{argument}", "deepspeed=null", hardware=CPU)) == {}


def write_weights(path, shape):
    header = json.dumps({"layer.lora_A": {"dtype": "F32", "shape": shape, "data_offsets": [0, 0]}}).encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(struct.pack("<Q", len(header)) + header)


def test_a_training_that_wrote_empty_tensors_has_not_written_its_weights(tmp_path):
    outputs = ("stages/01-train/output/adapter_model.safetensors",)
    write_weights(tmp_path / outputs[0], [8, 0])
    stage = Stage("01-train", "train", "Train", Command(()), outputs=outputs)
    (why,) = find_missing_outputs(stage, RunDir(tmp_path))
    assert why == f"whole weights: 1 of 1 tensors in {outputs[0]} are empty"
    other = Stage("01-score", "score", "Score", Command(()), outputs=outputs)
    assert find_missing_outputs(other, RunDir(tmp_path)) == ()


def values(job):
    return {note.argument: note for note in build_plan(job).notes if note.stage == "train"}


def test_a_global_batch_is_kept_by_the_accumulation_alone():
    given = (
        "launch.keep_global_batch=true",
        "train.gradient_accumulation_steps=8",
        "train.per_device_train_batch_size=8",
    )
    for hardware, steps in ((CPU, "8"), (TWO, "4"), (Hardware("cuda", 8, bf16=True), "1")):
        job = make_job("bge_pointwise", BGE_LARGE, *given, hardware=hardware)
        assert refusals(job) == {}
        assert values(job)["gradient_accumulation_steps"].value == steps
    assert "launch.keep_global_batch: 8 for one process" in values(job)["gradient_accumulation_steps"].why
    assert build_plan(job).stage("train").title.endswith(f": 8 processes, {8 * 8} rows a step")


def test_a_world_size_that_does_not_divide_the_batch_is_one_clear_error():
    given = ("launch.keep_global_batch=true", "train.gradient_accumulation_steps=1")
    job = make_job("bge_pointwise", BGE_LARGE, *given, "train.per_device_train_batch_size=8", hardware=TWO)
    problem = refusals(job)["train.gradient_accumulation_steps"]
    assert "1 cannot be shared among 2 processes" in problem.message
    assert "per_device_train_batch_size: 4" in problem.hint


def test_smaller_batches_of_the_plan_keep_the_batch_once():
    given = ("launch.keep_global_batch=true", "train.gradient_accumulation_steps=4", "watch.on_oom=retry")
    job = make_job("bge_pointwise", BGE_LARGE, *given, "train.per_device_train_batch_size=8", hardware=TWO)
    titles = [fallback.title for fallback in build_plan(job).stage("train").fallbacks]
    assert titles[0] == "per_device_train_batch_size 4, gradient_accumulation_steps 4"


def test_deepspeed_without_a_file_of_it_is_refused_and_the_old_name_is_said():
    job = make_job("bge_pointwise", BGE_LARGE, "launch.distributed=deepspeed", hardware=TWO)
    assert "say deepspeed: zero2" in refusals(job)["launch.distributed"].hint
    old = make_job("bge_pointwise", BGE_LARGE, "launch.strategy=fsdp", hardware=TWO)
    assert refusals(old) == {}
    (advice,) = advise_names(old, build_plan(old))
    assert advice.message == "launch.strategy is called launch.distributed now"


def test_ms_swift_saves_whole_weights_under_fsdp_or_is_refused():
    job = make_job("qwen3_embedding_lora", EMBEDDING, "launch.distributed=fsdp", hardware=TWO)
    assert refusals(job) == {}
    config = json.loads(values(job)["fsdp"].value)
    assert config["fsdp_config"]["state_dict_type"] == "FULL_STATE_DICT"
    preset = make_job("qwen3_embedding_lora", EMBEDDING, "train.fsdp=fsdp2", hardware=TWO)
    assert "a piece of the weights" in refusals(preset)["train.fsdp"].message
