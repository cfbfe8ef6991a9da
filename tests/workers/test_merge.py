from __future__ import annotations

import json
import shutil
from dataclasses import replace

import pytest

from orchestrator.workers import merge
from orchestrator.workers.chat.score import Answer
from orchestrator.workers.failure import WorkerError
from orchestrator.workers.merge_trial import Observed, compare_vectors, explain, judge
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


def test_the_dtype_can_be_chosen_and_an_older_result_is_replaced_on_demand(decoder, tuned_decoder, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "half a model").write_text("")
    with pytest.raises(WorkerError, match="exists already"):
        run_merge(decoder, tuned_decoder.adapter, tmp_path / "out", "--dtype", "bfloat16")
    assert (tmp_path / "out" / "half a model").exists()
    assert run_merge(decoder, tuned_decoder.adapter, tmp_path / "out", "--dtype", "bfloat16", "--replace") == 0
    config = json.loads((tmp_path / "out" / "config.json").read_text(encoding="utf-8"))
    assert config["dtype"] == "bfloat16"
    assert not (tmp_path / "out" / "half a model").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_the_base_is_read_from_the_adapter_and_the_summary_is_one_json_line(decoder, tuned_decoder, tmp_path, capsys):
    arguments = ["--adapter", str(tuned_decoder.adapter), "--out", str(tmp_path / "out"), "--test-prompt", "tea?"]
    assert merge.main(arguments) == 0
    summary = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (summary["base"], summary["kind"], summary["passed"]) == (str(decoder), "generation", True)
    assert summary["max_difference"] <= summary["tolerance"]
    assert summary["test"]["adapter"] == summary["test"]["merged"]
    assert summary["test"]["same"]


def test_a_base_that_is_gone_is_named(tuned_decoder, tmp_path):
    adapter = shutil.copytree(tuned_decoder.adapter, tmp_path / "adapter")
    config = json.loads((adapter / "adapter_config.json").read_text(encoding="utf-8"))
    for base, words in (("/gone/model", "/gone/model, which is not there"), (None, "names no base model")):
        text = json.dumps({**config, "base_model_name_or_path": base})
        (adapter / "adapter_config.json").write_text(text, encoding="utf-8")
        with pytest.raises(WorkerError, match=words):
            merge.main(["--adapter", str(adapter), "--out", str(tmp_path / "out")])


@pytest.mark.parametrize("kind", ["score", "embedding"])
def test_scores_and_vectors_are_tried_on_a_prompt_too(decoder, tmp_path, capsys, kind):
    adapter = save_other_adapter(decoder, tmp_path / "adapter", kind)
    assert run_merge(decoder, adapter, tmp_path / "out", "--test-prompt", "tea?") == 0
    summary = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (summary["kind"], summary["passed"], summary["test"]["same"]) == (kind, True, True)
    shown = summary["test"]["merged"]
    assert isinstance(shown, float) if kind == "score" else (shown["norm"] > 0 and len(shown["first"]) == 8)
    names = json.loads((tmp_path / "out" / "config.json").read_text(encoding="utf-8"))["architectures"]
    assert names == [f"Qwen3For{'SequenceClassification' if kind == 'score' else 'CausalLM'}"]


