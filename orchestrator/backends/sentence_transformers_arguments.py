"""What `train:` may hold for sentence-transformers: its trainer's arguments, and those of the worker that starts it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

from orchestrator.backends.arguments import Argument, coerce_all, load_arguments
from orchestrator.backends.spellings import OLD_SPELLINGS
from orchestrator.errors import Problem

# Arguments that Orch sets from elsewhere in the recipe: giving them twice would let one of the two lose in silence.
RESERVED = {
    "output_dir": "the run folder decides it",
    "deepspeed": "say it as `deepspeed:` at the top level",
    "fsdp": "say it as `launch: {strategy: fsdp}`",
    "fsdp_config": "say it as `launch: {strategy: fsdp}`",
    "resume_from_checkpoint": "use: orch resume RUN",
    "load_best_model_at_end": "say it as `checkpoint: best`",
    "metric_for_best_model": "the best checkpoint is the one with the lowest validation loss",
    "greater_is_better": "the best checkpoint is the one with the lowest validation loss",
    "do_train": "it trains",
    "do_eval": "say it as `data.validation_ratio:`",
    "do_predict": "Orch measures after",
    "local_rank": "torchrun sets it",
    "full_determinism": "say it as `deterministic: true` at the top level",
    "logging_nan_inf_filter": "Orch sets it: a loss that is no number must be seen",
    "disable_tqdm": "Orch sets it: bars would flood the log",
    "prompts": "write the prompt into the rows, or into query_format for an LLM",
    "remove_unused_columns": "the prepared rows hold what the loss reads",
    "router_mapping": "a cross-encoder has no routes",
    "multi_dataset_batch_sampler": "there is one data set: several files are read as one",
    "push_to_hub": "publish `model/` once it is measured: `hf upload`",
    "hub_token": "set HF_TOKEN in your environment: secrets do not belong in a recipe",
    "model": "say it as `model:`",
    "model_name_or_path": "say it as `model:`",
    "trust_remote_code": "say it as `model: {path: …, trust_remote_code: true}`",
    "train_dataset": "say it as `data.train:`",
    "val_dataset": "say it as `data.eval:`, or `data.validation_ratio:` for the trainer's own evaluation",
    "loss_type": "say it as `loss:`",
    "max_label": "say it as `data.max_label:`",
    "min_label": "say it as `data.min_label:`",
    "knowledge_distillation": "say it as `loss: {type: margin_mse}`, or `loss.target: teacher`",
}
# The worker's own arguments: name, type, default, choices.
WORKER_ARGUMENTS = {
    argument.name: argument
    for argument in (
        Argument("max_length", "int", 512, None),
        Argument("num_labels", "int", 1, None),
        Argument("stable_ratio", "float", None, None),
        Argument("shuffle_ratio", "float", 0.0, None),
        Argument("train_group_size", "int", None, None),
        Argument("early_stopping_patience", "int", None, None),
        Argument("early_stopping_threshold", "float", 0.0, None),
        Argument("query_format", "str", "query: {}", None),
        Argument("document_format", "str", "document: {}", None),
        Argument("seq", "str", " ", None),
        Argument("special_token", "str", "</s>", None),
    )
}
FORMATS = ("query_format", "document_format", "seq", "special_token")
LORA = {
    name: Problem(
        f"{name}: this backend trains all weights and has no LoRA",
        "remove it; LLM rerankers have LoRA with backend: flagembedding or swift",
    )
    for name in ("use_lora", "lora_rank", "lora_alpha", "lora_dropout", "target_modules", "tuner_type", "train_type")
}
_AT_LEAST = {
    "max_length": 8,
    "per_device_train_batch_size": 1,
    "per_device_eval_batch_size": 1,
    "gradient_accumulation_steps": 1,
    "early_stopping_patience": 1,
    "early_stopping_threshold": 0,
    "train_group_size": 2,
}
_SHARES = ("stable_ratio", "shuffle_ratio")


@cache
def all_arguments() -> dict[str, Argument]:
    """Return every argument that `train:` may hold, old spellings included."""
    old = {name: Argument(name, kind, None, None) for name, kind in OLD_SPELLINGS.items()}
    return load_arguments("sentence_transformers") | old | WORKER_ARGUMENTS


def type_all(train: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of `train:` as the trainer's types."""
    return coerce_all(train, all_arguments())


def check_values(train: Mapping[str, Any]) -> Iterator[tuple[str, Problem]]:
    """Yield the sizes and texts that the trainer or its worker cannot work with; `train` has their types."""
    for name, value in train.items():
        if name in _AT_LEAST and value < _AT_LEAST[name]:
            yield name, Problem(f"{name} is {value}; it must be at least {_AT_LEAST[name]}")
        elif name in _SHARES and not 0 <= value <= 1:
            yield name, Problem(f"{name} is a share, from 0 to 1; got {value}", "0.1 is 10 %")
        elif name in {"query_format", "document_format"} and value.count("{}") != 1:
            message = f"{name} is {value!r}: it needs {{}} exactly once, where the text goes"
            yield name, Problem(message, "'query: {}'")
        elif name == "num_labels" and value != 1:
            message = f"num_labels is {value}: a reranker gives each document one score"
            yield name, Problem(message, "remove it; grades are one label from 0 to 1: data.max_label")
