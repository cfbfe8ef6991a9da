"""A server that answers like ms-swift's deploy and like vLLM; FAKE_SERVER says how it misbehaves."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

MODE = os.environ.get("FAKE_SERVER", "")
ARGUMENTS = dict(zip(sys.argv[1:], sys.argv[2:], strict=False))
NAME = ARGUMENTS.get("--served_model_name") or ARGUMENTS["--served-model-name"]
PROMPTS = {"query": "Instruct: Find it\nQuery:", "document": ""}
# What it scores a pair with, raw, by what FAKE_SERVER says.
SCORES = {
    "sigmoid": lambda raw: 1 / (1 + 2.718281828459045**-raw),
    "constant": lambda _: 0.25,
    "reversed": lambda raw: 9 - raw,
}


def embed(text):
    return [3.0, 4.0 if MODE == "wrong" else 0.0, float(len(text))]


class Answers(BaseHTTPRequestHandler):
    def do_GET(self):
        if self.path == "/v1/models":
            name = "somebody-else" if MODE == "another" else NAME
            self.answer(200, {"object": "list", "data": [{"id": name}]})
        else:
            self.answer(200, {})

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        key = os.environ.get("ORCH_API_KEY")
        if key and self.headers.get("Authorization") != f"Bearer {key}":
            self.answer(400, {"message": "API key error", "object": "error"})
        elif self.path == "/v1/embeddings":
            prompt = PROMPTS["query"] if MODE == "prompts" else ""
            self.answer(200, {"data": [{"embedding": embed(prompt + body["input"])}]})
        elif self.path == "/v2/embed" and MODE != "old":
            texts = [PROMPTS[body["input_type"]] + text for text in body["texts"]]
            self.answer(200, {"embeddings": {"float": [embed(text) for text in texts]}})
        elif self.path == "/v1/rerank" and MODE == "breaks":
            sys.stderr.write("ValueError: the engine is dead\n")
            self.answer(500, {"error": {"message": "EngineCore encountered an issue."}})
        elif self.path == "/v1/rerank":
            raw = float(len(body["query"]) - len(body["documents"][0]))
            self.answer(200, {"results": [{"relevance_score": SCORES.get(MODE, float)(raw)}]})
        elif self.path == "/v2/embed":
            self.answer(404, {"detail": "Not Found"})
        elif ARGUMENTS.get("--task_type") == "causal_lm":
            said = body["messages"][-1]["content"].upper()
            self.answer(200, {"choices": [{"message": {"content": "<think>\n\n</think>\n\n" + said}}]})
        else:
            self.answer(200, {"choices": [{"message": {"content": [0.9 if MODE == "wrong" else 0.5]}}]})

    def answer(self, status, value):
        text = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)


if MODE == "dies":
    sys.stdout.write("loading weights\n")
    sys.stderr.write("RuntimeError: the weights are broken\n")
    sys.exit(3)
if MODE == "never":
    time.sleep(600)
subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)", "left-behind-" + ARGUMENTS["--port"]])
ThreadingHTTPServer(("127.0.0.1", int(ARGUMENTS["--port"])), Answers).serve_forever()