def save_other_adapter(base, folder, kind):
    """Save an adapter as ms-swift does: a trained head for scores, a word in args.json for embeddings."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

    torch.manual_seed(4)
    if kind == "score":
        model = AutoModelForSequenceClassification.from_pretrained(base, num_labels=1)
        settings = LoraConfig(task_type="SEQ_CLS", r=4, target_modules=["q_proj"], modules_to_save=["score"])
    else:
        model = AutoModelForCausalLM.from_pretrained(base)
        settings = LoraConfig(r=4, target_modules=["q_proj"])
    model = get_peft_model(model, settings)
    for name, parameter in model.named_parameters():
        if "lora_B" in name or "modules_to_save" in name:
            parameter.data.copy_(0.1 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    task = {"score": "reranker", "embedding": "embedding"}[kind]
    (folder / "args.json").write_text(json.dumps({"task_type": task}), encoding="utf-8")
    return folder


def test_a_merge_that_changes_the_numbers_or_the_answer_is_refused():
    first = Observed([1.0, 2.0, 3.0], [], Answer([4], ended=False, top=({4: 2.0, 5: 1.0},)), "four")
    same = judge("generation", first, first, "float32", "x")
    assert same["passed"]
    assert explain(same) == []
    other = replace(first, numbers=[1.0, 2.0, 3.5], answer=Answer([5], ended=False), text="five")
    refused = judge("generation", first, other, "float32", "x")
    assert not refused["passed"]
    assert [line.split(":")[0] for line in explain(refused)] == [
        "the merged model gives other numbers than base and adapter",
        "the test prompt gives 'five' merged, and 'four' from base and adapter",
    ]


@pytest.mark.parametrize("task_type", [None, "CAUSAL_LM"])
def test_a_base_with_a_trained_head_keeps_it_whatever_the_adapter_calls_itself(decoder, tmp_path, capsys, task_type):
    from safetensors.torch import load_file
    from transformers import AutoModelForSequenceClassification

    base, adapter, out = (tmp_path / name for name in ("base", "adapter", "out"))
    shutil.copytree(decoder, base)
    AutoModelForSequenceClassification.from_pretrained(decoder, num_labels=1).save_pretrained(base)
    save_adapter(decoder, adapter, scale=0.5)
    config = json.loads((adapter / "adapter_config.json").read_text(encoding="utf-8"))
    (adapter / "adapter_config.json").write_text(json.dumps({**config, "task_type": task_type}), encoding="utf-8")
    (adapter / "args.json").write_text('{"task_type": "reranker", "template": "qwen3_reranker"}', encoding="utf-8")
    assert run_merge(base, adapter, out) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["kind"] == "score"
    assert json.loads((out / "config.json").read_text(encoding="utf-8"))["architectures"] == [
        "Qwen3ForSequenceClassification"
    ]
    before, after = load_file(base / "model.safetensors"), load_file(out / "model.safetensors")
    assert after["score.weight"].equal(before["score.weight"])
    assert (out / "args.json").read_bytes() == (adapter / "args.json").read_bytes()


@pytest.fixture(scope="module")
def sentence_adapter(place, encoder):
    """A SentenceTransformer that pools its first token, has prompts, and the LoRA adapter that it was trained with."""
    import torch
    from peft import LoraConfig, TaskType
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.base.modules import Transformer
    from sentence_transformers.sentence_transformer.modules import Normalize, Pooling

    transformer = Transformer(str(encoder), max_seq_length=64)
    modules = [transformer, Pooling(transformer.get_embedding_dimension(), "cls"), Normalize()]
    prompts = {"query": "search: ", "document": ""}
    SentenceTransformer(modules=modules, prompts=prompts).save(str(place / "sentence-base"))
    model = SentenceTransformer(str(place / "sentence-base"))
    model.add_adapter(LoraConfig(task_type=TaskType.FEATURE_EXTRACTION, r=4, target_modules=["query", "value"]))
    torch.manual_seed(1)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.5)
    model.save_pretrained(str(place / "sentence-adapter"))
    return place / "sentence-adapter"


def test_a_merged_sentence_transformer_is_whole_and_gives_the_same_vectors(sentence_adapter, tmp_path, capsys):
    from sentence_transformers import SentenceTransformer

    base, out = sentence_adapter.parent / "sentence-base", tmp_path / "out"
    assert run_merge(base, sentence_adapter, out) == 0
    summary = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert summary["passed"]
    merged, adapted, plain = (SentenceTransformer(str(folder)) for folder in (out, sentence_adapter, base))
    assert merged.prompts["query"] == "search: "
    assert [type(module).__name__ for module in merged] == ["Transformer", "Pooling", "Normalize"]
    text = "green tea"
    assert merged.encode_query(text) == pytest.approx(adapted.encode_query(text), abs=1e-4)
    assert merged.encode_query(text) != pytest.approx(plain.encode_query(text), abs=1e-3)


def test_a_folder_that_gives_other_vectors_than_base_and_adapter_is_told(sentence_adapter):
    from peft import PeftModel
    from transformers import AutoModel

    base = sentence_adapter.parent / "sentence-base"
    adapted = PeftModel.from_pretrained(AutoModel.from_pretrained(base), sentence_adapter).eval()
    found = compare_vectors(base, adapted, "float32", trust_remote_code=False)
    assert not found["passed"]
    assert found["max_difference"] > found["tolerance"]


def test_modules_are_the_base_s_where_the_adapter_names_none(sentence_adapter, tmp_path):
    bare = tmp_path / "bare"
    shutil.copytree(sentence_adapter, bare, ignore=shutil.ignore_patterns("modules.json", "1_*", "2_*", "*sentence*"))
    assert run_merge(sentence_adapter.parent / "sentence-base", bare, tmp_path / "out") == 0
    assert (tmp_path / "out" / "1_Pooling" / "config.json").is_file()


def test_a_module_outside_of_its_folder_is_refused(sentence_adapter, tmp_path):
    evil = tmp_path / "evil"
    shutil.copytree(sentence_adapter, evil)
    modules = json.loads((evil / "modules.json").read_text())
    modules[1]["path"] = "../../somewhere"
    (evil / "modules.json").write_text(json.dumps(modules))
    with pytest.raises(WorkerError, match="outside of its folder"):
        run_merge(sentence_adapter.parent / "sentence-base", evil, tmp_path / "out")
