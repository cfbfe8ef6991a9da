from __future__ import annotations

import json
from pathlib import Path

import pytest

from orchestrator.workers.arguments import read_module

SAVED = Path(__file__).resolve().parents[2] / "orchestrator" / "backends" / "arguments"


@pytest.mark.parametrize(
    "name", ["flagembedding.decoder_only", "flagembedding.encoder_only", "swift", "sentence_transformers"]
)
def test_the_saved_arguments_are_those_of_the_installed_version(name, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "a secret")
    saved = json.loads((SAVED / f"{name}.json").read_text(encoding="utf-8"))
    live = read_module(saved["module"])
    assert live["versions"] == saved["versions"], f"take it anew: workers arguments --module {saved['module']}"
    assert json.loads(json.dumps(live)) == saved
    assert "a secret" not in json.dumps(live)


def test_types_are_what_the_trainers_parser_takes():
    found = {one["name"]: one for one in read_module("FlagEmbedding.finetune.reranker.decoder_only.base")["arguments"]}
    types = {
        "learning_rate": "float",
        "warmup_steps": "float",
        "train_group_size": "int",
        "use_lora": "bool",
        "target_modules": "list[str]",
        "train_data": "list[str]",
        "deepspeed": "json",
        "report_to": "str",
    }
    assert {name: found[name]["type"] for name in types} == types
    assert "cosine" in found["lr_scheduler_type"]["choices"]
    assert found["model_name_or_path"]["required"]
