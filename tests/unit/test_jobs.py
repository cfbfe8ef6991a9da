"""A recipe and a machine become a job, or every reason why they do not fit: kinds of data, the teacher, guards."""

from __future__ import annotations

import json

import pytest

from orchestrator.backends.protocol import eval_kind
from orchestrator.errors import PreflightError, RecipeError
from orchestrator.machine.hardware import CPU

RANKED = {"query": "q", "pos": ["a"], "neg": ["b"]}
LABELLED = {"query": "q", "content": "a", "label": 1}
SCORED = {"sentence1": "a", "sentence2": "b", "score": 0.5}
CHAT = {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]}

CROSS_ENCODER = """\
name: toy
task: reranker
backend: sentence-transformers
model: BAAI/bge-reranker-base
data: {train: train.jsonl, eval: eval.jsonl}
"""
LLM = CROSS_ENCODER.replace("sentence-transformers", "flagembedding").replace(
    "bge-reranker-base", "bge-reranker-v2-gemma"
)
EMBEDDING = """\
name: toy
task: embedding
backend: swift
model: Qwen/Qwen3-Embedding-0.6B
data: {train: train.jsonl, eval: eval.jsonl}
loss: infonce
"""
DISTILLED = CROSS_ENCODER + "loss: margin_mse\n"


@pytest.fixture
def build(build_toy_job):
    return build_toy_job


@pytest.fixture
def refuse(build):
    """Return the one problem of a recipe as (line, message, hint)."""

    def refuse(text: str, **rows):
        with pytest.raises(RecipeError) as caught:
            build(text, **rows)
        (problem,) = caught.value.problems
        return problem.where.line if problem.where else None, problem.message, problem.hint or ""

    return refuse


@pytest.mark.parametrize(
    ("text", "kind"), [(CROSS_ENCODER, "labelled"), (LLM, "group"), (EMBEDDING, "group")], ids=["st", "flag", "swift"]
)
def test_the_backend_decides_what_a_reranker_s_rows_are(build, text, kind):
    assert build(text).kind == kind


def test_an_embedding_model_s_rows_are_what_the_first_row_is(build):
    text = EMBEDDING.replace("infonce", "cosine_similarity")
    assert build(text, train=SCORED, eval=SCORED).kind == "pair"


def test_a_recipe_without_a_teacher_has_none(build):
    assert build(CROSS_ENCODER).teacher is None


def test_a_teacher_is_a_model_of_its_own(build):
    teacher = build(DISTILLED + "teacher: Qwen/Qwen3-Reranker-4B\n").teacher
    assert (teacher.name, teacher.family, teacher.native) == ("Qwen/Qwen3-Reranker-4B", "decoder", "qwen3-native")


@pytest.mark.parametrize(
    ("teacher", "message", "hint"),
    [
        ("Qwen/Qwen3-4B", "has no head that scores pairs", "teacher: {path: Qwen/Qwen3-4B, native: …}"),
        ("BAAI/bge-reranker-v2.5-gemma2-lightweight", "LightWeightFlagLLMReranker", "another teacher"),
        ("BAAI/bge-reranker-v2-minicpm-layerwise", "LayerWiseFlagLLMReranker", "another teacher"),
    ],
)
def test_a_teacher_that_cannot_score_is_refused_with_its_line_and_the_reason(refuse, teacher, message, hint):
    line, said, way = refuse(DISTILLED + f"teacher: {teacher}\n")
    assert line == 7
    assert message in said
    assert hint in way


def test_a_teacher_that_says_how_it_is_scored_need_not_be_known_by_name(build):
    job = build(DISTILLED + "teacher: {path: owner/scores-pairs, family: encoder, native: cross-encoder}\n")
    assert job.teacher.native == "cross-encoder"


def test_a_teacher_whose_class_is_not_called_is_not_called_in_another_s_name(build):
    teacher = "{path: BAAI/bge-reranker-v2.5-gemma2-lightweight, native: flag-llm-reranker}"
    with pytest.raises(RecipeError, match="not FlagLLMReranker"):
        build(DISTILLED + f"teacher: {teacher}\n")


def test_a_local_teacher_that_brings_code_must_be_trusted(refuse, tmp_path):
    folder = tmp_path / "teacher"
    folder.mkdir()
    config = {"architectures": ["MineForSequenceClassification"], "auto_map": {"AutoModel": "mine.Model"}}
    (folder / "config.json").write_text(json.dumps(config))
    line, said, way = refuse(DISTILLED + "teacher: {path: teacher, family: encoder}\n")
    assert (line, "brings Python code" in said, "trust_remote_code: true" in way) == (7, True, True)


@pytest.mark.parametrize(
    ("text", "row", "kind"),
    [
        (CROSS_ENCODER, RANKED, "group"),
        (CROSS_ENCODER, LABELLED, "labelled"),
        (LLM, LABELLED, "labelled"),
        (EMBEDDING, RANKED, "group"),
        (EMBEDDING, SCORED, "pair"),
    ],
)
def test_a_guard_s_kind_is_what_its_first_row_is(build, text, row, kind):
    job = build(text + "evaluate: {guard: {general: guard.jsonl}}\n", guard=row)
    assert dict(job.guard_kinds) == {"general": kind}


