"""Secrets are known by the names that tools use, and the hub's token never stands where it is logged."""

from __future__ import annotations

import pytest

from orchestrator.secrets import is_secret, rename_hub_token


@pytest.mark.parametrize("name", ["HF_TOKEN", "WANDB_API_KEY", "AWS_SECRET_ACCESS_KEY", "DB_PASSWORD", "MY_KEY"])
def test_names_of_secrets_are_known(name):
    assert is_secret(name)


@pytest.mark.parametrize(
    "name", ["TOKENIZERS_PARALLELISM", "GENERATIVE_RERANKER_POSITIVE_TOKEN", "OMP_NUM_THREADS", "KEYS"]
)
def test_names_that_only_look_like_secrets_are_not(name):
    assert not is_secret(name)


def test_the_hub_s_token_moves_to_the_name_that_nobody_logs():
    assert rename_hub_token({"HF_TOKEN": "x", "A": "b"}) == {"HUGGING_FACE_HUB_TOKEN": "x", "A": "b"}
    assert rename_hub_token({"A": "b"}) == {"A": "b"}
