"""A hub that has a model's weights as pickles only is found out by two questions, before the download."""

from __future__ import annotations

import json

import pytest

from orchestrator.backends.models import BaseModel
from orchestrator.checks.hub import check_hub

NAME = "Qwen/Qwen3-Reranker-0.6B"
CONFIG = {"architectures": ["Qwen3ForCausalLM"], "hidden_size": 1024}


@pytest.fixture
def problems(ask, start_hub, monkeypatch):
    """Ask a hub that has these files; it answers with this code for every other one."""

    def problems(*files: str, otherwise: int = 404, overrides: tuple[str, ...] = (f"model.path={NAME}",)):
        listing = {"siblings": [{"rfilename": file, "size": 5} for file in files]}

        def answer(_method: str, path: str) -> tuple[int, bytes]:
            if path == f"/api/models/{NAME}/revision/main?blobs=true" and files:
                return 200, json.dumps(listing).encode()
            return (200, json.dumps(CONFIG).encode()) if path.startswith(f"/{NAME}/") else (otherwise, b"")

        monkeypatch.setenv("HF_ENDPOINT", start_hub(answer))
        monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
        return ask(check_hub, BaseModel(NAME, NAME, None, "decoder", "qwen3-native"), *overrides)

    return problems


@pytest.mark.parametrize("file", ["model.safetensors", "model.safetensors.index.json"])
def test_safetensors_are_let_through(problems, file):
    assert problems(file) == []


def test_a_model_without_safetensors_is_refused_until_the_recipe_allows_pickles(problems):
    ((message, hint),) = problems("pytorch_model.bin")
    assert f"{NAME} has no safetensors on the hub" in message
    assert f"model: {{path: {NAME}, allow_pickle: true}}" in hint
    assert problems("pytorch_model.bin", overrides=(f"model.path={NAME}", "model.allow_pickle=true")) == []


@pytest.mark.parametrize("code", [403, 429, 500, 501])
def test_a_hub_that_does_not_say_is_no_verdict(problems, code):
    assert problems(otherwise=code) == []
