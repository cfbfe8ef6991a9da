"""Jobs of small recipes whose data files hold one row each."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from orchestrator.machine.hardware import Hardware
from orchestrator.plan.jobs import build_job
from orchestrator.plan.load import load_recipe

RANKED = {"query": "q", "pos": ["a"], "neg": ["b"]}
GPU = Hardware("cuda", 1, bf16=True)


@pytest.fixture
def build_toy_job(tmp_path: Path):
    """Build the job of a recipe's text; `rows` are {file: its row}, beside train and eval."""

    def build(text: str, hardware: Hardware = GPU, *, smoke: bool = False, **rows):
        for name, row in {"train": RANKED, "eval": RANKED, **rows}.items():
            (tmp_path / f"{name}.jsonl").write_text(json.dumps(row) + "\n", encoding="utf-8")
        (tmp_path / "recipe.yaml").write_text(text, encoding="utf-8")
        return build_job(load_recipe(tmp_path / "recipe.yaml"), tmp_path / "run", hardware, smoke=smoke)

    return build
