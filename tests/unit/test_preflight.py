"""A hub is asked for the model's config before any long work, and what it shows not to fit is refused."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from orchestrator.hardware import Hardware
from orchestrator.models import BaseModel
from orchestrator.preflight import _unreachable_model
from tests.jobs import build_imagined_job

GPU = Hardware("cuda", 1, bf16=True)
QWEN = {"architectures": ["Qwen3ForCausalLM"], "hidden_size": 1024}


@pytest.fixture
def ask(monkeypatch):
    """Ask a hub that answers with this code and body for the model of the full embedding recipe."""
    servers = []

    def ask(code: int, body: str):
        class Hub(BaseHTTPRequestHandler):
            def do_GET(self):
                self.send_response(code)
                self.end_headers()
                self.wfile.write(body.encode())

            def log_message(self, *words):
                pass

        server = HTTPServer(("127.0.0.1", 0), Hub)
        servers.append(server)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
        monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
        name = "Qwen/Qwen3-Embedding-0.6B"
        return _unreachable_model(
            build_imagined_job("qwen3_embedding_full", BaseModel(name, name, None, "decoder", None), GPU)
        )

    yield ask
    for server in servers:
        server.shutdown()
        server.server_close()


def test_a_model_that_fits_is_let_through(ask):
    assert ask(200, json.dumps(QWEN)) == []


def test_a_page_in_front_of_the_hub_is_no_verdict_on_the_model(ask):
    assert ask(200, "<html>sign in</html>") == []
    assert ask(200, "[]") == []


def test_a_model_whose_vectors_are_too_short_is_refused_before_it_is_downloaded(ask):
    (problem,) = ask(200, json.dumps({**QWEN, "hidden_size": 512}))
    assert "1024 numbers" in problem.message
    assert "512" in problem.hint


def test_a_model_that_brings_code_is_refused_before_it_is_downloaded(ask):
    (problem,) = ask(200, json.dumps({**QWEN, "auto_map": {"AutoModel": "mine.Model"}}))
    assert "Python code" in problem.message


@pytest.mark.parametrize(
    ("code", "says"), [(404, "is not on the hub"), (401, "gated or private"), (403, "gated or private")]
)
def test_what_the_hub_says_of_a_model_that_it_does_not_give_is_passed_on(ask, code, says):
    (problem,) = ask(code, "")
    assert says in problem.message
