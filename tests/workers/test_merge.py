from __future__ import annotations

import json

import pytest

from orchestrator.workers import merge
from orchestrator.workers.failure import WorkerError
from tests.workers.conftest import save_adapter


def run_merge(base, adapter, out, *more):
    return merge.main(["--base", str(base), "--adapter", str(adapter), "--out", str(out), *more])


def test_the_merged_folder_is_whole_and_free_of_the_trainers_truncation(tuned_decoder):
    names = {path.name for path in tuned_decoder.model.iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"} <= names
    core = json.loads((tuned_decoder.model / "tokenizer.json").read_text(encoding="utf-8"))
    assert (core["truncation"], core["padding"]) == (None, None)


def test_an_adapter_that_was_never_trained_is_refused(decoder, tmp_path):
    save_adapter(decoder, tmp_path / "adapter", scale=0)
    with pytest.raises(WorkerError, match="nothing was trained"):
        run_merge(decoder, tmp_path / "adapter", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_adapter_with_nan_is_refused(decoder, tmp_path):
    save_adapter(decoder, tmp_path / "adapter", scale=float("nan"))
    with pytest.raises(WorkerError, match="diverged"):
        run_merge(decoder, tmp_path / "adapter", tmp_path / "out")


def test_an_adapter_with_a_weight_missing_is_refused(decoder, tmp_path):
    from safetensors.torch import load_file, save_file

    save_adapter(decoder, tmp_path / "adapter", scale=0.1)
    path = tmp_path / "adapter" / "adapter_model.safetensors"
    tensors = load_file(path)
    del tensors[min(tensors)]
    save_file(tensors, path)
    with pytest.raises(WorkerError, match="does not fit"):
        run_merge(decoder, tmp_path / "adapter", tmp_path / "out")


def test_the_dtype_can_be_chosen_and_an_older_result_is_replaced(decoder, tuned_decoder, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "half a model").write_text("")
    assert run_merge(decoder, tuned_decoder.adapter, tmp_path / "out", "--dtype", "bfloat16") == 0
    config = json.loads((tmp_path / "out" / "config.json").read_text(encoding="utf-8"))
    assert config["dtype"] == "bfloat16"
    assert not (tmp_path / "out" / "half a model").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
