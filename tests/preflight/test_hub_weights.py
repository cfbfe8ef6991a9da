"""A hub that has a model's weights as pickles only is found out by two questions, before the download."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from orchestrator.models import BaseModel
from orchestrator.preflight.hub import check_hub

NAME = "Qwen/Qwen3-Reranker-0.6B"
CONFIG = {"architectures": ["Qwen3ForCausalLM"], "hidden_size": 1024}


@pytest.fixture
def problems(ask, monkeypatch):
    """Ask a hub that has these files; it answers with this code for every other one."""
    servers = []

    def problems(*files: str, otherwise: int = 404, overrides: tuple[str, ...] = (f"model.path={NAME}",)):
        class Hub(BaseHTTPRequestHandler):
            def do_GET(self):
                self.send_response(200)
                self.end_headers()
                self.wfile.write(json.dumps(CONFIG).encode())

            def do_HEAD(self):
                self.send_response(
                    200 if self.path in {f"/{NAME}/resolve/main/{file}" for file in files} else otherwise
                )
                self.end_headers()

            def log_message(self, *words):
                pass

        server = HTTPServer(("127.0.0.1", 0), Hub)
        servers.append(server)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
        monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
        return ask(check_hub, BaseModel(NAME, NAME, None, "decoder", "qwen3-native"), *overrides)

    yield problems
    for server in servers:
        server.shutdown()
        server.server_close()


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
