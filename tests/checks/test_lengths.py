"""Lengths beyond the last position of a model are refused, for each trainer's own arguments."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from orchestrator.backends.models import BaseModel
from orchestrator.checks.settings import check_lengths, find_positions


@pytest.mark.parametrize(
    ("config", "positions"),
    [
        ({"max_position_embeddings": 512}, 512),
        ({"n_positions": 1024}, 1024),
        ({"max_position_embeddings": 514, "model_type": "xlm-roberta", "pad_token_id": 1}, 512),
        ({"max_position_embeddings": 8194, "model_type": "xlm-roberta"}, 8192),
        ({"max_position_embeddings": 512, "position_biased_input": False}, None),
        ({"max_position_embeddings": 512, "position_embedding_type": "alibi"}, None),
        ({"max_position_embeddings": 512, "rope_scaling": None}, 512),
        ({"max_position_embeddings": 512, "rope_scaling": {"type": "yarn", "factor": 4.0}}, None),
        ({"max_position_embeddings": 512, "rope_parameters": {"rope_type": "default", "rope_theta": 1e6}}, 512),
        ({"max_position_embeddings": 512, "rope_parameters": {"full_attention": {"rope_type": "linear"}}}, None),
        ({"max_position_embeddings": 512, "rope_parameters": {"full_attention": {"rope_type": "default"}}}, 512),
        ({"n_positions": 512, "model_type": "t5", "relative_attention_num_buckets": 32}, None),
        ({"text_config": {"max_position_embeddings": 256}}, 256),
        ({"max_position_embeddings": -1}, None),
        ({"max_position_embeddings": "many"}, None),
        ({}, None),
    ],
)
def test_the_last_position_is_the_one_that_the_class_computes(config, positions):
    assert find_positions(config) == positions


def test_flagembeddings_two_lengths_count_together(folder, ask):
    model = folder.config(max_position_embeddings=1000).model()
    ((message, hint),) = ask(check_lengths, model, "train.query_max_len=500", "train.passage_max_len=501")
    assert "train.query_max_len + train.passage_max_len is 1001" in message
    assert "reads 1000 tokens at most" in message
    assert "give at most 1000" in hint
    assert ask(check_lengths, model, "train.query_max_len=500", "train.passage_max_len=500") == []


@pytest.mark.parametrize("recipe", ["qwen3_embedding_lora", "qwen3_sft_lora"])
def test_ms_swifts_length_is_held_against_the_model(folder, ask, recipe):
    model = folder.config(max_position_embeddings=300).model()
    ((message, _),) = ask(check_lengths, model, "train.max_length=301", recipe=recipe)
    assert "train.max_length is 301" in message
    assert ask(check_lengths, model, "train.max_length=300", recipe=recipe) == []


def test_positions_that_ms_swift_stretches_have_no_end_here(folder, ask):
    model = folder.config(max_position_embeddings=300).model()
    stretched = ("train.max_length=1200", "train.rope_scaling=yarn", "train.max_model_len=1200")
    assert ask(check_lengths, model, *stretched, recipe="qwen3_sft_lora") == []


def test_the_length_that_sentence_transformers_takes_by_default_counts_too(folder, ask):
    model = folder.config(max_position_embeddings=64).model(family="encoder", native="cross-encoder")
    ((message, _),) = ask(check_lengths, model, recipe="bert_pointwise")
    assert "train.max_length is" in message


def test_a_teachers_length_is_held_against_the_teacher(folder, ask):
    hub = BaseModel("google-bert/bert-base-uncased", "google-bert/bert-base-uncased", None, "encoder", None)
    teacher = folder.config(max_position_embeddings=128).model()
    ((message, _),) = ask(check_lengths, hub, "teacher.max_length=129", recipe="distill_llm_to_bert", teacher=teacher)
    assert "teacher.max_length is 129" in message
    elsewhere = replace(teacher, folder=None)
    assert ask(check_lengths, hub, "teacher.max_length=129", recipe="distill_llm_to_bert", teacher=elsewhere) == []


def test_a_smoke_run_has_lengths_of_its_own(folder, ask):
    assert ask(check_lengths, folder.config(max_position_embeddings=8).model(), smoke=True) == []
