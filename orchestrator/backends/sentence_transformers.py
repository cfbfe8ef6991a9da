"""sentence-transformers' CrossEncoderTrainer, for encoders and LLMs with a score head: one command and its config."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from orchestrator.backends.argument_list import ArgumentList, RenderedArgument, build_notes
from orchestrator.backends.argument_paths import check_paths, resolve_paths
from orchestrator.backends.arguments import load_arguments
from orchestrator.backends.batch_splitting import check_splitting
from orchestrator.backends.deepspeed import deepspeed_environment
from orchestrator.backends.determinism import deterministic_environment, explain_determinism, put_determinism
from orchestrator.backends.fsdp import build_fsdp_arguments
from orchestrator.backends.parallelism import SHARING_ARGUMENTS, check_parallelism, count_step_rows
from orchestrator.backends.protocol import Backend, Found, Job, SmokeScale, Training, name_checkpoint
from orchestrator.backends.render import render_command
from orchestrator.backends.saving import find_saving, put_limit, put_saving
from orchestrator.backends.sentence_transformers_arguments import (
    FORMATS,
    LORA,
    RESERVED,
    WORKER_ARGUMENTS,
    all_arguments,
    check_values,
    type_all,
)
from orchestrator.backends.sentence_transformers_checks import STABLE, check_cross_encoder_job
from orchestrator.backends.sentence_transformers_losses import (
    build_loss,
    explain_loss,
    find_form,
    find_loss,
    prepare_flags,
)
from orchestrator.backends.spellings import Translation, translate
from orchestrator.backends.version_checks import check_versions
from orchestrator.logs.patches import Remedies
from orchestrator.recipe.losses import find_constant_loss
from orchestrator.recipe.plan import File, Resume

_CONFIG = "files/train.json"
_DEEPSPEED = "files/ds_config.json"
_SMOKE_LEAVES_OUT = frozenset({
    "max_steps", "save_steps", "eval_steps", "warmup_steps", "torch_compile", "use_liger_kernel", "tf32",
    "per_gpu_train_batch_size", "evaluation_strategy", "optim", "early_stopping_patience", "early_stopping_threshold",
}) | SHARING_ARGUMENTS  # fmt: skip


def _check_job(job: Job) -> list[Found]:
    """Return what does not fit together, each with the path of the key to change."""
    translation = _translate(job)
    translated: list[Found] = [(("train", name), problem) for name, problem in translation.problems]
    return [
        *translated,
        *check_cross_encoder_job(job, translation.arguments),
        *check_paths(job, translation.arguments, all_arguments()),
        *check_versions(job, "sentence_transformers", translation.arguments),
        *check_splitting(job, translation.arguments),
        *check_parallelism(job, translation.arguments),
    ]


def _smoke_scale(job: Job) -> SmokeScale:
    """Return a job of two epochs of 8 short steps, with a learning rate that visibly moves a random model.

    Its checkpoints stand at the ends of epochs. Early stopping is left out: two epochs are what a smoke run has.
    """
    return SmokeScale(
        train={
            "num_train_epochs": 2, "per_device_train_batch_size": 2, "per_device_eval_batch_size": 2,
            "gradient_accumulation_steps": 1, "max_length": 256, "learning_rate": 1e-3, "logging_steps": 1,
            "save_strategy": "epoch", "eval_strategy": "epoch" if job.recipe.data.validation_ratio else "no",
            "dataloader_num_workers": 0, "bf16": False, "fp16": False,
        },
        leave_out=_SMOKE_LEAVES_OUT,
    )  # fmt: skip


def _build_training(job: Job, *, model: str, data: str, output: str) -> Training:
    """Return the train stage for the base model at `model` on the prepared folder `data`; all paths absolute."""
    translation, loss = _translate(job), find_loss(job)
    arguments = _arguments(job, translation, output=output)
    values = {argument.name: argument.value for argument in arguments}
    env = (
        {"HF_DATASETS_CACHE": output.removesuffix("/output") + "/cache"}
        | ({} if job.smoke else deepspeed_environment(job))
        | deterministic_environment(job, values["seed"])
        | translation.env
        | job.environment()
    )
    command = render_command(
        "sentence-transformers/train.j2",
        env=env,
        cwd=str(job.run_dir),
        python=job.backend_python,
        nproc_per_node=job.processes(),
        workers=job.workers,
        config=str(job.run_dir / _CONFIG),
    )
    config = _config(job, values, model=model, data=data)
    files = [File(_CONFIG, json.dumps(config, ensure_ascii=False, indent=2) + "\n")]
    if job.deepspeed_text and not job.smoke:
        files.append(File(_DEEPSPEED, job.deepspeed_text))
    weights = f"{output}/{name_checkpoint(job, last='last')}"  # links that the worker makes at its end
    return Training(
        command=command,
        files=tuple(files),
        notes=explain_loss(job) + build_notes(arguments, translation) + explain_determinism(job, env),
        outputs=(f"{weights}/config.json",),
        lora=False,
        prepare=_prepare_flags(job, values) | prepare_flags(loss, values),
        scoring=_scoring(job, values),
        weights=weights,
        resume=Resume("--resume_from_checkpoint", output),
        full_batch_rows=count_step_rows(job, values) if values["dataloader_drop_last"] else 1,
        batch=int(values["per_device_train_batch_size"]),
        accumulation=int(values["gradient_accumulation_steps"]),
        flat_loss=find_constant_loss(loss, values, rows=1),
    )


def _translate(job: Job) -> Translation:
    translation = translate(type_all(job.recipe.train), job.versions.get("transformers"))
    return resolve_paths(job, translation, all_arguments())


def _arguments(job: Job, translation: Translation, *, output: str) -> list[RenderedArgument]:
    """Return what the worker and its trainer are told, in reading order: input, steps, saving, hardware."""
    found, given = ArgumentList(translation), translation.arguments
    known = load_arguments("sentence_transformers")
    why = "shown because it cuts your data: query and document together, in tokens"
    found.put("max_length", WORKER_ARGUMENTS["max_length"].default, "default", why)
    if job.model.family == "decoder":
        found.put_defaults(WORKER_ARGUMENTS, FORMATS, "how query and document are written for an LLM")
    found.put("output_dir", output, "orch", "a fresh folder of the run")
    batch = ("per_device_train_batch_size", "gradient_accumulation_steps")
    found.put_defaults(known, ("learning_rate", "num_train_epochs", *batch, "seed"), "transformers' default")
    if "stable_ratio" in given:
        found.put("lr_scheduler_type", STABLE, "orch", "stable_ratio: up in a line, level, down in half a cosine")
    found.put_rest()
    several = job.processes() > 1
    why = "sentence-transformers' own rule for several processes" if several else "the last, smaller batch counts too"
    found.put("dataloader_drop_last", several, "default", why)
    found.put("logging_steps", 10, "orch", "transformers' default of 500 leaves most runs without a loss curve")
    found.put("save_strategy", find_saving(given).save_strategy, "orch", "shown: the whole training stands in one file")
    put_saving(found, job, given, eval_batch=8)
    if job.recipe.data.validation_ratio:
        found.put("metric_for_best_model", "eval_loss", "orch", "the best checkpoint has the lowest validation loss")
        found.put("greater_is_better", False, "orch", "the best checkpoint has the lowest validation loss")
    put_limit(found, job)
    found.put("report_to", "none", "orch", "no experiment tracker unless the recipe names one")
    found.put("ddp_timeout", 1800, "orch", "a lost process is noticed after half an hour")
    _put_hardware(found, job, given)
    put_determinism(found, job)
    return found.items()


def _put_hardware(found: ArgumentList, job: Job, given: Mapping[str, Any]) -> None:
    precision = job.hardware.precision
    if precision in {"bf16", "fp16"} and not {"bf16", "fp16"} & given.keys():
        found.put(precision, True, "hardware", f"{job.hardware}")
    if job.hardware.kind == "cpu":
        found.put("use_cpu", True, "hardware", "no GPU is used: several processes would not synchronise without it")
        if job.processes() > 1:
            found.put("ddp_backend", "gloo", "hardware", "several processes on a CPU")
    if job.smoke:  # a tiny model on a CPU is not shared out
        return
    if job.deepspeed_text:
        found.put("deepspeed", str(job.run_dir / _DEEPSPEED), "recipe", "deepspeed")
    if job.recipe.launch.strategy == "fsdp":
        for name, value in build_fsdp_arguments(job).items():
            found.put(name, value, "recipe", "launch.strategy")


def _config(job: Job, values: Mapping[str, Any], *, model: str, data: str) -> dict[str, Any]:
    """Return files/train.json: everything that decides the training, read strictly by workers/train_cross_encoder."""
    patience = values.get("early_stopping_patience")
    threshold = values.get("early_stopping_threshold", 0.0)
    decoder = job.model.family == "decoder"
    return {
        "version": 1,
        "model": model,
        "family": job.model.family,
        "trust_remote_code": job.model.trust_remote_code,
        "loss": build_loss(find_loss(job)),
        "form": find_form(job),
        "train": f"{data}/train.jsonl",
        "validation": f"{data}/validation.jsonl" if job.recipe.data.validation_ratio else None,
        "max_length": values["max_length"],
        "num_labels": 1,
        "format": {name: values[name] for name in FORMATS} if decoder else None,
        "shuffle_ratio": values.get("shuffle_ratio", 0.0),
        "stable_ratio": values.get("stable_ratio"),
        "early_stopping": None if patience is None else {"patience": patience, "threshold": threshold},
        "deterministic": job.recipe.deterministic,
        "arguments": {name: value for name, value in values.items() if name not in WORKER_ARGUMENTS},
    }


def _prepare_flags(job: Job, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the prepare stage needs to know of lengths and of the validation rows."""
    flags: dict[str, Any] = {"max-tokens": values["max_length"], "truncation": "cut"}
    if ratio := job.recipe.data.validation_ratio:
        flags["validation-ratio"] = ratio
        if job.processes() > 1:  # incomplete batches are dropped there too; the worker makes them small enough
            flags["min-validation"] = job.processes()
    return flags


def _scoring(job: Job, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return how a model trained so must be scored: the same pair, or the same written formats, cut at one length."""
    tool, max_length = "sentence-transformers", values["max_length"]
    if job.model.family == "encoder":
        return {"scorer": "cross-encoder", "tool": tool, "prompt": None, "max_length": max_length}
    formats = {name: values[name] for name in FORMATS}
    return {"scorer": "formatted-head", "tool": tool, **formats, "max_length": max_length}


BACKEND = Backend(
    name="sentence-transformers",
    title="sentence-transformers",
    trainers="sentence-transformers' trainer and its worker",
    distributions=("sentence-transformers", "torch", "transformers", "accelerate", "datasets"),
    tasks=("reranker",),
    kind="labelled",
    loads="float32",
    reads_patterns=False,  # Orch's worker opens the rows, and hands datasets what was in them
    remedies=Remedies(batch=8, lengths={"max_length": 512}),
    known=all_arguments,
    reserved=RESERVED,
    others=LORA,
    check_values=check_values,
    data_form=find_form,
    check_job=_check_job,
    smoke_scale=_smoke_scale,
    build_training=_build_training,
)
