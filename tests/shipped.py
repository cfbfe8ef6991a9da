"""Every shipped recipe with its model, as jobs for a machine that does not exist."""

from __future__ import annotations

from typing import TYPE_CHECKING

from orchestrator.backends.models import BaseModel
from orchestrator.machine.hardware import CPU, Hardware
from tests.jobs import RECIPES, TESTED, build_imagined_job

if TYPE_CHECKING:
    from orchestrator.backends.protocol import Job


def encoder(name: str, native: str | None = None) -> BaseModel:
    """Return a BERT-like model of the hub."""
    return BaseModel(name, name, None, "encoder", native)


def decoder(name: str, native: str | None = None) -> BaseModel:
    """Return an LLM of the hub."""
    return BaseModel(name, name, None, "decoder", native)


MODELS = {
    "bert_pointwise": encoder("hfl/chinese-roberta-wwm-ext"),
    "bert_ranknet": encoder("hfl/chinese-roberta-wwm-ext"),
    "bge_embedding": encoder("BAAI/bge-base-en-v1.5", "bi-encoder"),
    "bge_m3": encoder("BAAI/bge-m3", "bi-encoder"),
    "bge_pointwise": encoder("BAAI/bge-reranker-large", "cross-encoder"),
    "bge_reranker": encoder("BAAI/bge-reranker-v2-m3", "cross-encoder"),
    "minilm_embedding": encoder("sentence-transformers/all-MiniLM-L6-v2", "bi-encoder"),
    "e5_embedding": encoder("intfloat/multilingual-e5-base", "bi-encoder"),
    "embeddinggemma_lora": decoder("google/embeddinggemma-300m"),
    "qwen3_embedding_st": decoder("Qwen/Qwen3-Embedding-0.6B"),
    "distill_embedding": encoder("BAAI/bge-base-zh-v1.5", "bi-encoder"),
    "topic_embedding": encoder("sentence-transformers/paraphrase-multilingual-MiniLM-L12-v2", "bi-encoder"),
    "demo": encoder("sentence-transformers/all-MiniLM-L6-v2", "bi-encoder"),
    "demo_reranker": encoder("sentence-transformers/all-MiniLM-L6-v2", "bi-encoder"),
    "distill_llm_to_bert": encoder("hfl/chinese-roberta-wwm-ext"),
    "llm_pointwise": decoder("Qwen/Qwen2.5-1.5B"),
    "qwen3_embedding_full": decoder("Qwen/Qwen3-Embedding-0.6B"),
    "qwen3_embedding_lora": decoder("Qwen/Qwen3-Embedding-0.6B"),
    "qwen3_reranker": decoder("Qwen/Qwen3-Reranker-0.6B", "qwen3-native"),
    "qwen3_reranker_native": decoder("Qwen/Qwen3-Reranker-0.6B", "qwen3-native"),
    "qwen3_sft_finance": decoder("Qwen/Qwen3-4B"),
    "qwen3_sft_lora": decoder("Qwen/Qwen3-4B"),
    "reranker_lora": encoder("BAAI/bge-reranker-v2-m3", "cross-encoder"),
    "sft_single_gpu_test": decoder("Qwen/Qwen3-0.6B"),
}
TEACHERS = {
    "distill_embedding": encoder("BAAI/bge-reranker-v2-m3", "cross-encoder"),
    "distill_llm_to_bert": decoder("Qwen/Qwen3-Reranker-0.6B", "qwen3-native"),
}
NAMES = tuple(sorted(path.stem for path in RECIPES.glob("*.yaml")))


def build_shipped_job(
    name: str, *overrides: str, versions: dict[str, str] = TESTED, smoke: bool = False, gpus: int = 1
) -> Job:
    """Return the job of a shipped recipe for these versions."""
    hardware = CPU if smoke else Hardware("cuda", gpus, bf16=True)
    return build_imagined_job(
        name,
        MODELS[name],
        hardware,
        overrides=overrides,
        versions=versions,
        smoke=smoke,
        teacher=TEACHERS.get(name),
    )
