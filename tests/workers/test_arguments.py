from __future__ import annotations

import json

import pytest

from orchestrator.backends.arguments import items_of, version_sets
from orchestrator.workers.arguments import main, read_module
from orchestrator.workers.failure import WorkerError
from tests.backends.take_snapshots import SNAPSHOT_OF


def by_name(items):
    return {item.get("name", item.get("model_type")): item for item in items}


@pytest.mark.parametrize(("module", "name"), SNAPSHOT_OF.items())
def test_the_saved_arguments_are_those_of_the_installed_version(module, name, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "a secret")
    live = read_module(module)
    anew = "take it anew: python -m tests.backends.take_snapshots PYTHON OF EACH SET"
    tested = version_sets(name)[0]
    assert live["versions"] == tested.versions, anew
    saved = [{key: value for key, value in item.items() if key != "sets"} for item in items_of(name, tested.index)]
    assert by_name(json.loads(json.dumps(live.get("arguments", live.get("models"))))) == by_name(saved), anew
    assert len(saved) > 50
    assert "a secret" not in json.dumps(live)


def test_several_modules_are_described_one_a_line(capsys):
    modules = ["swift.cli.export", "sentence_transformers"]
    assert main(["--module", *modules]) == 0
    assert [json.loads(line)["module"] for line in capsys.readouterr().out.splitlines()] == modules


@pytest.mark.parametrize("module", ["swift.cli.rlhf", "FlagEmbedding.finetune.nothing"])
def test_a_module_that_nothing_is_known_of_is_said(module):
    with pytest.raises(WorkerError, match=module):
        main(["--module", module])


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
