"""How any model is scored: packaged folders as they say, others in their authors' way, none with an untrained head."""

from __future__ import annotations

import json

import pytest

from orchestrator.backends.models import BaseModel, find_model
from orchestrator.backends.scorers import QWEN3_INSTRUCTION, build_scoring
from orchestrator.errors import Problem
from orchestrator.recipe.schema import ModelRef

ENCODER_HEAD = ("BertForSequenceClassification",)


@pytest.fixture
def folder(tmp_path):
    """Make a model folder of configs only: {file: content}."""

    def make(architecture: str, **files):
        config = {"architectures": [architecture], "hidden_size": 8}
        for name, content in {"config.json": config, **files}.items():
            path = tmp_path / name.replace("__", "/")
            path.parent.mkdir(exist_ok=True)
            path.write_text(json.dumps(content), encoding="utf-8")
        return tmp_path

    return make


def read(folder, **ref):
    return find_model(ModelRef(path=str(folder), **ref), folder)


def hub_model(name="owner/name", family="encoder", native=None, architectures=()):
    return BaseModel(name, name, None, family, native, architectures=architectures)


def build(model, **options):
    return build_scoring(model, **{"dtype": "float32", "name": "model", **options})


def problem(found):
    assert isinstance(found, Problem)
    return f"{found.message} {found.hint}"


def test_a_cross_encoder_is_scored_by_its_own_head(folder):
    spec = build(read(folder(*ENCODER_HEAD)), max_length=256)
    assert (spec["scorer"], spec["max_length"], spec["batch_size"], spec["dtype"]) == (
        "cross-encoder",
        256,
        32,
        "float32",
    )


def test_a_model_without_a_head_and_without_a_way_of_scoring_is_a_problem_that_names_the_formats(folder):
    said = problem(build(read(folder("BertForMaskedLM"))))
    assert "no head that scores pairs" in said
    assert "say how it is scored: embedding" in said


def test_a_model_without_a_head_is_no_cross_encoder_though_it_is_named_one(folder):
    assert "no trained head" in problem(build(read(folder("BertForMaskedLM")), format="cross-encoder"))


def test_an_encoder_with_a_pooling_is_scored_as_a_bi_encoder(folder):
    spec = build(read(folder("BertModel", **{"1_Pooling__config.json": {}})))
    assert (spec["scorer"], spec["max_length"]) == ("bi-encoder", 512)


def test_a_bare_language_model_is_no_bi_encoder_for_nobody_says_how_it_pools(folder):
    assert "does not say how it pools" in problem(build(read(folder("Qwen3ForCausalLM")), format="bi-encoder"))


def test_a_reranker_that_flagembedding_scores_by_another_class_is_a_problem():
    model = hub_model("BAAI/bge-reranker-v2-minicpm-layerwise", "decoder")
    for form in ("flag-llm-reranker", "qwen3-native", "cross-encoder"):
        assert "LayerWiseFlagLLMReranker, not FlagLLMReranker" in problem(build(model, format=form))


@pytest.mark.parametrize("architecture", ["BertModel", "Qwen3ForCausalLM"])
def test_a_bare_model_that_nobody_knows_is_asked_how_it_pools(folder, architecture):
    bare = read(folder(architecture))
    assert "--pooling mean" in problem(build(bare, format="embedding"))
    assert build(bare, format="embedding", pooling="cls")["pooling"] == "cls"


def test_a_model_that_says_how_it_pools_is_not_told_otherwise(folder):
    said = read(folder("BertModel", **{"1_Pooling__config.json": {"pooling_mode_cls_token": True}}))
    assert build(said, format="embedding", pooling="cls")["pooling"] == "cls"
    assert "pools by cls, and not by mean" in problem(build(said, format="embedding", pooling="mean"))
    assert "and not by mean" in problem(build(said, format="bi-encoder", pooling="mean"))


def test_a_model_on_the_hub_is_asked_nothing_before_its_files_are_here():
    assert build(hub_model("owner/embeds", "encoder"), format="embedding")["pooling"] is None


