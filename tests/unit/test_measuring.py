"""What a run measures: the untouched model in each of its formats, the teacher last, and the tuned one."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from orchestrator.backends import BACKENDS
from orchestrator.plan.measuring import build_measured, build_teacher

CROSS_ENCODER = """\
name: toy
task: reranker
backend: sentence-transformers
model: MODEL
data: {train: train.jsonl, eval: eval.jsonl}
"""


@pytest.fixture
def measure(build_toy_job):
    """Return what the recipe for a model measures."""

    def measure(model: str, more: str = "", *, smoke: bool = False, backend: str = "sentence-transformers"):
        text = CROSS_ENCODER.replace("MODEL", model).replace("sentence-transformers", backend)
        job = replace(build_toy_job(text + more), smoke=smoke)
        return build_measured(job, BACKENDS[backend].build_training(job, model="/m", data="/d", output="/o"))

    return measure


def scorers(measured):
    return [(system.name, system.spec["scorer"]) for system in measured.baselines]


def test_a_cross_encoder_has_one_baseline_in_the_format_of_its_training(measure):
    measured = measure("BAAI/bge-reranker-base")
    assert scorers(measured) == [("trained-format", "cross-encoder")]
    assert measured.baselines[0].spec["tool"] == "sentence-transformers"
    assert [note.value for note in measured.notes] == ["trained-format"]


def test_a_bi_encoder_is_measured_as_what_it_is_too(measure):
    measured = measure("{path: owner/minilm, native: bi-encoder}")
    assert scorers(measured) == [("native", "bi-encoder"), ("trained-format", "cross-encoder")]


def test_an_llm_is_measured_in_the_training_s_written_format(measure):
    measured = measure("Qwen/Qwen3-0.6B")
    assert scorers(measured) == [("trained-format", "formatted-head")]
    assert measured.packaged.spec["scorer"] == "formatted-head"


def test_qwen3_reranker_s_prompt_comes_on_top_of_the_training_s_length(measure):
    measured = measure("Qwen/Qwen3-Reranker-0.6B", "train: {max_length: 256}\n")
    assert scorers(measured) == [("native", "qwen3-native"), ("trained-format", "formatted-head")]
    assert measured.baselines[0].spec["max_length"] == 256 + 128


def test_bge_reranker_v2_gemma_trained_by_flagembedding_is_scored_alike_by_both(measure):
    measured = measure("BAAI/bge-reranker-v2-gemma", backend="flagembedding")
    assert scorers(measured) == [("native", "flag-llm-reranker")]
    assert "FlagEmbedding's own prompt" in measured.baselines[0].spec["label"]


def test_another_instruction_makes_flagembedding_s_own_format_a_baseline_of_its_own(measure):
    more = "train: {query_instruction_for_rerank: 'Q: '}\n"
    native, trained = measure("BAAI/bge-reranker-v2-gemma", more, backend="flagembedding").baselines
    assert (native.spec["query_instruction"], trained.spec["query_instruction"]) == ("A: ", "Q: ")


def test_the_teacher_is_the_last_baseline_and_never_the_reference(measure):
    measured = measure("BAAI/bge-reranker-base", "teacher: BAAI/bge-reranker-large\nloss: margin_mse\n")
    assert scorers(measured) == [("trained-format", "cross-encoder"), ("teacher", "cross-encoder")]
    assert measured.baselines[-1].spec["label"] == "teacher: BAAI/bge-reranker-large"
    assert measured.reference_baseline is measured.baselines[0]


def test_without_baselines_there_is_a_reference_for_guards(measure):
    measured = measure("BAAI/bge-reranker-base", "evaluate: {baselines: []}\n")
    assert measured.baselines == ()
    assert measured.reference_baseline.name == "trained-format"


def test_a_teacher_is_scored_as_the_recipe_says(build_toy_job):
    more = "teacher: {path: Qwen/Qwen3-Reranker-4B, instruction: find answers, max_length: 256, batch_size: 3}\n"
    job = build_toy_job(CROSS_ENCODER.replace("MODEL", "BAAI/bge-reranker-base") + "loss: margin_mse\n" + more)
    spec = build_teacher(job).spec
    assert (spec["scorer"], spec["instruction"], spec["batch_size"]) == ("qwen3-native", "find answers", 3)
    assert spec["max_length"] == 256 + 128
    assert spec["dtype"] == "bfloat16"
    assert "base_name" not in spec
    assert build_teacher(replace(job, smoke=True)).spec["base_name"] == "a tiny random model"
