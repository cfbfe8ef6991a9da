"""What does not fit together in a job for sentence-transformers, found before anything runs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from orchestrator.backends.base_models import check_base_model
from orchestrator.backends.conditions import COMMON, check_conditions
from orchestrator.backends.deepspeed import load_deepspeed, zero_stage
from orchestrator.backends.determinism import check_determinism
from orchestrator.backends.precision import check_precision
from orchestrator.backends.protocol import Found, Job
from orchestrator.backends.quantized import check_quantized
from orchestrator.backends.saving import SETS_ASIDE, check_saving
from orchestrator.backends.score_head_checks import check_score_head
from orchestrator.backends.sentence_transformers_arguments import FORMATS
from orchestrator.backends.sentence_transformers_losses import check_loss
from orchestrator.errors import Problem

STABLE = "warmup_stable_decay"
_REMOVE_OR_SET_ASIDE = f"remove it, or {SETS_ASIDE}"
_NEEDS_VALIDATION = ("early_stopping_patience", "early_stopping_threshold", "eval_steps", "eval_on_start", "eval_delay")


def check_cross_encoder_job(job: Job, train: Mapping[str, Any]) -> Iterator[Found]:
    """Yield every problem; `train` has the installed version's names and the trainer's types."""
    yield from check_conditions(COMMON, job, train)
    yield from _check_absent(job)
    yield from check_quantized(job, lora=False)
    yield from check_loss(job, train)
    yield from check_base_model(job)
    yield from _check_formats(job, train)
    yield from check_score_head(job, train)
    yield from _check_schedule(train)
    yield from _check_validation(job, train)
    yield from check_saving(job, train)
    yield from check_precision(job, train)
    yield from _check_processes(job, train)
    yield from _check_deepspeed(job)
    yield from _check_strategy(job)
    yield from check_determinism(job, train)


def _check_absent(job: Job) -> Iterator[Found]:
    recipe = job.recipe
    if recipe.data.instruction is not None:
        message = "a cross-encoder of sentence-transformers takes no instruction"
        hint = "write it into train.query_format"
        yield ("data", "instruction"), Problem(message, hint if job.model.family == "decoder" else "remove it")
    if "merge" in recipe.model_fields_set and recipe.merge:
        message = "there is no LoRA to merge: the trainer writes the full model"
        yield ("merge",), Problem(message, "say merge: false, or remove it")
    if job.model.brings_code and not job.model.trust_remote_code:
        message = f"{job.model.name} brings Python code along, and does not load without it"
        hint = "read it, then say model: {path: …, trust_remote_code: true}; or take a model without code"
        yield ("model",), Problem(message, hint)


def _check_formats(job: Job, train: Mapping[str, Any]) -> Iterator[Found]:
    if job.model.family == "decoder":
        return
    for name in FORMATS:
        if name in train:
            message = f"an encoder reads query and document as a pair, with its own separator: it has no {name}"
            yield ("train", name), Problem(message, "remove it; formats are for LLMs")


def _check_schedule(train: Mapping[str, Any]) -> Iterator[Found]:
    stable, scheduler = train.get("stable_ratio"), train.get("lr_scheduler_type")
    if stable is None:
        if scheduler == STABLE and "lr_scheduler_kwargs" not in train:
            message = f"{STABLE} does not know how long the learning rate stays"
            yield ("train", "lr_scheduler_type"), Problem(message, "say stable_ratio: 0.4, a share of the steps")
        return
    if scheduler not in {None, STABLE}:
        message = f"stable_ratio is a part of {STABLE}, and lr_scheduler_type is {scheduler}"
        yield ("train", "lr_scheduler_type"), Problem(message, "remove one of the two")
    if "lr_scheduler_kwargs" in train:
        message = "stable_ratio decides the schedule's steps, and lr_scheduler_kwargs gives them too"
        yield ("train", "lr_scheduler_kwargs"), Problem(message, "remove one of the two")
    warmup = train.get("warmup_ratio") or train.get("warmup_steps") or 0
    if warmup < 1 and warmup + stable > 1:
        message = f"warm-up {warmup} and stable_ratio {stable} are more than all steps"
        yield ("train", "stable_ratio"), Problem(message, "together at most 1; what is left is the decay")


def _check_validation(job: Job, train: Mapping[str, Any]) -> Iterator[Found]:
    if job.recipe.data.validation_ratio is not None:
        if "early_stopping_threshold" in train and "early_stopping_patience" not in train:
            message = "early_stopping_threshold without early_stopping_patience stops nothing"
            yield ("train", "early_stopping_threshold"), Problem(message, "say early_stopping_patience: 3")
        return
    for name in _NEEDS_VALIDATION:
        if train.get(name):
            yield ("train", name), Problem(f"{name} needs validation rows, and there are none", _REMOVE_OR_SET_ASIDE)
    if train.get("eval_strategy", "no") != "no":
        yield (
            ("train", "eval_strategy"),
            Problem("eval_strategy: there are no validation rows to evaluate on", _REMOVE_OR_SET_ASIDE),
        )


def _check_processes(job: Job, train: Mapping[str, Any]) -> Iterator[Found]:
    if job.processes() > 1 and train.get("dataloader_drop_last") is False:
        message = "with several processes sentence-transformers always drops the last, incomplete batch"
        yield ("train", "dataloader_drop_last"), Problem(message, "remove it; the log says how many rows")


def _check_deepspeed(job: Job) -> Iterator[Found]:
    config = load_deepspeed(job)
    if isinstance(config, Problem):
        yield ("deepspeed",), config
        return
    if zero_stage(config) == 3:  # noqa: PLR2004
        message = "under ZeRO-3 no process holds whole weights, and sentence-transformers would save pieces of them"
        yield ("deepspeed",), Problem(message, "say zero2, zero1 or zero0")
    if clash := [part for part in ("optimizer", "scheduler") if part in config]:
        message = f"its {' and '.join(clash)} would replace those of train: in silence, warm-up and decay included"
        yield ("deepspeed",), Problem(message, "leave them out, or name zero0, zero1 or zero2")


def _check_strategy(job: Job) -> Iterator[Found]:
    strategy, key = job.recipe.launch.strategy, ("launch", "strategy")
    if strategy is None:
        return
    if job.recipe.deepspeed is not None:
        yield key, Problem(f"deepspeed shares the training already; {strategy} is another way", "keep one of the two")
    if strategy != "fsdp":
        return
    if job.model.family == "decoder":
        message = "FSDP is tried with encoders only: an LLM's new head and its embeddings are not split as it expects"
        yield key, Problem(message, "say deepspeed: zero2")
        return
    if job.smoke:
        return
    if job.hardware.kind == "cpu":
        message = "FSDP needs GPUs: accelerate leaves it out on a CPU, and each process would train alone"
        yield key, Problem(message, "remove it: several processes on a CPU are ddp")
    elif job.processes() < 2:  # noqa: PLR2004
        yield key, Problem("FSDP spreads a model over processes, and there is one", "remove it, or use more GPUs")
