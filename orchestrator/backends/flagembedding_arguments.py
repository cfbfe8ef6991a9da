"""What `train:` may hold for FlagEmbedding's two reranker trainers, as their own types."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

from orchestrator.backends.arguments import Argument, coerce_all, load_arguments
from orchestrator.backends.protocol import Job
from orchestrator.backends.spellings import OLD_SPELLINGS
from orchestrator.errors import Problem

# Arguments that Orch sets from elsewhere in the recipe: giving them twice would let one of the two lose in silence.
RESERVED = {
    "model_name_or_path": "say it as `model:`",
    "config_name": "remove it: a model is measured, merged and packaged with its own config.json",
    "tokenizer_name": "remove it: a model is measured, merged and packaged with its own tokenizer",
    "train_data": "say it as `data.train:`",
    "output_dir": "the run folder decides it",
    "deepspeed": "say it as `deepspeed:` at the top level",
    "max_len": "say query_max_len and passage_max_len: these trainers read max_len nowhere",
    "sub_batch_size": "remove it: FlagEmbedding has it in its list, and not implemented",
    "fsdp": "these trainers are not started with FSDP: say deepspeed where one GPU is too small",
    "fsdp_config": "these trainers are not started with FSDP: say deepspeed where one GPU is too small",
    "local_rank": "torchrun sets it",
    "resume_from_checkpoint": "use: orch resume RUN",
    "trust_remote_code": "say it as `model: {path: …, trust_remote_code: true}`",
    "token": "set HF_TOKEN in your environment: secrets do not belong in a recipe",
    "hub_token": "set HF_TOKEN in your environment: secrets do not belong in a recipe",
}
_OF_LAYERS = ("start_layer", "head_multi", "head_type", "finetune_type")
_OF_EMBEDDERS = (
    "temperature", "negatives_cross_device", "sentence_pooling_method", "normalize_embeddings", "kd_loss_type",
    "same_dataset_within_batch", "small_threshold", "drop_threshold", "unified_finetuning", "use_self_distill",
    "fix_encoder", "fix_position_embedding", "self_distill_start_step", "colbert_dim", "use_mrl", "mrl_dims",
    "query_instruction_for_retrieval", "passage_instruction_for_retrieval", "retrieval_use_examples",
    "example_query_max_len", "example_passage_max_len", "icl_suffix_str", "additional_special_tokens",
)  # fmt: skip
# What FlagEmbedding's other trainers have, and scripts for those hold.
OTHER_TRAINERS = {
    **dict.fromkeys(
        _OF_LAYERS,
        "it is for FlagEmbedding's layerwise rerankers, which Orch does not train: remove it, and name a model such as "
        "BAAI/bge-reranker-v2-gemma",
    ),
    **dict.fromkeys(_OF_EMBEDDERS, "it is for FlagEmbedding's embedding models, which Orch does not train: remove it"),
}
_POSITIVE = (
    "query_max_len",
    "passage_max_len",
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
    "lora_rank",
)


@cache
def all_arguments() -> dict[str, Argument]:
    """Return every argument of the two trainers, old spellings included."""
    old = {name: Argument(name, kind, None, None) for name, kind in OLD_SPELLINGS.items()}
    return old | load_arguments("flagembedding.encoder_only") | load_arguments("flagembedding.decoder_only")


def type_all(train: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of `train:` as the trainers' types."""
    return coerce_all(train, all_arguments())


def check_values(train: Mapping[str, Any]) -> Iterator[tuple[str, Problem]]:
    """Yield the sizes that these trainers cannot work with; `train` has their types."""
    for name, value in train.items():
        if name in _POSITIVE and value < 1:
            yield name, Problem(f"{name} is {value}; it must be at least 1")
        elif name == "train_group_size" and value < 2:  # noqa: PLR2004
            yield name, Problem(f"a group of {value} has nothing to rank: the loss is always 0", "8 is usual")


def uses_lora(job: Job) -> bool:
    """Tell whether the trainer writes an adapter: an LLM's, unless the recipe says otherwise."""
    return job.model.family == "decoder" and bool(type_all(job.recipe.train).get("use_lora", True))


def find_lengths(job: Job) -> tuple[int, int]:
    """Return the longest query and the longest passage, in tokens."""
    train, known = type_all(job.recipe.train), load_arguments("flagembedding.decoder_only")
    return tuple(int(train.get(name, known[name].default)) for name in ("query_max_len", "passage_max_len"))  # type: ignore[return-value]
