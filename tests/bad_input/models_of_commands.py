"""Models that commands name without a recipe, and that cannot be used: nothing is started for them."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

from orchestrator.recipe.plan import Command, Plan, Stage
from tests.bad_input.case import GOOD, BadInput, build_safetensors

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tests.bad_input.case import Special

    Files = Mapping[str, str | bytes | Special | None]

_WEIGHTS = "model/model.safetensors"
_AS_LLM = ("--format", "qwen3-native")
EVALUATE = ("evaluate", "--data", "eval.jsonl", "--hardware", "cpu", *_AS_LLM, "--model")
SCORE = ("data", "score", "train.jsonl", "-o", "out.jsonl", *_AS_LLM, "--model")
MINE = ("data", "mine", "train.jsonl", "-o", "out.jsonl", "--family", "encoder", "--model")
_CUT: Files = {_WEIGHTS: GOOD[_WEIGHTS][:-40]}
_BARE: Files = {_WEIGHTS: None, "model/tokenizer.json": None}
_PICKLED: Files = {_WEIGHTS: None, "model/pytorch_model.bin": b"\x80\x02."}
_SHARDED: Files = {
    _WEIGHTS: None,
    "model/model-00001-of-00002.safetensors": GOOD[_WEIGHTS],
    "model/model.safetensors.index.json": json.dumps(
        {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}
    ),
}
_HEAD: Files = {
    "model/config.json": json.dumps({"architectures": ["LlamaForSequenceClassification"], "model_type": "llama"}),
    "model/chat_template.jinja": "{{ messages[0].content }}",
}
_TENSORS = {
    "model.embed_tokens.weight": (4, 8),
    **{f"model.layers.0.mlp.{name}_proj.weight": (8, 8) for name in ("gate", "up", "down")},
}
_WRAPPED: Files = {_WEIGHTS: build_safetensors({f"module.{name}": shape for name, shape in _TENSORS.items()})}
_UNMERGED: Files = {
    _WEIGHTS: build_safetensors({**_TENSORS, "model.layers.0.mlp.up_proj.lora_A.default.weight": (2, 8)})
}
_NO_TABLE: Files = {_WEIGHTS: build_safetensors({name: shape for name, shape in _TENSORS.items() if "mlp" in name})}
_ABSURD: Files = {"model/config.json": json.dumps({"model_type": "qwen3", "num_hidden_layers": 10**9})}
_ZERO: Files = {_WEIGHTS: None, "model/zero_to_fp32.py": "", "model/latest": "global_step10"}
_LISTED: Files = {"model/config.json": "[]"}

_PACKAGE = Stage("06-package", "package", "Package", Command((sys.executable, "workers", "package")))
_RUN: Files = {
    "runs/mine/plan.json": Plan("mine", "runs/mine", "reranker", "swift", False, {}, (_PACKAGE,), ()).to_json(),
    **{f"runs/mine/{name}": content for name, content in GOOD.items() if name.startswith("model/")},
    "runs/mine/model/scoring.json": json.dumps(
        {"version": 1, "scorer": "qwen3-native", "tool": "swift", "model_type": "qwen3_reranker", "template": "qwen3_reranker"}
    ),
}  # fmt: skip
_CUT_RUN: Files = {**_RUN, "runs/mine/model/model.safetensors": GOOD[_WEIGHTS][:-40]}
PREDICT = ("predict", "runs/mine", "-q", "which", "-d", "a falcon")

_ADAPTER: Files = {
    "adapter/adapter_config.json": json.dumps({"base_model_name_or_path": "./model", "task_type": "CAUSAL_LM"}),
    "adapter/adapter_model.safetensors": GOOD[_WEIGHTS],
}
MERGE = ("merge", "adapter", "-o", "merged")


def _refused(
    name: str, story: str, argv: tuple[str, ...], *, files: Files, where: str, says: str, remedy: str
) -> BadInput:
    return BadInput(name, story, argv, 4, where, says, remedy, files)


CASES = (
    _refused("evaluate-cut", "measures a model whose weights are cut", (*EVALUATE, "model"), files=_CUT,
             where="model.safetensors", says="is not whole", remedy="download"),
    _refused("evaluate-shard", "measures one of two shards", (*EVALUATE, "model"), files=_SHARDED,
             where="model-00002-of-00002.safetensors", says="is not there", remedy="download"),
    _refused("evaluate-wrapped", "measures weights that DistributedDataParallel has wrapped", (*EVALUATE, "model"),
             files=_WRAPPED, where="model", says="module.model.embed_tokens.weight", remedy="--strip module"),
    _refused("evaluate-unmerged", "measures a LoRA that was never merged", (*EVALUATE, "model"), files=_UNMERGED,
             where="model", says="never merged", remedy="merge_and_unload"),
    _refused("score-no-table", "scores with a model without embeddings", (*SCORE, "model"), files=_NO_TABLE,
             where="model", says="no table of token embeddings", remedy="whole"),
    _refused("evaluate-absurd", "measures a model of a billion layers", (*EVALUATE, "model"), files=_ABSURD,
             where="config.json", says="num_hidden_layers is 1,000,000,000", remedy="download"),
    _refused("merge-zero", "merges a checkpoint of DeepSpeed", ("merge", "model", "-o", "merged"), files=_ZERO,
             where="model", says="checkpoint of DeepSpeed", remedy="zero_to_fp32"),
    _refused("evaluate-config", "measures a model whose config is a list", (*EVALUATE, "model"), files=_LISTED,
             where="config.json", says="no JSON object", remedy="download"),
    _refused("evaluate-head", "asks a reward model for a word", (*EVALUATE, "model"), files=_HEAD,
             where="model", says="its head gives something else", remedy="reward-model"),
    _refused("evaluate-file", "measures a file", (*EVALUATE, "train.jsonl"), files={},
             where="train.jsonl", says="no such model folder", remedy="owner/name"),
    _refused("evaluate-nobody", "measures a model in the home of nobody", (*EVALUATE, "~nobody-here/m"), files={},
             where="~nobody-here", says="no such model folder", remedy="paths start from"),
    _refused("evaluate-adapter", "measures a LoRA adapter", (*EVALUATE, "adapter"), files=_ADAPTER,
             where="adapter", says="LoRA adapter", remedy="orch merge adapter"),
    _refused("score-bare", "scores with a folder without weights and tokenizer", (*SCORE, "model"), files=_BARE,
             where="model", says="has no tokenizer", remedy="copy the tokenizer"),
    _refused("score-pickle", "scores with pickled weights", (*SCORE, "model"), files=_PICKLED,
             where="model", says="pickle", remedy="--allow-pickle"),
    _refused("score-nothing", "scores with a model without a name", (*SCORE, ""), files={},
             where="", says="name is empty", remedy="a hub id"),
    _refused("score-run", "scores with a run that has no model", (*SCORE, "runs/mine"), files={"runs/mine/plan.json": "{}"},
             where="runs/mine", says="no packaged model", remedy="orch resume"),
    _refused("mine-long", "searches with a model of a very long name", (*MINE, "x" * 5000), files={},
             where="xxx", says="no such model folder", remedy="owner/name"),
    _refused("mine-tokenizer", "searches with a cut tokenizer", (*MINE, "model", "--pooling", "mean"),
             files={"model/tokenizer.json": '{"version": '},
             where="tokenizer.json", says="is not whole", remedy="download"),
    _refused("predict-cut", "asks a packaged model whose weights are cut", PREDICT, files=_CUT_RUN,
             where="model.safetensors", says="is not whole", remedy="download"),
    BadInput("predict-scoring", "asks a packaged model whose scoring.json is cut", PREDICT, 9, "scoring.json",
             "cannot be read", "package the model again", {**_RUN, "runs/mine/model/scoring.json": "{"}),
    BadInput("predict-foreign", "asks a run that somebody else made", PREDICT, 9, "plan.json", "was not made by you",
             "--trust-run", {**_RUN, "runs/mine/plan.seal": "0" * 64}),
    _refused("merge-base", "merges into a base whose weights are cut", MERGE, files={**_ADAPTER, **_CUT},
             where="model.safetensors", says="is not whole", remedy="download"),
    _refused("merge-adapter", "merges an adapter that is cut", MERGE,
             files={**_ADAPTER, "adapter/adapter_model.safetensors": GOOD[_WEIGHTS][:-40]},
             where="adapter_model.safetensors", says="is not whole", remedy="copy that file"),
    _refused("merge-pickle", "merges into a pickled base", MERGE, files={**_ADAPTER, **_PICKLED},
             where="model", says="pickle", remedy="--allow-pickle"),
    BadInput("merge-config", "merges an adapter whose config is cut", MERGE, 9, "adapter_config.json",
             "cannot be read", "LoRA adapter", {**_ADAPTER, "adapter/adapter_config.json": "{"}),
    _refused("merge-nothing", "merges an adapter that names no base", MERGE,
             files={**_ADAPTER, "adapter/adapter_config.json": "{}"},
             where="adapter_config.json", says="names no base model", remedy="--base"),
)  # fmt: skip
