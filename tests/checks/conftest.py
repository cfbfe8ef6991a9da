"""Jobs and plans for a model folder, on a machine that does not exist."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from orchestrator.machine.hardware import Hardware
from orchestrator.plan.pipeline import build_plan
from tests.checks.model_folders import CONFIG, Folder, list_decoder
from tests.jobs import build_imagined_job

if TYPE_CHECKING:
    from pathlib import Path

    from orchestrator.backends.models import BaseModel
    from orchestrator.backends.protocol import Job
    from orchestrator.recipe.plan import Plan

GPU = Hardware("cuda", 1, bf16=True, names=("NVIDIA A100",))
INSTALLED = {
    "python": "3.11.9", "transformers": "5.19.0", "tokenizers": "0.22.0", "torch": "2.13.0", "FlagEmbedding": "1.4.2",
    "ms-swift": "4.6.0", "sentence-transformers": "6.2.0", "peft": "0.20.0", "accelerate": "1.12.0", "deepspeed": "0.19.8",
}  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    """A complete small Qwen3: config, weights, tokenizer."""
    path = tmp_path / "model"
    path.mkdir()
    (path / "config.json").write_text(json.dumps(CONFIG))
    return Folder(path).weights(list_decoder()).tokenizer()


@pytest.fixture
def plan_for():
    """Return the job and the plan of a shipped recipe for a model."""

    def plan_for(
        model: BaseModel,
        *overrides: str,
        recipe: str = "qwen3_reranker",
        hardware: Hardware = GPU,
        versions: dict[str, str] = INSTALLED,
        teacher: BaseModel | None = None,
        smoke: bool = False,
    ) -> tuple[Job, Plan]:
        job = build_imagined_job(
            recipe, model, hardware, overrides=overrides, versions=versions, teacher=teacher, smoke=smoke
        )
        return job, build_plan(job)

    return plan_for


@pytest.fixture
def ask(plan_for):
    """Return what a check says of a job, as (message, hint)."""

    def ask(check, model: BaseModel, *overrides: str, **kinds) -> list[tuple[str, str]]:
        return [(problem.message, problem.hint or "") for problem in check(*plan_for(model, *overrides, **kinds))]

    return ask
