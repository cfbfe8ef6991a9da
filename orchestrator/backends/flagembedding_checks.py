"""What does not fit together in a job for FlagEmbedding, found before anything runs."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from orchestrator.backends.base_models import check_base_model
from orchestrator.backends.conditions import COMMON, check_conditions
from orchestrator.backends.deepspeed import load_deepspeed, zero_stage
from orchestrator.backends.determinism import check_determinism
from orchestrator.backends.flagembedding_arguments import find_lengths, uses_lora
from orchestrator.backends.precision import check_precision
from orchestrator.backends.protocol import Found, Job
from orchestrator.backends.quantized import check_quantized
from orchestrator.backends.score_head_checks import check_score_head
from orchestrator.backends.unused_keys import check_labels, check_strategy
from orchestrator.errors import Problem

_LORA = (
    "lora_rank",
    "lora_alpha",
    "lora_dropout",
    "target_modules",
    "modules_to_save",
    "from_peft",
    "raw_peft",
    "use_lora",
)
_DECODERS = re.compile(r"ForCausalLM$")
_ENCODERS = re.compile(r"Bert|XLMRoberta|Electra|Deberta")
_PROMPT_TOKENS = 64  # room that a decoder needs for FlagEmbedding's own prompt, which both lengths together must hold
_WHOSE = "FlagEmbedding's reranker trainers"
# Without DeepSpeed no checkpoint of its can be continued, with or without the optimizer.
_CONDITIONS = tuple(
    replace(one, applies=lambda job, train: bool(train["save_only_model"]) and job.deepspeed_text is not None)
    if one.name == "save_only_model"
    else one
    for one in COMMON
)


def check_flagembedding_job(job: Job, train: Mapping[str, Any]) -> Iterator[Found]:
    """Yield every problem; `train` has the names of the recipe and the trainers' types."""
    yield from check_conditions(_CONDITIONS, job, train)
    yield from _check_absent(job)
    yield from check_labels(job, _WHOSE)
    yield from check_strategy(job, _WHOSE)
    yield from check_base_model(job)
    yield from _check_family(job, train)
    yield from check_score_head(job, train)
    yield from _check_teacher(job, train)
    yield from _check_merge(job, train)
    yield from check_quantized(job, lora=uses_lora(job))
    yield from _check_evaluation(train)
    yield from check_precision(job, train, also=("use_flash_attn",))
    yield from _check_lengths(job)
    yield from _check_batches(train)
    yield from _check_deepspeed(job, train)
    yield from check_determinism(job, train)


def _check_absent(job: Job) -> Iterator[Found]:
    recipe = job.recipe
    for key, given, hint in (
        (("loss",), recipe.loss is not None, "remove it: these trainers take the softmax over each group"),
        (("checkpoint",), recipe.checkpoint is not None, "remove it: the last weights are the model"),
        (("data", "validation_ratio"), recipe.data.validation_ratio is not None, "remove it: Orch measures after"),
        (("data", "instruction"), recipe.data.instruction is not None, "say it as train.query_instruction_for_rerank"),
    ):
        if given:
            yield key, Problem(f"{_WHOSE} have no {key[-1]}", hint)


def _check_family(job: Job, train: Mapping[str, Any]) -> Iterator[Found]:
    family = job.model.family
    yield from _check_architecture(job)
    if family == "encoder":
        for name in (*_LORA, "save_merged_lora_model", "use_flash_attn"):
            if name in train:
                message = f"FlagEmbedding's encoder-only trainer has no {name}"
                yield ("train", name), Problem(message, "remove it, or train an LLM reranker")
    if train.get("model_type", family) != family:
        message = f"{job.model.name} is {family}-only"
        yield ("train", "model_type"), Problem(message, "remove model_type: Orch renders it")
    if train.get("sep_token", "\n") != "\n":
        message = "FlagEmbedding's own rerankers always separate with a newline"
        yield ("train", "sep_token"), Problem(message, "remove sep_token")


def _check_architecture(job: Job) -> Iterator[Found]:
    """Yield a family that the config contradicts: each trainer loads the other's models, with a new head or none."""
    family, other = job.model.family, "decoder" if job.model.family == "encoder" else "encoder"
    for name in job.model.architectures:
        if (_ENCODERS if family == "decoder" else _DECODERS).search(name):
            message = f"{name} is no {family}, and the {family} trainer would train it all the same"
            yield ("model", "family"), Problem(message, f"say family: {other}, or remove it")


def _check_batches(train: Mapping[str, Any]) -> Iterator[Found]:
    if train.get("dataloader_drop_last") is False:
        message = "an incomplete last batch mixes the documents of different queries in FlagEmbedding's loss"
        yield ("train", "dataloader_drop_last"), Problem(message, "remove it: what is left over is said in the ledger")


def _check_teacher(job: Job, train: Mapping[str, Any]) -> Iterator[Found]:
    if job.recipe.teacher is not None and not train.get("knowledge_distillation"):
        message = "the teacher's scores would be computed and not learnt"
        yield ("teacher",), Problem(message, "say train: {knowledge_distillation: true}, or remove it")


def _check_merge(job: Job, train: Mapping[str, Any]) -> Iterator[Found]:
    if uses_lora(job):
        if job.recipe.gate and not job.recipe.merge:
            message = "a gate needs a measured model, and LoRA weights are measured merged"
            yield ("gate",), Problem(message, "say merge: true, or remove the gate")
        return
    if "merge" in job.recipe.model_fields_set and job.recipe.merge:
        message = "there is no LoRA to merge: the trainer writes the full model"
        yield ("merge",), Problem(message, "say merge: false")
    if train.get("save_merged_lora_model") and job.model.family == "decoder":
        hint = "FlagEmbedding would train to the end and then fail: remove it"
        yield ("train", "save_merged_lora_model"), Problem("there is no LoRA to merge", hint)


def _check_evaluation(train: Mapping[str, Any]) -> Iterator[Found]:
    for name in ("eval_strategy", "evaluation_strategy"):
        if train.get(name, "no") != "no":
            message = "FlagEmbedding's trainers do not evaluate while training"
            yield ("train", name), Problem(message, "remove it: Orch measures after")
    if train.get("load_best_model_at_end"):
        message = "FlagEmbedding's trainers do not evaluate, so none is best"
        yield ("train", "load_best_model_at_end"), Problem(message, "remove it")


def _check_lengths(job: Job) -> Iterator[Found]:
    total = sum(find_lengths(job))
    if job.model.family == "decoder" and total < _PROMPT_TOKENS:
        message = f"query_max_len + passage_max_len = {total} leaves no room beside FlagEmbedding's prompt"
        yield ("train", "passage_max_len"), Problem(message, f"give at least {_PROMPT_TOKENS} together; 1024 is usual")


def _check_deepspeed(job: Job, train: Mapping[str, Any]) -> Iterator[Found]:
    config = load_deepspeed(job)
    if isinstance(config, Problem):
        yield ("deepspeed",), config
        return
    if zero_stage(config) == 3:  # noqa: PLR2004
        message = "FlagEmbedding saves empty weights under ZeRO-3: its save path is commented out"
        yield ("deepspeed",), Problem(message, "use stage0, or ZeRO stage 1 or 2")
    asked = train.get("lr_scheduler_type", "linear")
    if "scheduler" in config and asked != "linear":
        message = f"DeepSpeed's own scheduler, a linear decay, would replace lr_scheduler_type {asked}"
        yield ("train", "lr_scheduler_type"), Problem(message, "remove it, or say deepspeed: zero0, which has none")
