"""One tiny decoder, one tiny encoder and what is made of them, built once for all worker tests."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from orchestrator.workers.specs import ScoringSpec, load_raw_spec, parse_spec

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("TQDM_DISABLE", "1")

WORKERS = Path(__file__).resolve().parents[2] / "orchestrator" / "workers"

TOPICS = {
    "Paris": "Paris is the capital of France.",
    "cells": "Mitochondria make ATP in cells!",
    "北京": "北京是中国的首都。",
    "rust": "Rust guarantees memory safety without a garbage collector.",
    "tea": "Green tea is steamed\nafter the harvest, said the farmer.\n",
}


@dataclass(frozen=True)
class Trained:
    """What training leaves: base, adapter (or None), the whole trained model, and the spec file that fits it."""

    base: Path
    adapter: Path | None
    model: Path
    scoring: Path


def write_spec(path: Path, **changes: object) -> Path:
    spec = {
        "version": 1,
        "name": "trained-format",
        "scorer": "flag-llm-reranker",
        "label": "tuned, in its training format",
        "dtype": "float32",
        "trust_remote_code": False,
        "prompt": None,
        "query_instruction": "A: ",
        "passage_instruction": "B: ",
        "query_instruction_format": "{}{}",
        "passage_instruction_format": "{}{}",
        "query_max_length": 128,
        "max_length": 256,
        "batch_size": 16,
    }
    path.write_text(json.dumps({**spec, **changes}), encoding="utf-8")
    return path


def load_spec(path: Path) -> ScoringSpec:
    return parse_spec(load_raw_spec(path), str(path))


def run_worker(*arguments: object, cwd: Path, stdin: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(WORKERS), *map(str, arguments)],
        cwd=cwd,
        input=stdin,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    import torch

    torch.set_num_threads(1)


@pytest.fixture
def warm_workers(warm: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Let each worker that a test starts be a fork of a process that has imported the libraries."""
    for name, value in warm.items():
        monkeypatch.setenv(name, value)


@pytest.fixture(scope="session")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("workers")


@pytest.fixture(scope="session")
def train_file(place: Path) -> Path:
    rows = [
        {
            "query": f"what about {name} {index}?",
            "pos": [text],
            "neg": [other for other in TOPICS.values() if other != text],
        }
        for index in range(6)
        for name, text in TOPICS.items()
    ]
    path = place / "train.jsonl"
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def eval_file(place: Path) -> Path:
    lines = []
    for number, name in enumerate(TOPICS):
        documents = [
            {"docid": f"q{number}.{index}", "text": text, "label": int(text == TOPICS[name])}
            for index, text in enumerate(TOPICS.values())
        ]
        lines.append(
            {"qid": f"q{number}", "query": f"tell me of {name}", "documents": documents, "source": "x", "line": 1}
        )
    path = place / "eval.jsonl"
    path.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def decoder(place: Path, train_file: Path, eval_file: Path) -> Path:
    from orchestrator.workers import tiny_model

    arguments = [
        "--like",
        "decoder",
        "--model-type",
        "qwen3",
        "--texts",
        train_file,
        eval_file,
        "--out",
        place / "decoder",
    ]
    assert tiny_model.main([*map(str, arguments)]) == 0
    return place / "decoder"


@pytest.fixture(scope="session")
def encoder(place: Path, train_file: Path, eval_file: Path) -> Path:
    from orchestrator.workers import tiny_model

    arguments = ["--like", "encoder", "--texts", train_file, eval_file, "--out", place / "encoder"]
    assert tiny_model.main([*map(str, arguments)]) == 0
    return place / "encoder"


def save_adapter(base: Path, folder: Path, scale: float) -> None:
    """Save a LoRA adapter whose B is random of that scale, and a tokenizer as FlagEmbedding's trainer leaves it."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(3)
    settings = LoraConfig(task_type="CAUSAL_LM", r=4, lora_alpha=8, target_modules=["q_proj", "v_proj"])
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(base), settings)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data.copy_(scale * torch.randn_like(parameter))
    model.save_pretrained(folder)
    save_cut_tokenizer(base, folder)


def save_cut_tokenizer(base: Path, folder: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(base)
    tokenizer(["a text"], truncation=True, max_length=7, padding="max_length")
    tokenizer.save_pretrained(folder)
    assert json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))["truncation"] is not None


@pytest.fixture(scope="session")
def tuned_decoder(place: Path, decoder: Path) -> Trained:
    from orchestrator.workers import merge

    save_adapter(decoder, place / "adapter", scale=0.1)
    merged = place / "merged"
    assert merge.main(["--base", str(decoder), "--adapter", str(place / "adapter"), "--out", str(merged)]) == 0
    return Trained(decoder, place / "adapter", merged, write_spec(place / "flag.json"))


@pytest.fixture(scope="session")
def tuned_encoder(place: Path, encoder: Path) -> Trained:
    import torch
    from transformers import AutoModelForSequenceClassification

    torch.manual_seed(5)
    model = AutoModelForSequenceClassification.from_pretrained(encoder, num_labels=1)
    for parameter in model.parameters():
        parameter.data.add_(0.05 * torch.randn_like(parameter))
    model.save_pretrained(place / "tuned-encoder")
    save_cut_tokenizer(encoder, place / "tuned-encoder")
    plain = {"query_instruction": None, "passage_instruction": None, "scorer": "cross-encoder", "max_length": 192}
    return Trained(encoder, None, place / "tuned-encoder", write_spec(place / "cross.json", **plain))


def copy_with(trained, folder, change):
    """Copy the trained model with its tensors changed by `change(name, tensor)`; None leaves a tensor out."""
    from safetensors.torch import load_file, save_file

    shutil.copytree(trained.model, folder)
    path = folder / "model.safetensors"
    changed = {name: change(name, tensor) for name, tensor in load_file(path).items()}
    save_file({name: tensor for name, tensor in changed.items() if tensor is not None}, path, {"format": "pt"})
    return replace(trained, model=folder)


def package_arguments(trained: Trained, probes: Path, out: Path, **changes: object) -> list[str]:
    named = {
        "model": trained.model,
        "base": trained.base,
        "adapter": trained.adapter,
        "scoring": trained.scoring,
        "probes": probes,
        "out": out,
        "report": out.parent / f"{out.name}.verification.json",
        **changes,
    }
    return [part for name, value in named.items() if value is not None for part in (f"--{name}", str(value))]


@pytest.fixture(scope="session")
def packaged_decoder(place: Path, tuned_decoder: Trained, eval_file: Path) -> Path:
    from orchestrator.workers import package

    out = place / "packaged-decoder"
    assert package.main(package_arguments(tuned_decoder, eval_file, out)) == 0
    return out


@pytest.fixture(scope="session")
def packaged_encoder(place: Path, tuned_encoder: Trained, eval_file: Path) -> Path:
    from orchestrator.workers import package

    out = place / "packaged-encoder"
    assert package.main(package_arguments(tuned_encoder, eval_file, out)) == 0
    return out


def kill_once_kept(cache, *command):
    """Start a worker, and kill it (SIGKILL) as soon as its cache keeps a score."""
    child = subprocess.Popen([sys.executable, str(WORKERS), *command], stdout=subprocess.PIPE, start_new_session=True)
    try:
        while not any(kept.stat().st_size for kept in cache.glob("*/scores.jsonl")):
            assert child.poll() is None, "it ended before it could be killed"
            time.sleep(0.005)
    finally:
        os.kill(child.pid, signal.SIGKILL)
        child.communicate()  # until a fork that stands in for it has let go of the stream too