def test_the_kind_of_a_guard_on_a_hub_is_the_usual_one_of_the_task(build):
    job = build(CROSS_ENCODER + "evaluate: {guard: {general: 'owner/name:test'}}\n")
    assert dict(job.guard_kinds) == {"general": "group"}


@pytest.mark.parametrize(
    ("text", "row", "kind"),
    [(CROSS_ENCODER, CHAT, "chat"), (CROSS_ENCODER, SCORED, "pair"), (EMBEDDING, CHAT, "chat")],
)
def test_a_guard_with_rows_of_another_kind_is_refused_with_its_line(refuse, text, row, kind):
    line, said, way = refuse(text + "evaluate:\n  guard:\n    general: guard.jsonl\n", guard=row)
    assert line == len(text.splitlines()) + 3
    assert f"the guard general holds {kind} rows" in said
    assert "orch data convert" in way


def test_an_llm_has_no_guards_yet(refuse):
    text = (
        EMBEDDING.replace("task: embedding", "task: sft")
        .replace("Embedding-0.6B", "0.6B")
        .replace("loss: infonce\n", "")
    )
    line, said, _ = refuse(text + "evaluate: {guard: {general: guard.jsonl}}\n", train=CHAT, eval=CHAT, guard=CHAT)
    assert "rerankers and embedding models only" in said
    assert line == 6


def test_a_guard_s_gate_on_a_metric_of_another_kind_is_refused(refuse):
    guard = '{data: guard.jsonl, gate: {spearman: ">= baseline"}}'
    _, said, way = refuse(CROSS_ENCODER + f"evaluate: {{guard: {{general: {guard}}}}}\n", guard=RANKED)
    assert "spearman does not measure ranked candidates" in said
    assert "ndcg@k" in way


def test_a_guard_is_held_against_the_measures_of_its_own_kind(build):
    guard = '{data: guard.jsonl, gate: {spearman: ">= baseline - 0.02"}}'
    job = build(EMBEDDING + f"evaluate: {{guard: {{alike: {guard}}}}}\n", guard=SCORED)
    assert job.guard_kinds["alike"] == "pair"


def test_guards_need_a_model_that_is_packaged(refuse):
    text = LLM + "merge: false\nevaluate: {guard: {general: guard.jsonl}}\n"
    line, said, way = refuse(text, guard=RANKED)
    assert line == 6
    assert "LoRA weights are measured merged" in said
    assert "merge: true" in way


@pytest.mark.parametrize(
    ("text", "export", "message", "hint"),
    [
        (LLM, "[seq-cls, onnx]", "ONNX is written for encoders", "it has seq-cls"),
        (CROSS_ENCODER, "seq-cls", "has no form seq-cls", "it has onnx"),
        (CROSS_ENCODER, "[gguf]", "llama.cpp turned the order round", "it has onnx"),
        (LLM + "merge: false\n", "seq-cls", "exports need a measured model", "merge: true"),
        (CROSS_ENCODER, '{forms: [onnx], gate: {spearman: ">= source"}}', "spearman does not measure", "ndcg@k"),
    ],
)
def test_an_export_that_cannot_be_is_refused_before_anything_runs(refuse, text, export, message, hint):
    _, said, way = refuse(text + f"export: {export}\n")
    assert message in said
    assert hint in way


@pytest.mark.parametrize("export", ["onnx", "[onnx, onnx-int8]", "{forms: onnx, python: python3}"])
def test_forms_are_written_alone_as_a_list_or_in_full(build, export):
    job = build(CROSS_ENCODER + f"export: {export}\n")
    assert job.recipe.export.forms[0] == "onnx"
    assert (job.export_python is None) == ("python3" not in export)


def test_a_python_of_the_exporter_that_is_not_there_is_named_with_its_line(build):
    with pytest.raises(PreflightError, match="export.python: no such interpreter: nowhere/python") as caught:
        build(CROSS_ENCODER + "export:\n  forms: [onnx]\n  python: nowhere/python\n")
    assert caught.value.problems[0].where.line == 8


def test_without_lora_nothing_needs_merging_for_guards(build):
    text = CROSS_ENCODER + "merge: false\nevaluate: {guard: {general: guard.jsonl}}\n"
    assert build(text, guard=RANKED).guard_kinds


def test_a_gpu_is_not_needed_to_check_a_recipe(build):
    assert build(CROSS_ENCODER, CPU).hardware.kind == "cpu"


def test_labelled_rows_are_measured_as_rankings(build, refuse):
    assert eval_kind(build(CROSS_ENCODER + "evaluate: {metrics: [ndcg@5]}\n")) == "group"
    _, said, _ = refuse(CROSS_ENCODER + "evaluate: {metrics: [pearson]}\n")
    assert "pearson does not measure ranked candidates" in said
