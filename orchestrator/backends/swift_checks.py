"""What does not fit together in a job for ms-swift, found before anything runs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from orchestrator.backends.conditions import check_conditions
from orchestrator.backends.deepspeed import load_deepspeed
from orchestrator.backends.determinism import check_determinism
from orchestrator.backends.precision import check_precision
from orchestrator.backends.protocol import Found, Job
from orchestrator.backends.quantized import check_quantising, check_quantized
from orchestrator.backends.saving import SETS_ASIDE, check_saving
from orchestrator.backends.score_head_checks import check_score_head
from orchestrator.backends.swift_losses import check_loss
from orchestrator.backends.swift_models import find_swift_model
from orchestrator.backends.swift_reserved import CONDITIONS
from orchestrator.backends.swift_scoring import TASK_TYPES
from orchestrator.backends.unused_keys import check_labels, check_strategy
from orchestrator.errors import Problem

_LORA = (
    "lora_rank",
    "lora_alpha",
    "lora_dropout",
    "target_modules",
    "lora_bias",
    "lora_dtype",
    "use_rslora",
    "use_dora",
)
_CLASSIFIES = ("seq_cls", "decision", "prm")
_NEEDS_VALIDATION = ("early_stop_interval", "load_best_model_at_end", "metric_for_best_model", "eval_steps")
_REMOVE_OR_SET_ASIDE = f"remove it, or {SETS_ASIDE}"


def check_swift_job(job: Job, train: Mapping[str, Any]) -> Iterator[Found]:
    """Yield every problem; `train` has the installed version's names and the backend's types."""
    yield from _check_model(job)
    yield from check_score_head(job, train)
    yield from _check_task(job, train)
    yield from check_loss(job)
    yield from _check_tuner(job, train)
    yield from check_conditions(CONDITIONS, job, train)
    lora = train.get("tuner_type", train.get("train_type")) != "full"
    yield from check_quantized(job, lora=lora)
    yield from check_quantising(job, train, lora=lora)
    yield from _check_truncation(job, train)
    yield from _check_validation(job, train)
    yield from check_saving(job, train)
    yield from check_precision(job, train)
    yield from _check_deepspeed(job)
    yield from _check_placement(job, train)
    yield from _check_unused(job)
    yield from check_determinism(job, train)


def _check_unused(job: Job) -> Iterator[Found]:
    yield from check_labels(job, "ms-swift's trainers")
    yield from check_strategy(job, "ms-swift's trainers")
    if job.recipe.teacher is not None:
        message = "ms-swift's losses learn from labels and pairs, not from a teacher's scores"
        hint = "remove it, or distil with backend: sentence-transformers or flagembedding"
        yield ("teacher",), Problem(message, hint if job.recipe.task == "reranker" else "remove it")


def _check_model(job: Job) -> Iterator[Found]:
    named = find_swift_model(job.model, job.recipe.task, job.versions)
    if isinstance(named, Problem):
        yield ("model",), named
    if job.model.brings_code and not job.model.trust_remote_code:
        message = f"{job.model.name} brings Python code along, and ms-swift always runs it"
        hint = "read it, then say model: {path: …, trust_remote_code: true}; or take a model without code"
        yield ("model",), Problem(message, hint)


def _check_task(job: Job, train: Mapping[str, Any]) -> Iterator[Found]:
    known = TASK_TYPES[job.recipe.task]
    if train.get("task_type") in _CLASSIFIES:
        message = (
            f"task_type {train['task_type']}: Orch trains rerankers, embedding models and LLMs, and no classifiers"
        )
        hint = "remove task_type, num_labels and problem_type"
        hint += ": an LLM then learns to answer with the label as text" if job.recipe.task == "sft" else ""
        yield ("train", "task_type"), Problem(message, hint)
    elif train.get("task_type", known[0]) not in known:
        message = f"task_type {train['task_type']!r} does not fit task: {job.recipe.task}"
        yield ("train", "task_type"), Problem(message, f"one of {', '.join(known)}, or remove it")
    if job.recipe.task == "sft" and job.recipe.data.instruction is not None:
        message = "an LLM's rows hold their own instruction"
        yield ("data", "instruction"), Problem(message, "say it as train.system, or remove it")
    if job.recipe.task != "sft":
        for key, given in (
            (("train", "system"), train.get("system")),
            (("evaluate", "instruction"), job.recipe.evaluate.instruction),
        ):
            if given:
                message = "the instruction is part of the training and of every later use"
                yield key, Problem(message, "say it as data.instruction")


# What other tools call a tuner is a setting of LoRA here.
_TUNERS = {
    "qlora": "say tuner_type: lora, with quant_method: bnb and quant_bits: 4",
    "dora": "say tuner_type: lora, with use_dora: true",
}


def _check_tuner(job: Job, train: Mapping[str, Any]) -> Iterator[Found]:
    tuner = train.get("tuner_type", train.get("train_type", "lora"))
    if tuner not in {"lora", "full"}:
        message = f"tuner_type {tuner!r}: only lora and full are merged and verified"
        yield ("train", "tuner_type"), Problem(message, _TUNERS.get(str(tuner), "say tuner_type: lora, or full"))
    if tuner == "full":
        for name in _LORA:
            if name in train:
                yield ("train", name), Problem(f"full training has no {name}", "remove it, or say tuner_type: lora")
        if "merge" in job.recipe.model_fields_set and job.recipe.merge:
            yield (
                ("merge",),
                Problem("there is no LoRA to merge: the trainer writes the full model", "say merge: false"),
            )
    elif job.recipe.gate and not job.recipe.merge:
        message = "a gate needs a measured model, and LoRA weights are measured merged"
        yield ("gate",), Problem(message, "say merge: true, or remove the gate")


def _check_truncation(job: Job, train: Mapping[str, Any]) -> Iterator[Found]:
    asked = train.get("truncation_strategy", "delete")
    if job.recipe.task == "reranker" and asked != "delete":
        message = f"truncation_strategy {asked} cuts the prompt itself: the answer would be read at another place"
        yield ("train", "truncation_strategy"), Problem(message, "remove it, and raise max_length or shorten the texts")
    if job.recipe.task == "embedding" and asked == "split":
        yield ("train", "truncation_strategy"), Problem("a text cannot be split into two vectors", "remove it")


def _check_validation(job: Job, train: Mapping[str, Any]) -> Iterator[Found]:
    if job.recipe.data.validation_ratio is not None:
        return
    by_evalscope = train.get("eval_use_evalscope") and train.get("eval_dataset")  # it brings its own data sets
    for name in _NEEDS_VALIDATION:
        if train.get(name) and not (name == "eval_steps" and by_evalscope):
            yield ("train", name), Problem(f"{name} needs validation rows, and there are none", _REMOVE_OR_SET_ASIDE)
    if train.get("eval_strategy", "no") != "no" and not by_evalscope:
        message = "eval_strategy: there are no validation rows to evaluate on"
        yield ("train", "eval_strategy"), Problem(message, _REMOVE_OR_SET_ASIDE)


def _check_placement(job: Job, train: Mapping[str, Any]) -> Iterator[Found]:
    """Yield what ms-swift refuses where a process has several GPUs: it spreads the model over them (device_map)."""
    if job.hardware.kind != "cuda" or job.smoke:
        return
    chosen, processes = job.chosen_gpus(), job.processes()
    gpus = job.hardware.count if chosen is None else len(chosen)
    key, hint = ("launch", "nproc_per_node"), f"say launch: {{nproc_per_node: {gpus}}}, or auto"
    fewer = ",".join((chosen or [str(number) for number in range(gpus)])[:processes])
    hint += f"; or give it {processes} of them: launch: {{env: {{CUDA_VISIBLE_DEVICES: '{fewer}'}}}}"
    if processes > gpus or gpus == processes:
        return
    if gpus % processes:
        yield key, Problem(f"ms-swift does not share {gpus} GPUs between {processes} processes", hint)
        return
    for name, given in (
        ("deepspeed", job.recipe.deepspeed is not None),
        ("fsdp", bool(train.get("fsdp"))),
        ("use_liger_kernel", bool(train.get("use_liger_kernel"))),
    ):
        if given:
            message = (
                f"{gpus // processes} GPUs a process: ms-swift spreads the model over them, and refuses {name} then"
            )
            yield key, Problem(message, f"{hint}; or remove {name}")


def _check_deepspeed(job: Job) -> Iterator[Found]:
    if not job.deepspeed_text:
        return
    config = load_deepspeed(job)
    if isinstance(config, Problem):
        yield ("deepspeed",), config
        return
    if clash := [part for part in ("optimizer", "scheduler") if part in config]:
        message = f"ms-swift refuses a DeepSpeed file with {' and '.join(clash)}: it brings its own"
        yield ("deepspeed",), Problem(message, "leave them out, or name zero0 to zero3")
