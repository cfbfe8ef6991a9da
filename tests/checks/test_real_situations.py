"""Model folders as hubs really hand them out, small: none of them may be refused, or warned about, for any task it fits.

Names of tensors, keys of config.json and files are those of the models on their hubs; only the numbers are small.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from orchestrator.backends.models import BaseModel, find_model
from orchestrator.backends.swift_models import SwiftModel, find_swift_model
from orchestrator.checks.memory_fit import advise_memory, check_memory
from orchestrator.checks.model_files import advise_model_files, check_model_files
from orchestrator.checks.settings import check_conflicts, check_lengths, check_target_modules
from orchestrator.recipe.schema import ModelRef
from tests.checks.model_folders import CONFIG, LAYERS, ROWS, WIDTH, Folder, list_decoder

OF_FOLDERS = (
    check_model_files,
    advise_model_files,
    check_lengths,
    check_target_modules,
    check_conflicts,
    check_memory,
    advise_memory,
)
RERANKERS = ("qwen3_reranker", "qwen3_reranker_native", "llm_pointwise")
ENCODERS = ("bge_reranker", "bge_pointwise", "bert_pointwise", "bert_ranknet", "demo_reranker")
QWEN3 = CONFIG | {
    "attention_bias": False, "head_dim": 4, "intermediate_size": WIDTH, "num_attention_heads": 2,
    "num_key_value_heads": 1, "max_position_embeddings": 40960, "rope_scaling": None, "rope_theta": 1000000,
    "sliding_window": None, "torch_dtype": "bfloat16",
}  # fmt: skip
XLM_ROBERTA = {
    "model_type": "xlm-roberta", "architectures": ["XLMRobertaForSequenceClassification"], "hidden_size": WIDTH,
    "num_hidden_layers": LAYERS, "num_attention_heads": 2, "intermediate_size": WIDTH, "vocab_size": ROWS,
    "max_position_embeddings": 514, "pad_token_id": 1, "type_vocab_size": 1, "torch_dtype": "float32",
}  # fmt: skip
BERT = XLM_ROBERTA | {
    "model_type": "bert", "architectures": ["BertForMaskedLM"], "max_position_embeddings": 512, "pad_token_id": 0,
}  # fmt: skip
MODULES = [
    {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
    {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
    {"idx": 2, "name": "2", "path": "2_Normalize", "type": "sentence_transformers.models.Normalize"},
]
SENTENCE_TRANSFORMERS = {
    "modules.json": json.dumps(MODULES),
    "1_Pooling/config.json": json.dumps({"word_embedding_dimension": WIDTH, "pooling_mode_lasttoken": True}),
    "config_sentence_transformers.json": json.dumps({"prompts": {"query": "Instruct: …\nQuery:"}}),
}
QWEN_FILES = {
    "vocab.json": "{}",
    "merges.txt": "#version: 0.2\n",
    "generation_config.json": "{}",
    "tokenizer_config.json": json.dumps({"added_tokens_decoder": {"38": {"content": "<|endoftext|>"}}}),
}
PICKLED_TOO = {"pytorch_model.bin": "x", "tf_model.h5": "x", "flax_model.msgpack": "x", "onnx/model.onnx": "x"}
HEAD = {"lm_head.weight": (ROWS, WIDTH)}


def list_encoder(prefix: str, *, words: int = WIDTH, **more: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
    """Return the tensors of a BERT-like model; `words` is the width of its embeddings."""
    shapes = {
        f"{prefix}embeddings.word_embeddings.weight": (ROWS, words),
        f"{prefix}embeddings.LayerNorm.weight": (words,),
    }
    for number in range(LAYERS):
        layer = f"{prefix}encoder.layer.{number}"
        shapes |= {
            f"{layer}.{name}.weight": (WIDTH, WIDTH)
            for name in ("attention.self.query", "attention.self.key", "attention.self.value", "output.dense")
        }
    return shapes | {name.replace("__", "."): shape for name, shape in more.items()}


@dataclass(frozen=True)
class Layout:
    """A model folder of a hub, and the shipped recipes that it fits."""

    config: dict
    tensors: dict[str, tuple[int, ...]]
    recipes: tuple[str, ...]
    files: dict[str, str] = field(default_factory=dict)
    shards: int = 1
    tokenizer_json: bool = True


without_prefix = {name.removeprefix("model."): shape for name, shape in list_decoder().items()}
LAYOUTS = {
    "Qwen3-Reranker-0.6B": Layout(QWEN3, list_decoder(), RERANKERS, QWEN_FILES),
    "Qwen3-Reranker-8B": Layout(
        QWEN3 | {"tie_word_embeddings": False}, list_decoder() | HEAD, RERANKERS, QWEN_FILES, shards=3
    ),
    "Qwen3-Embedding-0.6B": Layout(
        QWEN3, without_prefix, ("qwen3_embedding_lora", "llm_pointwise"),
        QWEN_FILES | SENTENCE_TRANSFORMERS,
    ),
    # untied, and without a head that answers: no task that it fits asks it for words
    "Qwen3-Embedding-8B": Layout(
        QWEN3 | {"tie_word_embeddings": False}, without_prefix,
        ("qwen3_embedding_lora", "llm_pointwise"),
        QWEN_FILES | SENTENCE_TRANSFORMERS, shards=2,
    ),
    # tied, and the head is in the files all the same
    "Qwen3-0.6B": Layout(
        QWEN3, list_decoder() | HEAD, ("sft_single_gpu_test", "qwen3_sft_lora", "llm_pointwise"), QWEN_FILES
    ),
    "Qwen3-4B-Instruct-2507": Layout(
        {key: value for key, value in QWEN3.items() if key not in {"torch_dtype", "rope_theta", "rope_scaling"}}
        | {"dtype": "bfloat16", "rope_parameters": {"rope_type": "default", "rope_theta": 5000000}},
        list_decoder(), ("qwen3_sft_lora", "qwen3_sft_finance"),
        QWEN_FILES | {"chat_template.jinja": "{{ messages }}"}, shards=2,
    ),
    "Qwen3-32B-long": Layout(
        QWEN3 | {"rope_scaling": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}},
        list_decoder(), ("qwen3_sft_lora",), QWEN_FILES,
    ),
    "bge-reranker-base": Layout(
        XLM_ROBERTA,
        list_encoder("roberta.", classifier__dense__weight=(WIDTH, WIDTH), classifier__out_proj__weight=(1, WIDTH)),
        ENCODERS, PICKLED_TOO | {"sentencepiece.bpe.model": "x"},
    ),
    "bge-reranker-v2-m3": Layout(
        XLM_ROBERTA | {"max_position_embeddings": 8194},
        list_encoder("roberta.", classifier__dense__weight=(WIDTH, WIDTH), classifier__out_proj__weight=(1, WIDTH)),
        ENCODERS, {"sentencepiece.bpe.model": "x"}, tokenizer_json=False,
    ),
    "ms-marco-MiniLM-L6-v2": Layout(
        BERT | {"architectures": ["BertForSequenceClassification"]}, list_encoder("bert.", classifier__weight=(1, WIDTH)),
        ENCODERS, PICKLED_TOO | {"vocab.txt": "[PAD]\n"}, tokenizer_json=False,
    ),
    "all-MiniLM-L6-v2": Layout(
        BERT | {"architectures": ["BertModel"]}, list_encoder(""), ENCODERS,
        {"vocab.txt": "[PAD]\n", **SENTENCE_TRANSFORMERS},
    ),
    "chinese-roberta-wwm-ext": Layout(
        BERT | {"directionality": "bidi"}, list_encoder("bert.", cls__predictions__bias=(ROWS,)), ENCODERS,
        {"vocab.txt": "[PAD]\n"}, tokenizer_json=False,
    ),
    "electra-small": Layout(
        BERT | {"model_type": "electra", "architectures": ["ElectraForPreTraining"], "embedding_size": 4},
        list_encoder("electra.", words=4), ENCODERS,
    ),
    "mdeberta-v3-base": Layout(
        BERT | {
            "model_type": "deberta-v2", "architectures": ["DebertaV2ForMaskedLM"], "position_biased_input": False,
            "max_position_embeddings": 128,
        },
        list_encoder("deberta."), ENCODERS, {"spm.model": "x"}, tokenizer_json=False,
    ),
    "rembert": Layout(
        BERT | {
            "model_type": "rembert", "architectures": ["RemBertForMaskedLM"], "input_embedding_size": 4,
            "output_embedding_size": 16, "max_position_embeddings": 512,
        },
        list_encoder("rembert.", words=4), ENCODERS, {"sentencepiece.model": "x"}, tokenizer_json=False,
    ),
}  # fmt: skip
FITTING = [(name, recipe) for name, layout in LAYOUTS.items() for recipe in layout.recipes]


def write_layout(path: Path, layout: Layout) -> Path:
    path.mkdir(parents=True)
    (path / "config.json").write_text(json.dumps(layout.config))
    folder = Folder(path)
    if layout.shards > 1:
        names = list(layout.tensors)
        parts = [names[number :: layout.shards] for number in range(layout.shards)]
        folder.shards(*({name: layout.tensors[name] for name in part} for part in parts))
    else:
        folder.weights(layout.tensors)
    if layout.tokenizer_json:
        folder.tokenizer()
    for name, text in layout.files.items():
        folder.write(name, text)
    return path


@pytest.fixture
def complaints(plan_for):
    """Return everything that is said of a folder in a recipe's job, by the backend and by the checks before a run."""

    def complaints(path: Path, recipe: str) -> list[str]:
        model = find_model(ModelRef(path=str(path)), Path())
        job, plan = plan_for(model, recipe=recipe)
        problems = [problem for _, problem in job.backend.check_job(job)]
        problems += [problem for check in OF_FOLDERS for problem in check(job, plan)]
        return [problem.message for problem in problems]

    return complaints


