"""LoRA on a cross-encoder: the head is trained, saved, continued, merged and packaged, of both families."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from orchestrator.workers import merge, package
from orchestrator.workers.engines.sentence_transformers import PREFIX, WEIGHTS, Lora, add_lora, find_head, load_lora
from orchestrator.workers.failure import WorkerError
from orchestrator.workers.train_cross_encoder import load_settings
from tests.workers.conftest import Trained, package_arguments
from tests.workers.test_package_cross_encoder import DECODER, ENCODER, MAX_LENGTH, load_untrained, write_spec
from tests.workers.test_train_cross_encoder import files, load_state, train, write_settings

__all__ = ["files"]  # a fixture of a neighbour
pytestmark = pytest.mark.alone  # once ms-swift is imported, transformers' Trainer asks for what only ms-swift has

LORA = {
    "lora_rank": 4, "lora_alpha": 8, "lora_dropout": 0.1, "target_modules": ["all-linear"], "modules_to_save": None,
    "use_dora": True, "use_rslora": False,
}  # fmt: skip
FORMAT = {"query_format": "query: {}", "document_format": "document: {}", "seq": " ", "special_token": "</s>"}
LONG = {
    "validation": True,
    "max_length": MAX_LENGTH,
    "lora": LORA,
    "arguments": {
        "learning_rate": 1e-2, "num_train_epochs": 2, "save_strategy": "steps", "eval_strategy": "steps",
        "save_steps": 3, "eval_steps": 3, "save_total_limit": 10,
    },
}  # fmt: skip


def load_weights(folder: Path):
    from safetensors.torch import load_file

    return load_file(folder / WEIGHTS)


def assert_same(one, other):
    import torch

    assert one.keys() == other.keys()
    assert [name for name in one if not torch.equal(one[name], other[name])] == []


@pytest.fixture(scope="module")
def trained(encoder, decoder, files, tmp_path_factory):
    """Base, adapter, merged model and spec of each family, after two epochs of DoRA with dropout."""
    found = {}
    for scorer, base in ((ENCODER, encoder), (DECODER, decoder)):
        place = tmp_path_factory.mktemp(scorer)
        own = {"family": "decoder", "format": FORMAT} if scorer == DECODER else {}
        output = train(place, base, files, "listwise_ce", loss_settings={"graded": True}, **LONG, **own)
        merged = place / "merged"
        assert merge.main(["--base", str(base), "--adapter", str(output / "best"), "--out", str(merged)]) == 0
        spec = write_spec(place / "spec.json", scorer, **(FORMAT if scorer == DECODER else {}))
        found[scorer] = Trained(base, output / "best", merged, spec)
    return found


@pytest.mark.parametrize("scorer", [ENCODER, DECODER])
def test_an_adapter_with_its_head_becomes_a_package_that_scores_as_it_was_trained(trained, scorer, eval_file, tmp_path):
    import torch
    from safetensors.torch import load_file
    from sentence_transformers import CrossEncoder

    one = trained[scorer]
    heads = {ENCODER: {"bert.pooler.dense", "classifier"}, DECODER: {"score"}}[scorer]
    whole = merge.read_whole_weights(one.adapter)
    assert {name.rpartition(".")[0] for name in whole} == heads
    out = tmp_path / "package"
    assert package.main(package_arguments(one, eval_file, out, device="cpu")) == 0
    report = json.loads((tmp_path / "package.verification.json").read_text(encoding="utf-8"))
    checks = {check["name"]: check for check in report["checks"]}
    assert {"merged", "merge-keeps-training", "head", "changed-weights", "sentence-transformers"} <= checks.keys()
    assert checks["merge-keeps-training"]["effect"] > 1e-3
    assert checks["head"]["compared"] == len(whole)
    packaged = load_file(out / "model.safetensors")
    untouched = load_untrained(one.base, scorer).transformers_model.state_dict()
    for name, tensor in whole.items():
        assert torch.equal(packaged[name], tensor)
        assert not torch.equal(untouched[name], tensor)  # the head that the training began with
    pairs = [("what about tea?", "Green tea."), ("what about Paris?", "Paris is the capital of France.")]
    model = load_untrained(one.base, scorer)
    add_lora(model, Lora(**LORA), seed=0)
    load_lora(model, one.adapter)
    expected = model.predict(pairs, show_progress_bar=False)
    found = CrossEncoder(str(out), device="cpu").predict(pairs, show_progress_bar=False)
    assert found == pytest.approx(expected, abs=1e-5)


def test_another_head_than_the_trained_one_is_not_packaged(trained, eval_file, tmp_path):
    from safetensors.torch import load_file, save_file

    one = trained[ENCODER]
    shutil.copytree(one.model, tmp_path / "other")
    path = tmp_path / "other" / "model.safetensors"
    tensors = load_file(path)
    save_file({**tensors, "classifier.bias": tensors["classifier.bias"] + 1e-6}, path, {"format": "pt"})
    with pytest.raises(WorkerError, match=r"head: the head is not the one that was trained: classifier\.bias"):
        package.main(package_arguments(replace(one, model=path.parent), eval_file, tmp_path / "out", device="cpu"))


def test_an_adapter_without_its_head_is_not_merged_behind_a_random_one(trained, tmp_path):
    from safetensors.torch import save_file

    shutil.copytree(trained[ENCODER].adapter, tmp_path / "headless")
    tensors = load_weights(tmp_path / "headless")
    kept = {name: tensor for name, tensor in tensors.items() if not name.startswith(f"{PREFIX}classifier")}
    assert len(kept) == len(tensors) - 2
    save_file(kept, tmp_path / "headless" / WEIGHTS, {"format": "pt"})
    with pytest.raises(WorkerError, match="a head that it does not hold") as caught:
        merge.main(["--adapter", str(tmp_path / "headless"), "--out", str(tmp_path / "merged")])
    assert "modules_to_save" in str(caught.value)
    assert not (tmp_path / "merged").exists()


@pytest.mark.parametrize("scorer", [ENCODER, DECODER])
def test_a_resumed_training_ends_in_the_same_adapter_bit_for_bit(trained, scorer, files, tmp_path):
    one = trained[scorer]
    own = {"family": "decoder", "format": FORMAT} if scorer == DECODER else {}
    middle = tmp_path / "output" / "checkpoint-6"
    shutil.copytree(one.adapter.parent / "checkpoint-6", middle)
    output = train(
        tmp_path, one.base, files, "listwise_ce", resume=middle, loss_settings={"graded": True}, **LONG, **own
    )
    assert_same(load_weights(output / "last"), load_weights(one.adapter.parent / "last"))
    histories = [load_state(folder / "last")["log_history"] for folder in (output, one.adapter.parent)]
    losses = [[row["loss"] for row in history if "loss" in row] for history in histories]
    assert losses[0] == losses[1]
    assert len(losses[0]) == 4


def test_the_head_is_what_stands_behind_the_layers_whatever_it_is_called():
    import torch
    from transformers import AutoConfig, AutoModel, AutoModelForSequenceClassification

    small = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    found = {}
    for kind in ("bert", "xlm-roberta", "modernbert", "deberta-v2", "electra", "distilbert", "qwen3", "gemma2"):
        config = AutoConfig.for_model(kind, **small, vocab_size=16, pad_token_id=0)
        with torch.device("meta"):
            assert find_head(AutoModel.from_config(config)) == []
            found[kind] = find_head(AutoModelForSequenceClassification.from_config(config))
    assert found == {
        "bert": ["pooler", "classifier"],
        "xlm-roberta": ["classifier"],
        "modernbert": ["head", "classifier"],
        "deberta-v2": ["pooler", "classifier"],
        "electra": ["classifier"],
        "distilbert": ["pre_classifier", "classifier"],
        "qwen3": ["score"],
        "gemma2": ["score"],
    }


def test_no_adapter_lies_on_what_is_trained_whole():
    from transformers import AutoConfig, AutoModelForSequenceClassification

    small = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    config = AutoConfig.for_model("xlm-roberta", **small, vocab_size=16, num_labels=1)
    for names in (["query", "dense"], ["all-linear"]):  # the layers of this head are called dense too
        transformer = AutoModelForSequenceClassification.from_config(config)
        model = SimpleNamespace(transformers_model=transformer, parameters=transformer.parameters)
        add_lora(model, Lora(**{**LORA, "target_modules": names}), seed=0)
        trained = {name for name, weight in transformer.named_parameters() if weight.requires_grad}
        head = {name for name in trained if name.startswith("classifier")}
        assert {name.removeprefix("classifier.modules_to_save.default.") for name in head} == {
            "dense.weight", "dense.bias", "out_proj.weight", "out_proj.bias",
        }  # fmt: skip
        assert any("lora_A" in name and ".output.dense." in name for name in trained - head)


def test_an_adapter_of_another_rank_is_not_continued(trained):
    model = load_untrained(trained[ENCODER].base, ENCODER)
    add_lora(model, Lora(**{**LORA, "lora_rank": 2}), seed=0)
    with pytest.raises(WorkerError, match="another adapter"):
        load_lora(model, trained[ENCODER].adapter)


def test_a_name_that_no_module_has_is_refused(encoder):
    for changes in ({"target_modules": ["q_proj"]}, {"modules_to_save": ["q_proj"]}):
        model = load_untrained(encoder, ENCODER)
        with pytest.raises(WorkerError, match="no module q_proj"):
            add_lora(model, Lora(**{**LORA, **changes}), seed=0)


def test_an_embedding_model_keeps_its_head_free_body_and_trains_the_adapter_alone(encoder):
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(encoder), device="cpu")
    add_lora(model, Lora(**LORA), seed=0)
    trained = [name for name, weight in model.named_parameters() if weight.requires_grad]
    assert trained
    assert all("lora_" in name for name in trained)
    assert model.transformers_model.peft_config["default"].task_type == "FEATURE_EXTRACTION"


@pytest.mark.parametrize("dora", [False, True])
def test_an_embedding_models_adapter_is_merged_and_gives_its_vectors(encoder, tmp_path, capsys, dora):
    import torch
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(encoder), device="cpu")
    add_lora(model, Lora(**{**LORA, "use_dora": dora}), seed=0)
    torch.manual_seed(1)
    for weight in model.parameters():
        if weight.requires_grad:
            weight.data.add_(0.1 * torch.randn_like(weight))
    model.save_pretrained(str(tmp_path / "adapter"))
    expected = model.encode(["a text", "another"], show_progress_bar=False)
    out = tmp_path / "merged"
    assert merge.main(["--adapter", str(tmp_path / "adapter"), "--out", str(out)]) == 0
    found = SentenceTransformer(str(out), device="cpu").encode(["a text", "another"], show_progress_bar=False)
    assert found == pytest.approx(expected, abs=1e-5)
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["passed"]


def test_settings_name_what_is_wrong_with_an_adapter(encoder, files, tmp_path):
    changes = {"lora": {**LORA, "lora_rank": 0, "target_modules": [], "r": 3}}
    with pytest.raises(WorkerError) as caught:
        load_settings(write_settings(tmp_path, encoder, files, "pointwise_bce", **changes))
    told = "\n".join(caught.value.problems)
    assert "lora.r is not a setting" in told
    assert "lora.lora_rank must be a whole number" in told
    assert "lora.target_modules must be a list of names" in told
    shared = {"lora": LORA, "arguments": {"fsdp": "full_shard"}}
    with pytest.raises(WorkerError, match="no adapter"):
        load_settings(write_settings(tmp_path, encoder, files, "pointwise_bce", **shared))


def test_the_weights_beside_an_adapter_are_loaded_in_fewer_bits_where_bitsandbytes_is_there(monkeypatch):
    import torch

    from orchestrator.workers.engines import sentence_transformers as lora

    settings = lora.Lora(4, 8, 0.0, ["all-linear"], quant_method="bnb", quant_bits=4)
    arguments = SimpleNamespace(bf16=True, fp16=False, device=torch.device("cuda", 1))
    assert lora.build_quantization(lora.Lora(4, 8, 0.0, ["all-linear"]), arguments) == {}
    monkeypatch.setattr(lora, "find_spec", lambda _: None)
    with pytest.raises(WorkerError, match="bitsandbytes is not installed"):
        lora.build_quantization(settings, arguments)
    monkeypatch.setattr(lora, "find_spec", lambda name: name)
    monkeypatch.setattr("importlib.metadata.version", lambda _: "0.50.0")
    found = lora.build_quantization(settings, arguments)
    config = found["quantization_config"]
    assert found["device_map"] == {"": "cuda:1"}
    assert (config.load_in_4bit, config.bnb_4bit_quant_type, config.bnb_4bit_use_double_quant) == (True, "nf4", True)
    assert config.bnb_4bit_compute_dtype == torch.bfloat16