def test_where_vectors_are_compared_a_bi_encoder_is_an_embedding_model_with_its_own_prompts(folder):
    prompts = {"prompts": {"query": "q: ", "passage": "p: "}}
    found = folder("BertModel", **{"1_Pooling__config.json": {}, "config_sentence_transformers.json": prompts})
    spec = build(read(found), vectors=True)
    assert [spec[key] for key in ("scorer", "query_prompt", "document_prompt")] == ["embedding", "q: ", "p: "]


@pytest.mark.parametrize("prompts", [{}, {"prompts": None}, {"prompts": {"query": 5}}, [1]])
def test_prompts_that_cannot_be_read_are_none(folder, prompts):
    found = folder("BertModel", **{"1_Pooling__config.json": {}, "config_sentence_transformers.json": prompts})
    assert build(read(found), format="embedding")["query_prompt"] == ""


def test_an_instruction_of_an_llm_that_embeds_is_in_the_form_of_qwen3_embedding():
    spec = build(hub_model("Qwen/Qwen3-Embedding-0.6B", "decoder"), format="embedding", instruction="find answers")
    assert (spec["query_prompt"], spec["pooling"]) == ("Instruct: find answers\nQuery:", "lasttoken")


def test_qwen3_reranker_is_scored_in_its_prompt_whose_tokens_come_on_top():
    spec = build(hub_model("Qwen/Qwen3-Reranker-0.6B", "decoder", "qwen3-native"), max_length=512)
    assert (spec["scorer"], spec["max_length"], spec["batch_size"]) == ("qwen3-native", 640, 8)
    assert spec["instruction"] == QWEN3_INSTRUCTION


def test_flag_llm_reranker_marks_query_and_document_as_flagembedding_does():
    spec = build(hub_model("BAAI/bge-reranker-v2-gemma", "decoder"), format="flag-llm-reranker")
    assert (spec["prompt"], spec["query_instruction"], spec["passage_instruction"]) == (None, "A: ", "B: ")


@pytest.mark.parametrize("name", ["qwen3-native", "flag-llm-reranker"])
def test_an_encoder_is_not_asked_for_a_word(name):
    assert "is no LLM" in problem(build(hub_model(architectures=("BertModel",)), format=name))


def test_an_unknown_format_is_a_problem_that_names_the_known_ones():
    assert "known are qwen3-native, cross-encoder" in problem(build(hub_model(), format="colbert"))


def test_a_packaged_folder_is_scored_as_it_says(folder):
    own = {"version": 1, "scorer": "qwen3-score-head", "max_length": 77, "dtype": "bfloat16", "tool": "swift"}
    spec = build(
        read(folder("Qwen3ForSequenceClassification", **{"scoring.json": own}), family="decoder"), label="mine"
    )
    assert spec == {**own, "name": "model", "label": "mine", "batch_size": 8}


def test_a_batch_size_that_is_given_replaces_the_packaged_one(folder):
    own = {"scorer": "cross-encoder", "max_length": 77, "batch_size": 4}
    assert build(read(folder(*ENCODER_HEAD, **{"scoring.json": own})), batch_size=2)["batch_size"] == 2


@pytest.mark.parametrize(
    ("own", "options", "message"),
    [
        ({"scorer": "chat"}, {}, "gives no scores"),
        ([], {}, "gives no scores"),
        ({"scorer": "cross-encoder"}, {"format": "bi-encoder"}, "its scoring.json says cross-encoder"),
        ({"scorer": "cross-encoder", "trust_remote_code": True}, {}, "asks to run Python code"),
    ],
)
def test_a_packaged_folder_that_cannot_be_scored_so_is_a_problem(folder, own, options, message):
    assert message in problem(build(read(folder(*ENCODER_HEAD, **{"scoring.json": own})), **options))


def test_a_scoring_json_that_is_no_json_is_a_problem(folder):
    found = folder(*ENCODER_HEAD)
    (found / "scoring.json").write_text("{", encoding="utf-8")
    assert "cannot be read" in problem(build(read(found)))


def test_a_model_whose_code_is_trusted_says_so_to_the_worker(folder):
    assert build(read(folder(*ENCODER_HEAD), trust_remote_code=True))["trust_remote_code"] is True
