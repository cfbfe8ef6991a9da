"""Jobs for plans that touch no machine: fixed hardware, versions, paths."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.backends.protocol import Job
from orchestrator.hardware import CPU, Hardware
from orchestrator.jobs import _load_deepspeed
from orchestrator.load import load_recipe
from orchestrator.models import BaseModel

GPU = Hardware("cuda", 1, bf16=True, names=("NVIDIA A100",))
TESTED = {"python": "3.11.7", "transformers": "5.19.0", "FlagEmbedding": "1.4.2"}


@pytest.fixture
def make_job(recipes: Path):
    def make_job(
        *overrides: str,
        hardware: Hardware = GPU,
        versions=None,
        family="decoder",
        native="qwen3-native",
        smoke=False,
        name="qwen3_reranker",
    ) -> Job:
        loaded = load_recipe(recipes / f"{name}.yaml", overrides)
        model = BaseModel(loaded.recipe.model.name, loaded.recipe.model.name, None, family, native)
        if family == "encoder" and loaded.recipe.model.package:
            model = BaseModel("MiniLM", "/models/minilm", Path("/models/minilm"), family, native)
        return Job(
            recipe=loaded.recipe,
            recipe_folder=Path("/project/recipes"),
            run_dir=Path("/runs/golden"),
            model=model,
            hardware=CPU if smoke else hardware,
            versions=TESTED if versions is None else versions,
            backend_python="/env/bin/python",
            orch_python="/orch/bin/python",
            workers="/orch/orchestrator/workers",
            smoke=smoke,
            deepspeed_text=_load_deepspeed(loaded),
            cache_dir="/cache/orch",
        )

    return make_job
