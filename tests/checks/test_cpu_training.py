"""Who trains a large model on a CPU hears that there is no GPU; small ones, smoke runs and GPUs are left in peace."""

from __future__ import annotations

import json

import pytest
from msgspec.structs import replace

from orchestrator.backends.models import BaseModel
from orchestrator.checks.memory_fit import advise_on_cpu
from orchestrator.machine.hardware import CPU
from tests.checks.test_memory import BERT, QWEN3


@pytest.fixture
def advice(tmp_path, plan_for):
    """Return the advice for a model on a CPU; its config is None where it is not on this machine yet."""

    def advice(config: dict | None, family: str = "decoder", **changes) -> list[str]:
        recipe, native = (
            ("qwen3_reranker", "qwen3-native") if family == "decoder" else ("bge_reranker", "cross-encoder")
        )
        folder = tmp_path if config else None
        if config:
            (tmp_path / "config.json").write_text(json.dumps(config))
        model = BaseModel("owner/model", str(folder or "owner/model"), folder, family, native)
        job, plan = plan_for(model, recipe=recipe, hardware=CPU)
        return [problem.message for problem in advise_on_cpu(replace(job, **changes), plan)]

    return advice


def test_an_llm_on_a_cpu_is_spoken_of_with_its_size(advice):
    (message,) = advice(QWEN3)
    assert message.startswith("no GPU is used: owner/model with its 0.6 billion weights is trained on the CPU")


def test_an_llm_that_must_be_downloaded_first_is_one_as_well(advice):
    (message,) = advice(None)
    assert message.startswith("no GPU is used: owner/model is trained on the CPU")


def test_a_base_sized_encoder_and_an_encoder_of_unknown_size_are_let_through(advice):
    assert advice(BERT, "encoder") == []
    assert advice(None, "encoder") == []


def test_a_large_encoder_is_not(advice):
    large = {**BERT, "hidden_size": 1024, "intermediate_size": 4096, "num_attention_heads": 16, "num_hidden_layers": 24}
    assert len(advice(large, "encoder")) == 1


def test_smoke_runs_and_gpus_are(advice):
    assert advice(QWEN3, smoke=True) == []
    assert advice(QWEN3, hardware=replace(CPU, kind="cuda")) == []
