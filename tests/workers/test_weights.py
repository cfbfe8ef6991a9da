from __future__ import annotations

import json

import pytest

from orchestrator.workers.failure import WorkerError
from orchestrator.workers.weights import read_tensors, require_safetensors, scan_weights


def save(path, **tensors):
    from safetensors.torch import save_file

    save_file(tensors, path)
    return path


@pytest.fixture
def torch():
    import torch

    return torch


def test_sound_weights_have_no_problems(tmp_path, torch):
    scan = scan_weights([save(tmp_path / "model.safetensors", a=torch.ones(2, 3), b=torch.full((4,), -5.0))])
    assert scan.problems == ()
    assert (scan.tensors, scan.parameters, scan.max_magnitude, scan.dtypes) == (2, 10, 5.0, ("float32",))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_value_that_is_no_number_is_found_in_every_dtype(tmp_path, torch, dtype, value):
    tensor = torch.ones(5)
    tensor[3] = value
    path = save(tmp_path / "model.safetensors", good=torch.ones(2), bad=tensor.to(getattr(torch, dtype)))
    assert scan_weights([path]).not_finite == ("bad",)


def test_finite_but_absurd_and_empty_weights_are_found(tmp_path, torch):
    path = save(tmp_path / "model.safetensors", huge=torch.tensor([1e11]), none=torch.zeros(0, 4))
    scan = scan_weights([path])
    assert (scan.absurd, scan.empty) == (("huge",), ("none",))
    assert len(scan.problems) == 2


def test_a_file_cut_short_is_refused(tmp_path, torch):
    path = save(tmp_path / "model.safetensors", a=torch.ones(100))
    content = path.read_bytes()
    for length in (0, 4, 40, len(content) - 1):
        path.write_bytes(content[:length])
        with pytest.raises(WorkerError, match="truncated"):
            dict(read_tensors([path]))


def test_pickles_are_refused_and_so_is_an_incomplete_index(tmp_path):
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(WorkerError, match="only safetensors"):
        require_safetensors(tmp_path)
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(WorkerError, match="incomplete"):
        require_safetensors(tmp_path)
