"""What names and shapes alone tell of a model's weights is said without any library, and each hint's command mends it."""

from __future__ import annotations

import json
import shlex
import subprocess
from pathlib import Path

import pytest

from orchestrator.backends.models import load_config
from orchestrator.checks.model_files import find_folder_problems, find_name_problems
from orchestrator.errors import PreflightError
from orchestrator.machine.weights import Damage, read_shapes
from tests.checks.model_folders import CONFIG, LAYERS, ROWS, WIDTH, list_decoder, write_safetensors

SCORER = {"model_type": "qwen3", "architectures": ["Qwen3ForSequenceClassification"], "vocab_size": ROWS}


def says(shapes, config=CONFIG, uses=("words",), folder="/m"):
    return [(found.message, found.hint) for found in find_name_problems(Path(folder), config, shapes, uses)]


def test_a_whole_model_and_one_with_code_of_its_own_are_let_through():
    assert says(list_decoder()) == []
    wrapped = {f"module.{name}": shape for name, shape in list_decoder().items()}
    assert says(wrapped, {**CONFIG, "auto_map": {"AutoModel": "mine.Mine"}}) == []


@pytest.mark.parametrize(
    "wrap",
    [
        lambda name: f"module.{name}",
        lambda name: f"_orig_mod.{name}",
        lambda name: f"base_model.model.{name}",
        lambda name: f"module.base_model.model.{name}",
        lambda name: name.replace("layers.0.", "layers.0._fsdp_wrapped_module."),
        lambda name: name.replace("mlp", "_checkpoint_wrapped_module.mlp"),
        lambda name: name.replace("q_proj", "q_proj.base_layer"),
    ],
)
def test_wrapped_names_are_refused_and_the_command_takes_the_wrapper_off(folder, wrap):
    folder.weights({wrap(name): shape for name, shape in list_decoder().items()})
    found = list(find_folder_problems(folder.model(), allow="", allow_pickle=False, uses=("words",)))
    problem = next(problem for problem in found if "other names" in problem.message)
    command = problem.hint[problem.hint.index(": ") + 2 :]
    done = subprocess.run(shlex.split(command), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    mended = Path(f"{folder.path}-mended")
    assert read_shapes(mended / "model.safetensors") == list_decoder()
    assert json.loads((mended / "config.json").read_text()) == json.loads((folder.path / "config.json").read_text())


def test_an_adapter_beside_the_weights_is_refused():
    ((message, hint),) = says({**list_decoder(), "model.layers.0.self_attn.q_proj.lora_A.default.weight": (4, WIDTH)})
    assert "an adapter that was never merged" in message
    assert "merge_and_unload" in hint
    assert "--fold-lora" in hint


def test_a_model_without_a_table_of_embeddings_is_refused():
    lost = {name: shape for name, shape in list_decoder().items() if "embed_tokens" not in name}
    ((message, _),) = says({**lost, "model.position_embeddings.weight": (2048, WIDTH)})
    assert "no table of token embeddings" in message
    assert says({**lost, "transformer.wte.weight": (ROWS, WIDTH)}) == []
    assert says({**lost, "shared.weight": (ROWS + 2, WIDTH)}) == []


def test_a_head_of_several_labels_is_refused_where_a_score_is_wanted():
    shapes = {**list_decoder(), "score.weight": (2, WIDTH)}
    ((message, hint),) = says(shapes, SCORER, ("scores",))
    assert "a head of 2 labels" in message
    assert "--one-label" in hint
    assert "--without-head" not in hint  # a new head is none to measure
    assert "--without-head" in says(shapes, SCORER, ("new-head",))[0][1]
    assert "--one-label" not in says({**shapes, "score.weight": (5, WIDTH)}, SCORER, ("new-head",))[0][1]
    assert says(shapes, SCORER, ("vectors",)) == []
    assert says({**shapes, "score.weight": (1, WIDTH)}, SCORER, ("scores",)) == []


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"num_hidden_layers": 1_000_000_000}, "num_hidden_layers is 1,000,000,000"),
        ({"text_config": {"num_hidden_layers": 20_000}}, "num_hidden_layers is 20,000"),
        ({"vision_config": {"depths": [2, 10**9]}}, "depths is"),
        ({"num_experts": 10**9}, "num_experts is"),
        ({"hidden_size": 10**400}, "a number has 401 digits"),
        ({"vocab_size": -(10**14)}, "vocab_size is"),
    ],
)
def test_a_number_that_no_model_has_never_becomes_a_size(folder, values, said):
    folder.config(**values)
    with pytest.raises(PreflightError) as caught:
        list(find_folder_problems(folder.model(), allow="", allow_pickle=False))
    assert said in str(caught.value)
    assert len(str(caught.value)) < 300


def test_a_long_max_length_is_no_size(folder):
    assert load_config(folder.config(model_max_length=10**17).path)["num_hidden_layers"] == LAYERS


def test_a_tensor_of_an_absurd_size_is_damage(tmp_path):
    path = tmp_path / "model.safetensors"
    write_safetensors(path, {"a": (2, 2)})
    path.write_bytes(path.read_bytes().replace(b"[2, 2]", b"[%d]" % 10**300))
    assert isinstance(read_shapes(path), Damage)
