"""A training that could not go on after a stop is announced before it begins."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from orchestrator.checks.settings import advise_on_resuming
from orchestrator.plan.pipeline import build_plan
from tests.golden.regenerate import BGE_LARGE, GPU, MINILM, QWEN
from tests.jobs import build_imagined_job


def advise(job):
    return list(advise_on_resuming(job, build_plan(job)))


def test_flagembedding_without_deepspeed_says_that_it_starts_anew():
    job = build_imagined_job("demo_reranker", MINILM, GPU)
    (problem,) = advise(job)
    assert "starts anew" in problem.message
    assert "deepspeed: zero0" in problem.hint
    notes = [note for note in build_plan(job).notes if note.argument == "resume_from_checkpoint"]
    assert [note.value for note in notes] == ["never"]


def test_a_smoke_run_is_not_bothered_with_it():
    job = build_imagined_job("demo_reranker", MINILM, GPU, smoke=True)
    assert advise(job) == []


@pytest.mark.parametrize(("recipe", "model"), [("qwen3_reranker", QWEN), ("bge_pointwise", BGE_LARGE)])
def test_a_training_that_can_be_continued_says_nothing(recipe, model):
    job = build_imagined_job(recipe, model, GPU)
    assert advise(replace(job, deepspeed_text=job.deepspeed_text)) == []
    assert not [note for note in build_plan(job).notes if note.argument == "resume_from_checkpoint"]
