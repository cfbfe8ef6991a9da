"""Weights that do not fill their model are refused, by names and shapes, with the command that mends what can be."""

from __future__ import annotations

import ast
import json
import os
import shlex
import shutil
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from orchestrator.workers import mend_model
from orchestrator.workers.failure import WorkerError
from orchestrator.workers.whole_weights import NEW_HEAD, SCORES, VECTORS, WORDS, judge_weights, require_whole
from tests.workers.conftest import WORKERS

WHOLE, BODY = "model.safetensors", "bert"


@pytest.fixture(scope="session")
def scorer(place, encoder):
    """A whole cross-encoder of one label."""
    torch.manual_seed(1)
    folder = place / "scorer"
    shutil.copytree(encoder, folder)
    AutoModelForSequenceClassification.from_pretrained(encoder, num_labels=1).save_pretrained(folder)
    return folder


@pytest.fixture
def changed(tmp_path):
    """Copy a folder with other tensors: `change` takes a name and gives another, or None to leave it out."""

    def changed(source, change, **more):
        folder = tmp_path / "changed"
        shutil.copytree(source, folder)
        tensors = {change(name): tensor for name, tensor in load_file(folder / WHOLE).items()} | more
        save_file({name: tensor for name, tensor in tensors.items() if name}, folder / WHOLE, {"format": "pt"})
        return folder

    return changed


def mended(fault, source):
    """Follow the command of a hint; return the folder that it wrote."""
    command = next(line for line in fault.hint.splitlines() if "mend_model" in line)
    argv = shlex.split(command[command.index(": ") + 2 :])
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return source.with_name(f"{source.name}-mended")


def only_fault(folder, use):
    verdict = judge_weights(folder, use)
    assert verdict.why_not == ""
    (fault,) = verdict.faults
    return fault


@pytest.mark.parametrize(
    ("use", "name"),
    [(SCORES, "scorer"), (VECTORS, "scorer"), (VECTORS, "encoder"), (WORDS, "decoder"), (VECTORS, "decoder")],
)
def test_a_whole_model_is_let_through(request, use, name):
    assert judge_weights(request.getfixturevalue(name), use) == require_whole(request.getfixturevalue(name), use)


def test_a_head_that_is_new_on_purpose_is_named(encoder, decoder):
    assert require_whole(encoder, NEW_HEAD).new == ("classifier.bias", "classifier.weight")
    assert require_whole(decoder, NEW_HEAD).new == ("score.weight",)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda name: f"module.{name}", "strip the prefix module."),
        (lambda name: f"_orig_mod.{name}", "strip the prefix _orig_mod."),
        (lambda name: f"model.{name}", "strip the prefix model."),
        (lambda name: f"base_model.model.{name}", "strip the prefix base_model.model."),
        (lambda name: f"module._orig_mod.{name}", "strip the prefix module."),
        (lambda name: name.replace("layer.0.", "layer.0._fsdp_wrapped_module."), "take _fsdp_wrapped_module. out"),
        (lambda name: name.replace("query.", "query.base_layer."), "take base_layer. out of the names"),
        (lambda name: name.replace("bert.", "backbone.").replace("classifier.", "cls."), "rename backbone. to bert."),
        (lambda name: name.replace("classifier.", "score_layer."), "rename score_layer. to classifier."),
    ],
)
def test_tensors_under_other_names_are_refused_and_the_hint_mends_them(scorer, changed, change, says):
    folder = changed(scorer, change)
    fault = only_fault(folder, SCORES)
    assert "are not in its files" in fault.message
    assert any(change(name) in fault.message for name in load_file(scorer / WHOLE) if change(name) != name)
    assert says in fault.hint
    found = mended(fault, folder)
    assert judge_weights(found, SCORES).faults == ()
    whole = load_file(scorer / WHOLE)
    assert all(torch.equal(whole[name], tensor) for name, tensor in load_file(found / WHOLE).items())
    assert (found / "tokenizer.json").is_file()


@pytest.mark.parametrize("lost", ["word_embeddings", "layer.1.output.dense.weight", "classifier", "LayerNorm"])
def test_tensors_that_are_nowhere_are_refused_by_name(scorer, changed, lost):
    fault = only_fault(changed(scorer, lambda name: None if lost in name else name), SCORES)
    assert lost in fault.message
    assert "mend_model" not in fault.hint


def test_a_base_may_lack_its_head_only(encoder, changed):
    lost = changed(encoder, lambda name: None if "layer.1.output.dense.weight" in name else name)
    assert "layer.1.output.dense.weight" in only_fault(lost, NEW_HEAD).message


def test_a_classifier_without_its_head_is_no_base_whose_head_is_new(scorer, changed):
    lost = changed(scorer, lambda name: None if "classifier" in name else name)
    assert "classifier.weight" in only_fault(lost, NEW_HEAD).message


def test_a_trained_head_under_another_name_is_not_passed_over(encoder, changed):
    width = load_file(encoder / WHOLE)["embeddings.LayerNorm.weight"].shape[0]
    folder = changed(encoder, lambda name: name, **{"score.weight": torch.ones(1, width)})
    fault = only_fault(folder, NEW_HEAD)
    assert "score.weight, which looks like a head" in fault.message
    found = mended(fault, folder)
    assert require_whole(found, NEW_HEAD).new == ("classifier.bias",)


