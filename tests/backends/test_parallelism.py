"""Processes that share a sequence or a layer read the same rows: a step, and what must be left of the data, is smaller."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from msgspec.structs import replace

from orchestrator.backends.models import BaseModel
from orchestrator.backends.sharing import count_data_ranks, count_parts, count_step_rows
from orchestrator.machine.hardware import CPU, Hardware
from orchestrator.plan.pipeline import build_plan
from tests.jobs import build_imagined_job

FOUR = Hardware("cuda", 4, bf16=True, names=("NVIDIA A100",) * 4)
EMBEDDING = BaseModel("Qwen/Qwen3-Embedding-0.6B", "Qwen/Qwen3-Embedding-0.6B", None, "decoder", None)
QWEN = BaseModel("Qwen/Qwen3-Reranker-0.6B", "Qwen/Qwen3-Reranker-0.6B", None, "decoder", "qwen3-native")
BERT = BaseModel("/models/bert", "/models/bert", Path("/models/bert"), "encoder", None)


def make_job(recipe, model, *overrides, hardware=FOUR, smoke=False):
    return build_imagined_job(recipe, model, hardware, overrides=overrides, smoke=smoke)


def embedding_job(*overrides, hardware=FOUR, smoke=False):
    batches = ("train.per_device_train_batch_size=64", "train.per_device_eval_batch_size=16")
    return make_job("qwen3_embedding_lora", EMBEDDING, *batches, *overrides, hardware=hardware, smoke=smoke)


def prepare_flags(job):
    argv = build_plan(job).stage("prepare").command.argv
    return {name: argv[argv.index(f"--{name}") + 1] for name in ("full-batch", "min-validation")}


def refusals(job):
    return {".".join(map(str, key)): problem for key, problem in job.backend.check_job(job)}


@pytest.mark.parametrize(
    ("given", "rows", "validation"),
    [
        ([], "256", "64"),
        (["train.sequence_parallel_size=1"], "256", "64"),
        (["train.sequence_parallel_size=2"], "128", "32"),
        (["train.sequence_parallel_size=4"], "64", "16"),
        (["launch.nproc_per_node=2", "train.sequence_parallel_size=2"], "64", "16"),
        (["train.deepspeed_autotp_size=2", "deepspeed=zero2"], "128", "32"),
        # ms-swift's own loader knows no parallelism_config
        (["train.parallelism_config={tp_size: 2}"], "256", "64"),
    ],
)
def test_ms_swift_reads_rows_once_for_processes_that_share_a_sequence(given, rows, validation):
    assert prepare_flags(embedding_job(*given)) == {"full-batch": rows, "min-validation": validation}
    assert refusals(embedding_job(*given)) == {}


def test_a_deepspeed_file_that_shares_layers_counts_too():
    shared = replace(embedding_job(), deepspeed_text='{"tensor_parallel": {"autotp_size": 2}}')
    assert prepare_flags(shared)["full-batch"] == "128"


def test_the_reference_of_a_flat_loss_is_that_of_the_rows_of_a_step():
    given = ("loss={type: infonce, hard_negatives: 3}", "train.sequence_parallel_size=4")
    assert build_plan(embedding_job(*given)).stage("train").flat_loss == pytest.approx(math.log(64 * 4))


@pytest.mark.parametrize(("recipe", "model"), [("qwen3_reranker", QWEN), ("bge_pointwise", BERT)])
@pytest.mark.parametrize(
    ("config", "ranks"),
    [
        ("{tp_size: 2}", 2),
        ("{cp_size: 4}", 1),
        ("{tp_size: 2, sp_size: 2}", 1),
        ("{dp_shard_size: 4}", 4),
        ("x.json", 4),
    ],
)
def test_trainers_of_transformers_divide_by_what_parallelism_config_shares(recipe, model, config, ranks):
    job = make_job(recipe, model, "train.per_device_train_batch_size=8", "deepspeed=null")
    given = {"per_device_train_batch_size": 8, "parallelism_config": yaml_of(config)}
    assert count_data_ranks(job, given) == ranks
    assert count_step_rows(job, given) == 8 * ranks
    assert count_data_ranks(job, given | {"parallelism_config": str(yaml_of(config)).replace("'", '"')}) == ranks


def yaml_of(text):
    import yaml

    return yaml.safe_load(text)


def test_a_batch_that_accelerate_splits_is_a_whole_step():
    job = make_job("bge_pointwise", BERT)
    given = {"per_device_train_batch_size": 8, "accelerator_config": {"split_batches": True}}
    assert count_step_rows(job, given) == 8
    assert count_step_rows(embedding_job(), given) == 32


@pytest.mark.parametrize("size", [3, 8])
def test_groups_that_the_processes_do_not_fill_are_refused_with_sizes_that_do(size):
    problem = refusals(embedding_job(f"train.sequence_parallel_size={size}"))["train.sequence_parallel_size"]
    assert "one of 1, 2, 4" in problem.hint
    assert refusals(embedding_job("train.sequence_parallel_size=4")) == {}
    enough = Hardware("cuda", size, bf16=True)
    assert refusals(embedding_job(f"train.sequence_parallel_size={size}", hardware=enough)) == {}


def test_one_process_has_nobody_to_share_with_but_a_smoke_run_leaves_it_out():
    assert "train.sequence_parallel_size" in refusals(embedding_job("train.sequence_parallel_size=4", hardware=CPU))
    smoke = embedding_job("train.sequence_parallel_size=4", "train.quant_bits=4", hardware=CPU, smoke=True)
    argv = build_plan(smoke).stage("train").command.argv
    assert not {"--sequence_parallel_size", "--quant_bits"} & set(argv)


def test_a_sequence_is_cut_into_as_many_parts_as_share_it():
    assert count_parts(embedding_job(), {"sequence_parallel_size": "4"}, "sequences") == 4
    assert count_parts(embedding_job(), {}, "sequences") == 1
