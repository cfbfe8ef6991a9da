"""What a model is, as its name and its config tell."""

from __future__ import annotations

import json

import pytest

from orchestrator.backends.known_models import refuse_layerwise
from orchestrator.backends.models import find_model
from orchestrator.errors import RecipeError
from orchestrator.recipe.schema import ModelRef


@pytest.mark.parametrize(
    ("name", "family", "native"),
    [
        ("BAAI/bge-reranker-v2-gemma", "decoder", "flag-llm-reranker"),
        ("BAAI/bge-reranker-v2-minicpm-layerwise", "decoder", None),
        ("BAAI/bge-reranker-v2.5-gemma2-lightweight", "decoder", None),
        ("Qwen/Qwen3-Reranker-0.6B", "decoder", "qwen3-native"),
        ("BAAI/bge-reranker-v2-m3", "encoder", "cross-encoder"),
        ("cross-encoder/ms-marco-MiniLM-L6-v2", "encoder", "cross-encoder"),
        ("google-bert/bert-base-uncased", "encoder", None),
        ("google/gemma-2-2b", "decoder", None),
    ],
)
def test_a_hub_model_s_name_tells_its_family_and_its_own_way_of_scoring(tmp_path, name, family, native):
    model = find_model(ModelRef(path=name), tmp_path)
    assert (model.family, model.native) == (family, native)


def test_what_the_recipe_says_of_a_model_wins(tmp_path):
    model = find_model(ModelRef(path="owner/name", family="decoder", native="flag-llm-reranker"), tmp_path)
    assert (model.family, model.native) == ("decoder", "flag-llm-reranker")


@pytest.mark.parametrize(
    ("name", "config", "family"),
    [
        ("BAAI/bge-reranker-v2-m3", None, "decoder"),
        ("Qwen/Qwen3-0.6B", None, "encoder"),
        ("./own", {"architectures": ["BertForMaskedLM"]}, "decoder"),
    ],
)
def test_a_family_that_a_model_plainly_is_not_is_refused(tmp_path, name, config, family):
    if config:
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises(RecipeError, match=f"no {family}"):
        find_model(ModelRef(path=name, family=family), tmp_path)
    assert find_model(ModelRef(path=name), tmp_path).family != family


def test_a_model_that_flagllmreranker_cannot_score_is_refused_in_its_name(tmp_path):
    ref = ModelRef(path="BAAI/bge-reranker-v2-minicpm-layerwise", native="flag-llm-reranker")
    with pytest.raises(RecipeError, match="LayerWiseFlagLLMReranker, not FlagLLMReranker"):
        find_model(ref, tmp_path)


def test_a_model_of_unknown_family_is_asked_for(tmp_path):
    with pytest.raises(RecipeError, match="owner/name is an LLM or a BERT-like encoder") as caught:
        find_model(ModelRef(path="owner/name"), tmp_path)
    assert "family: decoder" in (caught.value.problems[0].hint or "")


def test_only_flagembedding_s_other_llm_rerankers_need_another_class():
    assert refuse_layerwise("BAAI/bge-reranker-v2-gemma") is None
    for name, architectures, needs in (
        ("BAAI/bge-reranker-v2.5-gemma2-lightweight", (), "LightWeightFlagLLMReranker"),
        ("own/reranker", ("LayerWiseMiniCPMForCausalLM",), "LayerWiseFlagLLMReranker"),
        ("own/reranker", ("CostWiseGemmaForCausalLM",), "LightWeightFlagLLMReranker"),
    ):
        why = refuse_layerwise(name, architectures)
        assert why.startswith(f"{name} scores by layers of its own choice ({needs}")
        assert "transformers 5" in why
