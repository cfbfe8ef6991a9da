"""Traps whose native half takes minutes or several processes: what the tools did is kept in captured/."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.backends import BACKENDS
from orchestrator.hardware import CPU
from orchestrator.models import BaseModel
from tests.jobs import build_imagined_job
from tests.traps.conftest import make_groups

CAPTURED = Path(__file__).with_name("captured")


def read(name: str) -> str:
    return (CAPTURED / name).read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("recipe", "flag"), [("qwen3_reranker", "--use_cpu True"), ("qwen3_embedding_lora", "--ddp_backend gloo")]
)
def test_two_processes_that_never_synchronise(recipe, flag):
    log = read("two-processes-on-a-cpu.log")
    assert "exit code 0" in log
    assert log.count("distributed training: False") == log.count("'train_runtime'") == 2  # two trainings, one folder
    assert "rng_state.pth" in log
    assert "rng_state_1.pth" not in log
    named = {"qwen3_embedding_lora": "Qwen/Qwen3-Embedding-0.6B"}.get(recipe, "Qwen/Qwen3-Reranker-0.6B")
    model = BaseModel(named, named, None, "decoder", None)
    job = build_imagined_job(recipe, model, CPU, overrides=("launch.nproc_per_node=2",))
    training = BACKENDS[job.recipe.backend].build_training(job, model="/m", data="/d", output="/o/output")
    assert flag in " ".join(training.command.argv)


def test_a_dataset_that_is_not_there(orch, rows):
    log = read("a-dataset-that-is-not-there.log")
    assert "Downloading the dataset from ModelScope, dataset_id: nowhere.jsonl" in log
    assert "exit code 124" in log  # still looking after 200 s
    assert "No such file" not in log
    rows(*make_groups(8))
    recipe = {"name": "trap", "task": "reranker", "backend": "swift", "model": "Qwen/Qwen3-Reranker-0.6B"}
    answer = orch(recipe, data={"train": "nowhere.jsonl"})
    assert answer.code == 2
    assert "data.train: no such file: nowhere.jsonl" in answer.text
