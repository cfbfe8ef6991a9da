"""The large files of a model's folder are read once, however many checks look into them."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

import pytest

from orchestrator.checks.machine import check_disk
from orchestrator.checks.memory_fit import advise_memory, check_memory
from orchestrator.checks.model_files import advise_model_files, check_model_files
from orchestrator.checks.settings import check_target_modules
from tests.checks.model_folders import Folder, list_decoder

_LOOKING = (check_disk, check_model_files, check_target_modules, check_memory, advise_model_files, advise_memory)


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Count how often each file is opened, by its name."""
    found: Counter[str] = Counter()

    def counted(real):
        def count(path, *args, **more):
            found[Path(path).name] += 1
            return real(path, *args, **more)

        return count

    monkeypatch.setattr(Path, "open", counted(Path.open))
    monkeypatch.setattr(os, "open", counted(os.open))  # regular_files.py's
    return found


def look(folder: Folder, plan_for) -> list[str]:
    job, plan = plan_for(folder.model())
    return [problem.message for check in _LOOKING for problem in check(job, plan)]


@pytest.fixture
def sharded(folder: Folder) -> Folder:
    tensors = list(list_decoder().items())
    return folder.config(num_attention_heads=2).shards(dict(tensors[::2]), dict(tensors[1::2]))


def test_weights_and_tokenizer_are_read_once_for_all_checks(sharded, plan_for, opened):
    look(sharded, plan_for)
    large = {name: count for name, count in opened.items() if name.startswith("model") or name == "tokenizer.json"}
    assert large == {
        "model.safetensors.index.json": 1, "model-00001-of-00002.safetensors": 1,
        "model-00002-of-00002.safetensors": 1, "tokenizer.json": 1,
    }  # fmt: skip


def test_what_has_changed_since_is_seen(sharded, plan_for):
    assert not any("is not whole" in message for message in look(sharded, plan_for))
    shard = sharded.path / "model-00002-of-00002.safetensors"
    with shard.open("r+b") as stream:
        stream.truncate(shard.stat().st_size - 1)
    sharded.write("tokenizer.json", "{")
    damaged = [message for message in look(sharded, plan_for) if "is not whole" in message]
    assert [Path(message.split()[0]).name for message in damaged] == [shard.name, "tokenizer.json"]
