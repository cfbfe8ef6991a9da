"""`watch.on_oom: retry` in a plan: the same training in smaller batches, and refused where it would be another one."""

from __future__ import annotations

import json

import pytest
from msgspec.structs import replace

from orchestrator.backends.render import render_run_script
from orchestrator.plan.pipeline import build_plan
from orchestrator.plan.stages import list_batches
from orchestrator.recipe.plan import plan_from_json
from tests.golden.regenerate import BGE_LARGE, GPU, MINILM, QWEN, ROBERTA, hub
from tests.jobs import build_imagined_job

RETRY = "watch.on_oom=retry"
EMBEDDING = hub("Qwen/Qwen3-Embedding-0.6B")
LLM = hub("Qwen/Qwen3-4B")


def job_of(recipe, model, *overrides):
    return build_imagined_job(recipe, model, GPU, overrides=(RETRY, *overrides))


def refusals(job):
    return [problem.message for path, problem in job.backend.check_job(job) if path == ("watch", "on_oom")]


def words_of(argv, *names):
    return [argv[argv.index(f"--{name}") + 1] for name in names]


SIZES = ("per_device_train_batch_size", "gradient_accumulation_steps")


@pytest.mark.parametrize(
    ("batch", "accumulation", "ladder"),
    [(4, 1, [(2, 2), (1, 4)]), (6, 2, [(3, 4), (1, 12)]), (7, 1, [(1, 7)]), (12, 1, [(6, 2), (3, 4), (1, 12)]), (1, 8, [])],
)  # fmt: skip
def test_each_batch_is_at_most_half_of_the_one_before_and_a_step_has_as_many_rows(batch, accumulation, ladder):
    assert list_batches(batch, accumulation) == ladder


@pytest.mark.parametrize(
    ("recipe", "model"), [("demo_reranker", MINILM), ("qwen3_reranker", QWEN), ("qwen3_reranker_native", QWEN)]
)
def test_the_smaller_batches_differ_in_nothing_else(recipe, model):
    loss = ("loss={type: listwise}",) if recipe == "qwen3_reranker_native" else ()
    train = build_plan(
        job_of(recipe, model, "train.per_device_train_batch_size=4", "train.gradient_accumulation_steps=1", *loss)
    ).stage("train")
    assert [words_of(fallback.argv, *SIZES) for fallback in train.fallbacks] == [["2", "2"], ["1", "4"]]
    for fallback in train.fallbacks:
        differing = {a for a, b in zip(train.command.argv, fallback.argv, strict=True) if a != b}
        assert len(differing) <= 2


def test_a_training_that_reads_its_arguments_from_a_file_has_one_for_each_batch():
    plan = build_plan(job_of("bert_ranknet", ROBERTA, "train.per_device_train_batch_size=2"))
    (fallback,) = plan.stage("train").fallbacks
    whole = json.loads(plan.file("files/train.json").text)
    smaller = json.loads(plan.file("files/batch-1.train.json").text)
    assert "/runs/golden/files/batch-1.train.json" in fallback.argv
    assert "/runs/golden/files/train.json" not in fallback.argv
    assert (
        smaller["arguments"]["per_device_train_batch_size"],
        smaller["arguments"]["gradient_accumulation_steps"],
    ) == (
        1,
        2 * whole["arguments"]["gradient_accumulation_steps"],
    )
    assert {key for key in whole if whole[key] != smaller[key]} == {"arguments"}


def test_what_is_tried_is_shown_before_it_runs():
    plan = build_plan(job_of("demo_reranker", MINILM))
    train = plan.stage("train")
    for fallback in train.fallbacks:
        assert fallback.title in plan.file(fallback.script).text
        assert f"bash {fallback.script}" in render_run_script(plan)
        assert fallback.script.startswith(f"stages/{train.name}/command.batch-")


def test_without_retry_a_plan_has_no_smaller_batches():
    assert build_plan(build_imagined_job("demo_reranker", MINILM, GPU)).stage("train").fallbacks == ()


def test_a_plan_keeps_its_smaller_batches_and_older_plans_are_read():
    plan = build_plan(job_of("demo_reranker", MINILM))
    assert plan_from_json(plan.to_json()) == plan
    raw = json.loads(plan.to_json())
    for stage in raw["stages"]:
        del stage["fallbacks"], stage["flat_loss"]
    older = plan_from_json(json.dumps(raw))
    assert older.stage("train") == replace(plan.stage("train"), fallbacks=(), flat_loss=None)


@pytest.mark.parametrize(
    ("recipe", "model", "override", "reason"),
    [
        ("qwen3_embedding_lora", EMBEDDING, "loss.use_batch=true", "negatives of infonce"),
        ("qwen3_embedding_lora", EMBEDDING, "loss=online_contrastive", "hard pairs of a batch"),
        ("qwen3_reranker_native", QWEN, "loss=pointwise", "different numbers"),
        ("qwen3_reranker_native", QWEN, "loss={type: listwise, max_positives: 2}", "max_positives"),
        ("qwen3_reranker_native", QWEN, "loss={type: listwise, min_group_size: 4}", "min_group_size"),
        ("qwen3_sft_lora", LLM, "train.router_aux_loss_coef=0.001", "experts"),
        ("bert_ranknet", ROBERTA, "loss=lambda_loss", "mean over all pairs"),
        ("demo_reranker", MINILM, "train.auto_find_batch_size=true", "auto_find_batch_size"),
        ("bge_pointwise", BGE_LARGE, "train.auto_find_batch_size=true", "auto_find_batch_size"),
    ],
)
def test_retry_is_refused_with_the_reason_where_it_would_change_what_is_learnt(recipe, model, override, reason):
    (message,) = refusals(job_of(recipe, model, override))
    assert reason in message
    assert refusals(build_imagined_job(recipe, model, GPU, overrides=(override,))) == []


@pytest.mark.parametrize(
    ("recipe", "model", "override"),
    [
        ("qwen3_embedding_lora", EMBEDDING, "loss={type: infonce, use_batch: false}"),
        ("qwen3_embedding_lora", EMBEDDING, "loss=contrastive"),
        ("qwen3_embedding_lora", EMBEDDING, "loss=cosine_similarity"),
        ("qwen3_reranker_native", QWEN, "loss=listwise"),
        ("qwen3_sft_lora", LLM, "train.seed=1"),
        ("qwen3_reranker", QWEN, "train.seed=1"),
        ("qwen3_reranker", QWEN, "train.knowledge_distillation=true"),
        ("bge_pointwise", BGE_LARGE, "loss=pointwise_mse"),
        ("bert_ranknet", ROBERTA, "loss=pairwise_ranknet"),
        ("bert_ranknet", ROBERTA, "loss=list_mle"),
    ],
)
def test_retry_is_let_through_where_every_row_has_its_own_loss(recipe, model, override):
    assert refusals(job_of(recipe, model, override)) == []


def test_a_deepspeed_file_that_fixes_the_batch_is_named():
    job = job_of("demo_reranker", MINILM)
    job = replace(job, deepspeed_text='{"train_micro_batch_size_per_gpu": 4, "gradient_accumulation_steps": "auto"}')
    assert refusals(job) == [
        "on_oom: retry changes batch and accumulation, and the DeepSpeed file fixes train_micro_batch_size_per_gpu"
    ]
