"""The load test counts what a server answered, with as many clients as it says, and takes no refusal for an answer."""

from __future__ import annotations

import importlib.util
import json
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "load.py"


@pytest.fixture(scope="module")
def load():
    spec = importlib.util.spec_from_file_location("load", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules["load"] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def server():
    seen = {"bodies": [], "now": 0, "most": 0, "status": 200}
    lock = threading.Lock()

    class Answers(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self):
            with lock:
                seen["now"] += 1
                seen["most"] = max(seen["most"], seen["now"])
                seen["bodies"].append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            time.sleep(0.02)
            with lock:
                seen["now"] -= 1
            self.send_response(seen["status"])
            self.send_header("Content-Length", "2")
            self.end_headers()
            self.wfile.write(b"{}")

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Answers) as one:
        threading.Thread(target=one.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{one.server_port}/v1/embeddings", seen
        one.shutdown()


def test_every_request_is_sent_once_by_so_many_clients(load, server):
    url, seen = server
    measured = load.measure(url, "mine", clients=4, requests=24)
    texts = [body["input"][0] for body in seen["bodies"]]
    assert len(texts) == len(set(texts)) == 24
    assert 2 <= seen["most"] <= 4
    assert measured.per_s > 0
    assert measured.p99_ms >= 20


def test_a_reranker_is_sent_pairs(load):
    body = json.loads(load.build_body("/v1/rerank", "mine", 3))
    assert len(body["documents"]) == 2
    assert "query" in body


def test_servers_are_asked_in_turns_and_each_has_a_line(load, server):
    url, _ = server
    rows = load.compare({"one": url, "two": url}, "mine", requests=4, rounds=1)
    assert [(row["server"], row["clients"]) for row in rows] == [
        (name, clients) for clients in load.CLIENTS for name in ("one", "two")
    ]
    assert load.build_table(rows).count("\n| ") == 2


def test_a_server_that_refuses_is_not_a_fast_one(load, server):
    url, seen = server
    seen["status"] = 503
    with pytest.raises(RuntimeError, match="answered 503"):
        load.measure(url, "mine", clients=2, requests=8)
