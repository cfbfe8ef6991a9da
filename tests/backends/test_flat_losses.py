"""The loss of a model that scores everything alike: known for softmax and cross-entropy, for nothing else."""

from __future__ import annotations

import math

import pytest

from orchestrator.plan.pipeline import build_plan
from tests.backends.test_batch_splitting import EMBEDDING, LLM
from tests.golden.regenerate import BGE_LARGE, GPU, QWEN, ROBERTA
from tests.jobs import build_imagined_job


@pytest.mark.parametrize(
    ("recipe", "model", "overrides", "candidates"),
    [
        ("qwen3_reranker", QWEN, ["train.train_group_size=6"], 6),
        ("qwen3_reranker", QWEN, ["train.knowledge_distillation=true"], None),
        ("qwen3_reranker_native", QWEN, ["loss=pointwise"], 2),
        ("qwen3_reranker_native", QWEN, ["loss=listwise"], 8),
        ("qwen3_reranker_native", QWEN, ["loss={type: listwise, max_negatives: 3}"], 4),
        ("qwen3_embedding_lora", EMBEDDING, ["loss={type: infonce, use_batch: false, hard_negatives: 3}"], 4),
        # two GPUs with 8 rows each, a positive and 3 negatives a row
        ("qwen3_embedding_lora", EMBEDDING, ["loss={type: infonce, hard_negatives: 3}"], 64),
        ("qwen3_embedding_lora", EMBEDDING, ["loss=infonce"], None),
        ("qwen3_embedding_lora", EMBEDDING, ["loss=cosine_similarity"], None),
        ("qwen3_sft_lora", LLM, [], None),
        ("bge_pointwise", BGE_LARGE, ["loss=pointwise_bce"], 2),
        ("bge_pointwise", BGE_LARGE, ["loss={type: pointwise_bce, pos_weight: 7}"], None),
        ("bge_pointwise", BGE_LARGE, ["loss=pointwise_mse"], None),
        ("bert_ranknet", ROBERTA, ["loss=listwise_ce", "train.train_group_size=10"], 10),
        ("bert_ranknet", ROBERTA, ["loss={type: listwise_ce, graded: true}"], None),
        ("bert_ranknet", ROBERTA, ["loss=pairwise_ranknet"], None),
    ],
)
def test_the_plan_says_the_flat_loss(recipe, model, overrides, candidates):
    train = build_plan(build_imagined_job(recipe, model, GPU, overrides=tuple(overrides))).stage("train")
    assert train.flat_loss == (candidates and pytest.approx(math.log(candidates)))