def test_a_pooler_is_not_missed_where_vectors_are_wanted(encoder, changed):
    folder = changed(encoder, lambda name: None if "pooler" in name else name)
    assert require_whole(folder, VECTORS).faults == ()
    assert "classifier.weight" in require_whole(folder, NEW_HEAD).new


def test_a_head_of_two_labels_becomes_one_by_the_command(place, encoder, tmp_path):
    folder = tmp_path / "two"
    shutil.copytree(encoder, folder)
    AutoModelForSequenceClassification.from_pretrained(encoder, num_labels=2).save_pretrained(folder)
    fault = only_fault(folder, SCORES)
    assert "a head of 2 labels" in fault.message
    found = mended(fault, folder)
    assert judge_weights(found, SCORES).faults == ()
    inputs = {"input_ids": torch.tensor([[2, 7, 9, 3]])}
    with torch.inference_mode():
        two = AutoModelForSequenceClassification.from_pretrained(folder)(**inputs).logits[0]
        one = AutoModelForSequenceClassification.from_pretrained(found)(**inputs).logits[0]
    assert one.tolist() == pytest.approx([float(two[1] - two[0])], abs=1e-5)
    headless = tmp_path / "headless"
    assert mend_model.main([str(folder), "-o", str(headless), "--without-head"]) == 0
    assert "classifier.weight" in require_whole(headless, NEW_HEAD).new


def test_an_adapter_beside_the_weights_is_refused_and_can_be_folded(decoder, tmp_path):
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(2)
    settings = LoraConfig(task_type="CAUSAL_LM", r=4, lora_alpha=8, target_modules=["q_proj", "v_proj"])
    adapted = get_peft_model(AutoModelForCausalLM.from_pretrained(decoder), settings)
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter)
    folder = tmp_path / "unmerged"
    shutil.copytree(decoder, folder)
    state = {name: tensor for name, tensor in adapted.state_dict().items() if "lm_head" not in name}
    save_file(state, folder / WHOLE, {"format": "pt"})
    fault = only_fault(folder, WORDS)
    assert "an adapter that was never merged" in fault.message
    out = tmp_path / "folded"
    assert mend_model.main([str(folder), "-o", str(out), "--fold-lora", "8"]) == 0
    assert judge_weights(out, WORDS).faults == ()
    merged = adapted.merge_and_unload().state_dict()
    for name, tensor in load_file(out / WHOLE).items():
        assert torch.allclose(tensor, merged[name], atol=1e-6), name


def test_shards_are_renamed_with_their_index(decoder, tmp_path):
    folder = tmp_path / "shards"
    shutil.copytree(decoder, folder)
    AutoModelForCausalLM.from_pretrained(decoder).save_pretrained(folder, max_shard_size="20KB")
    (folder / WHOLE).unlink(missing_ok=True)
    index = json.loads((folder / f"{WHOLE}.index.json").read_text())
    assert len(set(index["weight_map"].values())) > 1
    for path in folder.glob("*.safetensors"):
        save_file({f"module.{name}": tensor for name, tensor in load_file(path).items()}, path, {"format": "pt"})
    index["weight_map"] = {f"module.{name}": file for name, file in index["weight_map"].items()}
    (folder / f"{WHOLE}.index.json").write_text(json.dumps(index))
    assert judge_weights(mended(only_fault(folder, WORDS), folder), WORDS).faults == ()


def test_other_shapes_are_refused(scorer, tmp_path):
    folder = tmp_path / "wide"
    shutil.copytree(scorer, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"intermediate_size": 48}))
    assert "intermediate.dense" in only_fault(folder, SCORES).message


@pytest.mark.parametrize(
    ("more", "use", "says"),
    [
        ({"layer.0.attention.self.query.extra": torch.ones(4)}, SCORES, "config.json leaves out"),
        ({"layer.0.attention.self.query.weight_scale_inv": torch.ones(1)}, VECTORS, "config.json leaves out"),
        ({"layer.0.attention.self.query.weight": torch.ones(32, 32, dtype=torch.int8)}, SCORES, "are whole numbers"),
    ],
)
def test_what_is_there_and_would_be_misread_is_refused(scorer, changed, more, use, says):
    more = {f"bert.encoder.{name}": tensor for name, tensor in more.items()}
    assert says in judge_weights(changed(scorer, lambda name: name, **more), use).faults[0].message


@pytest.mark.parametrize(
    ("quantization", "says"),
    [({"quant_method": "fp8"}, "its files are not"), ({"quant_method": "hqq", "quant_config": {}}, "package that")],
)
def test_a_config_that_calls_whole_weights_quantised_is_refused(decoder, changed, quantization, says, monkeypatch):
    folder = changed(decoder, lambda name: name)
    config = json.loads((folder / "config.json").read_text()) | {"quantization_config": quantization}
    (folder / "config.json").write_text(json.dumps(config))
    monkeypatch.setattr("transformers.quantizers.quantizer_hqq.is_hqq_available", lambda: False)
    assert says in only_fault(folder, WORDS).message


