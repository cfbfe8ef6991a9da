"""One warm trainer a file, tiny models that it has built, and Orch's answer to the same input."""

from __future__ import annotations

import json
import shutil
import struct
from pathlib import Path
from typing import Any

import pytest

from tests.traps.native import Native, write_rows
from tests.traps.orch_side import Answer, ask_orch

TOPICS = ("green tea", "capital of France", "memory safety", "mitochondria", "steel bridges", "winter wheat")
EVAL = [
    {"query": f"held out question {n}?", "pos": [f"held out answer {n}"], "neg": [f"held out noise {n}"]}
    for n in range(3)
]


def make_group(number: int, **changes: Any) -> dict[str, Any]:
    topic = TOPICS[number % len(TOPICS)]
    row = {
        "query": f"what about {topic} number {number}?",
        "pos": [f"{topic} {number} is described here, in a passage"],
        "neg": [f"passage {other} of {number} says nothing about it" for other in range(3)],
    }
    return row | changes


def make_groups(count: int = 8) -> list[dict[str, Any]]:
    return [make_group(number) for number in range(count)]


@pytest.fixture(scope="session")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_rows(tmp_path_factory.mktemp("texts") / "texts.jsonl", make_groups(40))


@pytest.fixture(scope="session")
def flagembedding(tmp_path_factory: pytest.TempPathFactory, texts: Path):
    native = Native("flagembedding", tmp_path_factory.mktemp("flagembedding"))
    yield native
    native.close()


@pytest.fixture(scope="session")
def sentence_transformers(tmp_path_factory: pytest.TempPathFactory):
    native = Native("sentence-transformers", tmp_path_factory.mktemp("sentence-transformers"))
    yield native
    native.close()


@pytest.fixture(scope="session")
def swift(tmp_path_factory: pytest.TempPathFactory, texts: Path):
    native = Native("swift", tmp_path_factory.mktemp("swift"))
    yield native
    native.close()


def build_tiny(native: Native, like: str, texts: Path) -> Path:
    """Build a tiny model in a fork of the warm process; the tests' own process imports no torch."""
    folder = native.folder / like
    if not folder.exists():
        words = ["tiny_model", "--like", like, "--texts", str(texts), "--out", str(folder)]
        native.call("orchestrator.workers", words).require_success()
    return folder


def deepen(model: Path, folder: Path) -> Path:
    """Copy a model of two layers, with a config that says four."""
    shutil.copytree(model, folder)
    path = folder / "config.json"
    config = json.loads(path.read_text())
    config |= {"num_hidden_layers": 4, "layer_types": config["layer_types"] * 2}
    path.write_text(json.dumps(config))
    return folder


def refill(model: Path, folder: Path, *, ending: str, value: float) -> Path:
    """Copy a model, one of whose float32 tensors has the same value everywhere: NaN, as flipped bits make, or 0."""
    shutil.copytree(model, folder)
    path = folder / "model.safetensors"
    content = bytearray(path.read_bytes())
    length = struct.unpack("<Q", content[:8])[0]
    header = json.loads(content[8 : 8 + length])
    (name,) = [name for name in header if name.endswith(ending)]
    start, end = (8 + length + offset for offset in header[name]["data_offsets"])
    content[start:end] = struct.pack("<f", value) * ((end - start) // 4)
    path.write_bytes(content)
    return folder


@pytest.fixture
def rows(tmp_path: Path):
    """Write rows to a file of the test's own folder, and return its path."""

    def rows(*lines: Any, name: str = "train.jsonl") -> Path:
        return write_rows(tmp_path / name, list(lines))

    return rows


@pytest.fixture
def orch(tmp_path: Path):
    """Ask Orch about a recipe: these parts over those that every recipe here has."""

    def orch(recipe: dict[str, Any], *, recipe_text: str = "", run_dir: Path | None = None, **changes: Any) -> Answer:
        if not (tmp_path / "eval.jsonl").exists():
            write_rows(tmp_path / "eval.jsonl", EVAL)
        merged = {"data": {"train": "train.jsonl", "eval": "eval.jsonl"}, **recipe}
        for key, value in changes.items():
            merged[key] = (
                {**merged[key], **value} if isinstance(value, dict) and isinstance(merged.get(key), dict) else value
            )
        return ask_orch(tmp_path, recipe_text or json.loads(json.dumps(merged)), run_dir=run_dir)

    return orch
