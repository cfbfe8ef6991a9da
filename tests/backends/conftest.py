"""Jobs for plans that touch no machine: fixed hardware, versions, paths."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from orchestrator.backends.models import BaseModel
from orchestrator.machine.hardware import CPU, Hardware
from tests.jobs import TESTED, build_imagined_job

if TYPE_CHECKING:
    from orchestrator.backends.protocol import Job

GPU = Hardware("cuda", 1, bf16=True, names=("NVIDIA A100",))


@pytest.fixture
def make_job():
    def make_job(
        *overrides: str,
        hardware: Hardware = GPU,
        versions=None,
        family="decoder",
        native="qwen3-native",
        smoke=False,
        name="qwen3_reranker",
    ) -> Job:
        located = "/models/minilm" if family == "encoder" else "Qwen/Qwen3-Reranker-0.6B"
        folder = Path(located) if family == "encoder" else None
        model = BaseModel(located, located, folder, family, native)
        hardware = CPU if smoke else hardware
        versions = TESTED if versions is None else versions
        return build_imagined_job(name, model, hardware, overrides=overrides, versions=versions, smoke=smoke)

    return make_job