def test_a_score_head_is_not_dropped_where_words_are_asked_for(decoder, changed):
    width = next(iter(load_file(decoder / WHOLE).values())).shape[-1]
    folder = changed(decoder, lambda name: name, **{"score.weight": torch.ones(1, width)})
    assert "score.weight, a head that scores" in only_fault(folder, WORDS).message
    assert judge_weights(folder, NEW_HEAD).faults == ()


def test_no_renaming_is_advised_that_fills_by_chance(scorer, decoder, changed, tmp_path):
    folder = tmp_path / "distil"
    shutil.copytree(scorer, folder)
    config = json.loads((folder / "config.json").read_text()) | {"model_type": "distilbert", "dim": 32}
    (folder / "config.json").write_text(json.dumps(config | {"architectures": ["DistilBertForSequenceClassification"]}))
    assert "mend_model" not in only_fault(folder, SCORES).hint
    # the output over the vocabulary has the shape of the embeddings, and is another matrix where nothing ties them
    table = next(name for name in load_file(decoder / WHOLE) if "embed_tokens" in name)
    untied = changed(decoder, lambda name: "lm_head.weight" if name == table else name)
    config = json.loads((untied / "config.json").read_text()) | {"tie_word_embeddings": False}
    (untied / "config.json").write_text(json.dumps(config))
    assert "mend_model" not in only_fault(untied, VECTORS).hint


def test_a_checkpoint_of_a_trainers_own_is_no_file_of_weights(scorer, tmp_path, monkeypatch):
    monkeypatch.setenv("ORCH_ALLOW_PICKLE", "1")
    folder = tmp_path / "its own"
    shutil.copytree(scorer, folder)
    torch.save({"state_dict": load_file(folder / WHOLE), "epoch": 3}, folder / "pytorch_model.bin")
    (folder / WHOLE).unlink()
    fault = only_fault(folder, SCORES)
    assert "holds no tensors by name" in fault.message
    subprocess.run(["bash", "-c", fault.hint[fault.hint.index("cd ") :]], check=True)
    assert judge_weights(folder, SCORES) == judge_weights(scorer, SCORES)


def test_mending_overwrites_nothing_and_says_when_it_changes_nothing(scorer, tmp_path):
    with pytest.raises(WorkerError, match="exists already"):
        mend_model.main([str(scorer), "-o", str(tmp_path), "--strip", "module"])
    with pytest.raises(WorkerError, match="nothing would change"):
        mend_model.main([str(scorer), "-o", str(tmp_path / "out"), "--strip", "module"])
    assert not (tmp_path / "out").exists()


def test_whatever_loads_weights_asks_first_whether_they_are_whole():
    """A function of the workers that loads a model looks at what it lacks: by the one door, or by its loading info."""
    loads = {"CrossEncoder", "SentenceTransformer", "FlagLLMReranker", "Transformer", "from_pretrained", "open_model"}
    checked, open_doors = 0, []
    for path in sorted(WORKERS.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.FunctionDef):
                continue
            text = ast.unparse(node)
            calls = [ast.unparse(call.func) for call in ast.walk(node) if isinstance(call, ast.Call)]
            loaders = [call for call in calls if call.rpartition(".")[2] in loads
                       and not call.startswith(("AutoTokenizer", "AutoConfig", "transformers.AutoConfig", "transformers.AutoTokenizer", "Peft"))]  # fmt: skip
            if not loaders:
                continue
            checked += 1
            if "require_whole(" not in text and "output_loading_info" not in text:
                open_doors.append(f"{path.name}:{node.name}")
    assert checked > 9
    # The first is called behind the door, and the last is given what was loaded behind it; the others load what was
    # compared tensor by tensor a moment before.
    assert open_doors == [
        *("model.py:build_modules", "sentence_transformers.py:predict", "export.py:open_encoder"),
        "embedding.py:embed_packaged",
        "scoring.py:build_encoder",
    ]


def test_names_are_mended_by_a_python_that_has_neither_safetensors_nor_pytorch(scorer, changed, tmp_path):
    folder = changed(scorer, lambda name: f"module.{name}")
    for name in ("torch", "safetensors"):
        (tmp_path / f"{name}.py").write_text("raise RuntimeError('imported')")
    argv = [sys.executable, str(WORKERS), "mend_model", str(folder), "-o", str(tmp_path / "out"), "--strip", "module"]
    done = subprocess.run(
        argv, capture_output=True, text=True, check=False, env=os.environ | {"PYTHONPATH": str(tmp_path)}
    )
    assert done.returncode == 0, done.stderr
    before, after = load_file(scorer / WHOLE), load_file(tmp_path / "out" / WHOLE)
    assert before.keys() == after.keys()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())


def test_a_file_cut_short_is_not_mended(scorer, tmp_path):
    path = tmp_path / WHOLE
    content = (scorer / WHOLE).read_bytes()
    for length in (0, 4, 40, len(content) - 1):
        path.write_bytes(content[:length])
        with pytest.raises(WorkerError, match="truncated"):
            mend_model.read_header(path)
