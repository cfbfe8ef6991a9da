"""What FSDP needs can be shown without GPUs: the layers that it spreads, and whole weights out of a gathered state."""

from __future__ import annotations

from dataclasses import replace

import pytest

from orchestrator.workers.cross_encoder_losses import PAIRS
from orchestrator.workers.failure import WorkerError
from orchestrator.workers.train_cross_encoder import LAYERS, load_model, name_layers, parse_settings, save_whole


@pytest.fixture(scope="module")
def settings(encoder, tmp_path_factory):
    folder = tmp_path_factory.mktemp("fsdp")
    raw = {
        "version": 1, "model": str(encoder), "family": "encoder", "trust_remote_code": False,
        "loss": {"type": "pointwise_bce"}, "form": PAIRS, "train": str(folder / "train.jsonl"), "validation": None,
        "max_length": 64, "num_labels": 1, "format": None, "shuffle_ratio": 0.0, "stable_ratio": None,
        "early_stopping": None, "deterministic": False, "arguments": {"output_dir": str(folder)},
    }  # fmt: skip
    return parse_settings(raw, "train.json")


def name_layers_of(settings, arguments):
    return name_layers(replace(settings, arguments=arguments))


def test_the_layers_of_a_model_are_named_where_the_recipe_could_not(settings):
    found = name_layers_of(settings, {"fsdp": True, "fsdp_config": {"state_dict_type": "FULL_STATE_DICT"}})
    assert found["fsdp_config"] == {"state_dict_type": "FULL_STATE_DICT", LAYERS: ["BertEmbeddings", "BertLayer"]}


def test_layers_that_are_named_already_stay(settings):
    given = {"fsdp": True, "fsdp_config": {LAYERS: ["BertLayer"]}}
    assert name_layers_of(settings, given) == given


def test_without_fsdp_nothing_is_added(settings):
    assert name_layers_of(settings, {"learning_rate": 1e-5}) == {"learning_rate": 1e-5}


def test_gathered_weights_are_saved_whole_as_a_model_that_loads(settings, tmp_path):
    import torch
    from sentence_transformers import CrossEncoder

    gathered = {name: tensor.clone() for name, tensor in load_model(settings).state_dict().items()}
    gathered = {name: tensor + 0.5 if tensor.is_floating_point() else tensor for name, tensor in gathered.items()}
    save_whole(settings, gathered, tmp_path)
    saved = CrossEncoder(str(tmp_path), device="cpu").state_dict()
    assert saved.keys() == gathered.keys()
    assert all(torch.equal(saved[name], tensor) for name, tensor in gathered.items())


def test_weights_that_are_not_the_whole_model_are_refused(settings, tmp_path):
    gathered = load_model(settings).state_dict()
    gathered.pop(next(iter(gathered)))
    with pytest.raises(WorkerError, match="not the model's"):
        save_whole(settings, gathered, tmp_path)
