"""Names of layers that the model does not have are refused: PEFT would adapt the others and say nothing."""

from __future__ import annotations

import pytest

from orchestrator.checks.settings import check_target_modules
from tests.checks.model_folders import WIDTH, list_decoder

BACKENDS = ("qwen3_reranker", "qwen3_embedding_lora")  # FlagEmbedding and ms-swift


@pytest.fixture
def problems(ask, folder):
    def problems(*overrides, **kinds):
        return ask(check_target_modules, folder.model(), *overrides, **kinds)

    return problems


@pytest.mark.parametrize("recipe", BACKENDS)
def test_names_of_the_model_are_let_through(problems, recipe):
    assert problems("train.target_modules=[q_proj, mlp.up_proj, model.layers.0.self_attn.v_proj]", recipe=recipe) == []


@pytest.mark.parametrize("recipe", BACKENDS)
def test_one_name_of_many_that_matches_nothing_is_refused_with_the_nearest(problems, recipe):
    ((message, hint),) = problems("train.target_modules=[q_proj, v_prj]", recipe=recipe)
    assert "train.target_modules: 'v_prj' matches no layer" in message
    assert "did you mean 'v_proj'?" in hint
    assert "down_proj, gate_proj, k_proj, o_proj, q_proj, up_proj, v_proj" in hint


def test_every_name_that_matches_nothing_is_named(problems):
    assert len(problems("train.target_modules=[query, value, q_proj]")) == 2


def test_a_model_that_joins_its_projections_has_none_of_their_names(problems, folder):
    joined = {name.replace("q_proj", "qkv_proj"): shape for name, shape in list_decoder().items()}
    folder.weights(
        {name: shape for name, shape in joined.items() if not name.endswith((".k_proj.weight", ".v_proj.weight"))}
    )
    asked = "train.target_modules=[qkv_proj, q_proj, k_proj, v_proj]"
    refused = [message.split("'")[1] for message, _ in problems(asked)]
    assert refused == ["q_proj", "k_proj", "v_proj"]


def test_a_part_of_a_name_is_no_name(problems):
    ((message, _),) = problems("train.target_modules=[proj]")
    assert "'proj' matches no layer" in message


def test_a_layer_without_a_matrix_cannot_be_adapted(problems):
    ((message, _),) = problems("train.target_modules=[q_proj, input_layernorm]")
    assert "input_layernorm has no matrix" in message


def test_a_layer_without_a_matrix_can_be_trained_whole(problems):
    swift = "qwen3_embedding_lora"
    assert problems("train.modules_to_save=[input_layernorm, all-norm]", recipe=swift) == []
    assert problems("train.modules_to_save=[self_attn, classifier]", recipe=swift) == []  # a block; a new head
    ((message, _),) = problems("train.modules_to_save=[input_norm]", recipe=swift)
    assert "train.modules_to_save: 'input_norm' matches no layer" in message


def test_a_head_that_no_file_holds_is_a_layer(problems):
    assert problems("train.target_modules=[lm_head]") == []


@pytest.mark.parametrize("name", ["all-linear", "all-embedding"])
def test_ms_swifts_names_for_kinds_of_layers_are_let_through(problems, name):
    assert problems(f"train.target_modules=[{name}]", recipe="qwen3_embedding_lora") == []


def test_flagembedding_has_no_names_for_kinds_of_layers(problems):
    ((message, hint),) = problems("train.target_modules=all-linear")
    assert "'all-linear' matches no layer" in message
    assert "its layers are down_proj, gate_proj, k_proj, o_proj, q_proj, up_proj, v_proj" in hint


@pytest.mark.parametrize(
    "pattern", [r".*\.q_proj", r"model\.layers\.[01]\.mlp\.(up|down)_proj", r"layers\.0\.mlp\.up_proj"]
)
def test_a_pattern_that_matches_a_layer_is_let_through(problems, pattern):
    assert problems(f"train.target_regex='{pattern}'", recipe="qwen3_embedding_lora") == []


def test_a_pattern_that_matches_no_whole_name_is_refused(problems):
    ((message, hint),) = problems("train.target_regex=q_proj", recipe="qwen3_embedding_lora")
    assert "'q_proj' matches no layer" in message
    assert "begin with .*" in hint


def test_a_pattern_that_is_none_is_refused(problems):
    ((message, _),) = problems("train.target_regex='(q_proj'", recipe="qwen3_embedding_lora")
    assert "is no regular expression" in message


def test_full_training_adapts_nothing(problems):
    assert problems("train.use_lora=false", "merge=false") == []


def test_names_in_files_that_are_not_those_of_the_loaded_model_are_not_judged(problems, folder):
    folder.config(num_experts=8)
    assert problems("train.target_modules=[gate_up_proj]") == []


def test_files_that_cannot_be_read_are_another_checks_business(problems, folder):
    folder.remove("model.safetensors")
    assert problems("train.target_modules=[nothing]") == []


def test_a_smoke_run_has_a_model_of_its_own(problems):
    assert problems("train.target_modules=[nothing]", smoke=True) == []


def test_names_without_the_models_prefix_are_the_same_layers(problems, folder):
    folder.weights({name.removeprefix("model."): shape for name, shape in list_decoder().items()})
    assert problems("train.target_modules=[q_proj, model.layers.0.mlp.up_proj]") == []


def test_a_convolution_counts_as_a_matrix(problems, folder):
    folder.weights(list_decoder() | {"model.layers.0.conv1d.weight": (WIDTH, 1, 4)})
    assert problems("train.target_modules=[q_proj, conv1d]") == []
