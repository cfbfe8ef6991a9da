"""The hub is the one that huggingface_hub would ask, and its cache the folder where that library looks."""

from __future__ import annotations

import shutil
import ssl
import subprocess
import threading
import urllib.error
import urllib.request
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from orchestrator.backends.models import find_model
from orchestrator.checks.hub import open_address
from orchestrator.machine.places import (
    find_endpoint,
    find_hub_cache,
    find_token,
    is_offline,
    is_web_address,
)
from orchestrator.recipe.schema import ModelRef

_VARIABLES = (
    "HF_HOME", "HF_HUB_CACHE", "XDG_CACHE_HOME", "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_TOKEN_PATH",
    "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE",
)  # fmt: skip


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The home of a user whose shell names no cache."""
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in _VARIABLES:
        monkeypatch.delenv(name, raising=False)
    return tmp_path


@pytest.mark.parametrize(
    ("env", "folder"),
    [
        ({}, ".cache/huggingface/hub"),
        ({"HF_HOME": ""}, ".cache/huggingface/hub"),
        ({"XDG_CACHE_HOME": "~/xdg"}, "xdg/huggingface/hub"),
        ({"HF_HOME": "~/hf", "XDG_CACHE_HOME": "~/xdg"}, "hf/hub"),
        ({"HF_HOME": "$HOME/hf"}, "hf/hub"),
        ({"HF_HUB_CACHE": "~/cache", "HF_HOME": "~/hf"}, "cache"),
    ],
)
def test_the_cache_lies_where_huggingface_hub_keeps_it(home, monkeypatch, env, folder):
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    assert find_hub_cache() == home / folder


def test_the_home_of_nobody_is_a_folder_that_is_not_there(home, monkeypatch):
    monkeypatch.setenv("HF_HOME", "~no-such-user/hf")
    assert find_hub_cache() == Path("~no-such-user/hf/hub")
    assert find_model(ModelRef(path="Qwen/Qwen3-Reranker-0.6B"), home).folder is None


def test_a_model_in_the_cache_is_found_there(home, monkeypatch):
    monkeypatch.setenv("HF_HOME", "~/hf")
    repository = home / "hf" / "hub" / "models--owner--bert"
    snapshot = repository / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text('{"architectures": ["BertForSequenceClassification"]}')
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("abc\n")
    assert find_model(ModelRef(path="owner/bert"), home).folder == snapshot


def test_the_first_environment_that_names_a_hub_wins():
    mirror = {"HF_ENDPOINT": "https://hf-mirror.com"}
    assert find_endpoint({}, mirror) == "https://hf-mirror.com"
    assert find_endpoint({"HF_ENDPOINT": "http://hub.local"}, mirror) == "http://hub.local"
    assert find_endpoint({"HF_ENDPOINT": ""}, {}) == "https://huggingface.co"


@pytest.mark.parametrize(("value", "offline"), [("1", True), ("ON", True), ("yes", True), ("0", False), ("", False)])
def test_a_hub_is_not_asked_where_the_library_would_not_ask_it(value, offline):
    assert is_offline({"HF_HUB_OFFLINE": value}) is offline
    assert not is_offline({})


def test_only_web_addresses_can_be_asked():
    assert is_web_address("http://127.0.0.1:80")
    assert not is_web_address("ftp://hub")
    assert not is_web_address("hf-mirror.com")


@pytest.mark.parametrize(
    ("env", "token"),
    [
        ({}, "stored"),
        ({"HF_TOKEN": "mine"}, "mine"),
        ({"HF_TOKEN": " "}, "stored"),
        ({"HUGGING_FACE_HUB_TOKEN": "older"}, "older"),
        ({"HF_HOME": "~/other"}, None),
        ({"HF_TOKEN_PATH": "~/elsewhere"}, "apart"),
    ],
)
def test_the_token_is_the_one_that_a_download_would_send(home, monkeypatch, env, token):
    stored = home / ".cache" / "huggingface" / "token"
    stored.parent.mkdir(parents=True)
    stored.write_text("stored\n")
    (home / "elsewhere").write_text("apart\n")
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    assert find_token() == token


def test_a_stored_token_that_is_no_text_is_none(home):
    stored = home / ".cache" / "huggingface" / "token"
    stored.parent.mkdir(parents=True)
    stored.write_bytes(b"stor\xffed\n")
    assert find_token() is None


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl makes the certificate")
@pytest.mark.parametrize("variable", ["REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"])
def test_a_company_s_certificates_are_trusted_where_the_environment_names_them(home, monkeypatch, variable):
    key, certificate = home / "key.pem", home / "cert.pem"
    words = "req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=hub -addext subjectAltName=IP:127.0.0.1"
    argv = ["openssl", *words.split(), "-keyout", str(key), "-out", str(certificate)]
    subprocess.run(argv, check=True, capture_output=True)

    class Hub(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(204)
            self.end_headers()

        def log_message(self, *words):
            pass

    with HTTPServer(("127.0.0.1", 0), Hub) as server:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key)
        server.socket = context.wrap_socket(server.socket, server_side=True)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        request = urllib.request.Request(f"https://127.0.0.1:{server.server_port}")
        with pytest.raises(urllib.error.URLError, match="certificate"):
            open_address(request, 20)
        monkeypatch.setenv(variable, str(certificate))
        with open_address(request, 20) as answer:
            assert answer.status == 204
        server.shutdown()
