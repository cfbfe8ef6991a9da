"""Traps whose native half takes minutes or several processes: what the tools did is kept in captured/."""

from __future__ import annotations

import pytest

from orchestrator.backends import BACKENDS
from orchestrator.backends.models import BaseModel
from orchestrator.machine.hardware import CPU
from orchestrator.run.resume import find_newest_complete
from tests.jobs import build_imagined_job
from tests.traps.captured_logs import read_log, read_losses
from tests.traps.conftest import make_groups


@pytest.mark.parametrize(
    ("recipe", "flag"), [("qwen3_reranker", "--use_cpu True"), ("qwen3_embedding_lora", "--ddp_backend gloo")]
)
def test_two_processes_that_never_synchronise(recipe, flag):
    log = read_log("two-processes-on-a-cpu.log")
    assert "exit code 0" in log
    assert log.count("distributed training: False") == log.count("'train_runtime'") == 2  # two trainings, one folder
    assert "rng_state.pth" in log
    assert "rng_state_1.pth" not in log
    named = {"qwen3_embedding_lora": "Qwen/Qwen3-Embedding-0.6B"}.get(recipe, "Qwen/Qwen3-Reranker-0.6B")
    model = BaseModel(named, named, None, "decoder", None)
    job = build_imagined_job(recipe, model, CPU, overrides=("launch.nproc_per_node=2",))
    training = BACKENDS[job.recipe.backend].build_training(job, model="/m", data="/d", output="/o/output")
    assert flag in " ".join(training.command.argv)


def test_a_deepspeed_checkpoint_without_its_random_state(tmp_path):
    undisturbed, resumed, without, _ = read_losses("a-deepspeed-training-that-is-resumed.log").values()
    assert resumed == undisturbed[4:]
    assert len(without) == 4
    assert without != resumed  # another dropout and other negatives
    folder = tmp_path / "checkpoint-4"
    (folder / "global_step4").mkdir(parents=True)
    (folder / "global_step4" / "mp_rank_00_model_states.pt").write_bytes(b"\x80\x02")
    (folder / "latest").write_text("global_step4")
    (folder / "trainer_state.json").write_text('{"global_step": 4}')
    found = find_newest_complete(tmp_path)
    assert found.newest is None
    assert "rng_state.pth is missing" in found.incomplete[0].why


def test_a_dataset_that_is_not_there(orch, rows):
    log = read_log("a-dataset-that-is-not-there.log")
    assert "Downloading the dataset from ModelScope, dataset_id: nowhere.jsonl" in log
    assert "exit code 124" in log  # still looking after 200 s
    assert "No such file" not in log
    rows(*make_groups(8))
    recipe = {"name": "trap", "task": "reranker", "backend": "swift", "model": "Qwen/Qwen3-Reranker-0.6B"}
    answer = orch(recipe, data={"train": "nowhere.jsonl"})
    assert answer.code == 2
    assert "data.train: no such file: nowhere.jsonl" in answer.text