@pytest.mark.parametrize(("name", "recipe"), FITTING)
def test_a_model_of_a_hub_is_let_through_without_a_word(tmp_path, complaints, name, recipe):
    assert complaints(write_layout(tmp_path / name, LAYOUTS[name]), recipe) == []


@pytest.mark.parametrize(
    "extra", ["original/consolidated.00.pth", "model-00009-of-00009.safetensors", ".gitattributes"]
)
def test_what_else_lies_in_a_folder_means_nothing(tmp_path, complaints, extra):
    path = write_layout(tmp_path / "Qwen3-0.6B", LAYOUTS["Qwen3-0.6B"])
    Folder(path).write(extra, "x")
    assert complaints(path, "sft_single_gpu_test") == []


@pytest.mark.parametrize(
    ("name", "recipe"), [("Qwen3-Reranker-8B", "qwen3_reranker_native"), ("Qwen3-4B-Instruct-2507", "qwen3_sft_lora")]
)
def test_a_snapshot_of_links_into_the_hub_s_cache_is_a_folder_like_any_other(tmp_path, complaints, name, recipe):
    repository = tmp_path / "hub" / f"models--Qwen--{name}"
    whole = write_layout(tmp_path / "whole", LAYOUTS[name])
    snapshot = repository / "snapshots" / "c1899de289a04d12100db370d81485cdf75e47ca"
    (repository / "blobs").mkdir(parents=True)
    snapshot.mkdir(parents=True)
    for number, file in enumerate(path for path in whole.iterdir() if path.is_file()):
        file.rename(repository / "blobs" / f"{number:064x}")
        (snapshot / file.name).symlink_to(f"../../blobs/{number:064x}")
    assert complaints(snapshot, recipe) == []


@pytest.mark.parametrize(
    ("path", "task", "template"),
    [
        ("Qwen/Qwen3-0.6B", "sft", "qwen3"),
        ("models/Qwen3-0.6B/", "sft", "qwen3"),
        ("~/.cache/modelscope/hub/models/Qwen/Qwen3-0___6B", "sft", "qwen3"),
        ("/hf/hub/models--Qwen--Qwen3-0.6B/snapshots/c1899de289a04d12100db370d81485cdf75e47ca", "sft", "qwen3"),
        ("/hf/hub/models--Qwen--Qwen3-4B-Instruct-2507/snapshots/cdbee75f17c01a7cc42f958dc650907174af0554", "sft",
         "qwen3_nothinking"),
        ("/models/Qwen3-Embedding-0___6B", "embedding", "qwen3_emb"),
        ("/models/Qwen3-Reranker-0___6B", "reranker", "qwen3_reranker"),
    ],
)  # fmt: skip
def test_ms_swift_s_name_is_found_wherever_a_hub_has_put_the_model(path, task, template):
    named = find_swift_model(BaseModel(path, path, None, "decoder", None), task)
    assert isinstance(named, SwiftModel)
    assert (named.template, named.why) == (template, "its hub id")
