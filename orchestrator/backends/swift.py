"""ms-swift's `swift sft` and `swift export --merge_lora`: embedding models, rerankers and LLMs as rendered commands."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

from orchestrator.backends.argument_list import ArgumentList, RenderedArgument, build_notes
from orchestrator.backends.argument_paths import check_paths, resolve_paths
from orchestrator.backends.arguments import Argument, coerce_all, load_arguments
from orchestrator.backends.batch_splitting import check_splitting
from orchestrator.backends.determinism import deterministic_environment, explain_determinism, put_determinism
from orchestrator.backends.parallelism import (
    SHARING_ARGUMENTS,
    check_parallelism,
    count_data_ranks,
    count_step_rows,
)
from orchestrator.backends.protocol import Backend, Found, Job, SmokeScale, Training, name_checkpoint
from orchestrator.backends.render import render_command
from orchestrator.backends.saving import put_limit, put_saving, wants_best
from orchestrator.backends.spellings import Translation
from orchestrator.backends.swift_checks import check_swift_job
from orchestrator.backends.swift_losses import (
    ANSWERS,
    explain_environment,
    loss_environment,
    prepare_flags,
    shrink_sizes,
)
from orchestrator.backends.swift_models import SwiftModel, find_swift_model
from orchestrator.backends.swift_reserved import RESERVED
from orchestrator.backends.swift_scoring import GENERATIVE, build_scoring, find_task_type
from orchestrator.backends.swift_spellings import OLD_SWIFT_SPELLINGS, name_loss, name_tuner, translate_swift
from orchestrator.backends.version_checks import check_swift_versions
from orchestrator.errors import Problem, RecipeError
from orchestrator.logs.patches import Remedies
from orchestrator.recipe.losses import find_constant_loss
from orchestrator.recipe.plan import Command, File, Resume

_POSITIVE = (
    "per_device_train_batch_size",
    "per_device_eval_batch_size",
    "gradient_accumulation_steps",
    "lora_rank",
    "max_length",
    "early_stop_interval",
)
_MAX_LENGTHS = {"embedding": 512, "reranker": 1024, "sft": 2048}
_FORMS = {"embedding": "swift-embedding", "reranker": "swift-reranker", "sft": "swift-chat"}
_SMOKE_LEAVES_OUT = frozenset({
    "max_steps", "save_steps", "eval_steps", "warmup_steps", "attn_impl", "torch_compile", "use_liger_kernel", "tf32",
    "torch_dtype", "packing", "padding_free", "per_gpu_train_batch_size", "max_length",
    "evaluation_strategy", "quant_method", "quant_bits", "hqq_axis", "bnb_4bit_compute_dtype", "bnb_4bit_quant_type",
    "bnb_4bit_use_double_quant", "bnb_4bit_quant_storage",
}) | SHARING_ARGUMENTS  # fmt: skip
# What the template qwen3 puts in front of every answer that has no thought: it counts against max_length.
_EMPTY_THOUGHT = "<think>\n\n</think>\n\n"
_TINY_HIDDEN_SIZE = 32  # of workers/tiny_model.py
_SMOKE_LENGTHS = {"embedding": 256, "reranker": 512, "sft": 512}
_DTYPES = {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32"}


def _check_values(train: Mapping[str, Any]) -> Iterator[tuple[str, Problem]]:
    for name, value in train.items():
        if name in _POSITIVE and value < 1:
            yield name, Problem(f"{name} is {value}; it must be at least 1")


def _check_job(job: Job) -> list[Found]:
    """Return what does not fit together, each with the path of the key to change."""
    translation = _translate(job)
    problems: list[Found] = [(("train", name), problem) for name, problem in translation.problems]
    return [
        *problems,
        *check_swift_job(job, translation.arguments),
        *check_paths(job, translation.arguments, load_arguments("swift")),
        *check_swift_versions(job, translation.arguments),
        *check_splitting(job, translation.arguments),
        *check_parallelism(job, translation.arguments),
    ]


def _smoke_scale(job: Job) -> SmokeScale:
    """Return a job of two epochs of 8 short steps, with a learning rate that visibly moves a random model."""
    full = _is_full(_translate(job).arguments)
    return SmokeScale(
        train={
            "num_train_epochs": 2, "per_device_train_batch_size": 2, "per_device_eval_batch_size": 2,
            "gradient_accumulation_steps": 1, "max_length": _SMOKE_LENGTHS[job.recipe.task],
            "learning_rate": 1e-3 if full else 1e-2, "logging_steps": 1, "save_strategy": "epoch",
            "eval_strategy": "epoch" if job.recipe.data.validation_ratio else "no",
            "dataloader_num_workers": 0, "bf16": False, "fp16": False,
        },
        leave_out=_SMOKE_LEAVES_OUT,
        recipe={"loss": shrink_sizes(job.recipe.loss, _TINY_HIDDEN_SIZE)} if job.recipe.loss else {},
    )  # fmt: skip


def _build_training(job: Job, *, model: str, data: str, output: str) -> Training:
    """Return the train stage for the base model at `model` on the prepared folder `data`; all paths absolute."""
    named = _require_named(job)
    translation = _translate(job)
    loss = job.loss if job.recipe.task != "sft" else None
    task_type = find_task_type(job, translation.arguments)
    arguments = _arguments(job, translation, named, model=model, data=data, output=output)
    values = {argument.name: argument.value for argument in arguments}
    env = {"HF_DATASETS_CACHE": output.removesuffix("/output") + "/cache"}
    repeatable = deterministic_environment(job, values["seed"])
    if job.hardware.kind == "cpu" and job.processes() > 1:
        env["ACCELERATE_USE_CPU"] = "true"  # or each process trains alone and writes the same files
    loss_env = loss_environment(loss, generative=task_type == GENERATIVE)
    command = render_command(
        "swift/train.j2",
        env=repeatable | job.environment() | env | loss_env | translation.env,
        cwd=str(job.run_dir),
        python=job.backend_python,
        workers=job.workers,
        nproc_per_node=job.processes(),
        deepspeed=_deepspeed(job) is not None,
        arguments=arguments,
    )
    lora = not _is_full(translation.arguments)
    weights = f"{output}/{name_checkpoint(job, last='last-checkpoint')}"
    notes = build_notes(arguments, translation)
    notes += explain_environment(loss, loss_env) + explain_determinism(job, repeatable | job.environment())
    rows = count_step_rows(job, values)
    return Training(
        command=command,
        files=(File("files/ds_config.json", job.deepspeed_text),) if job.deepspeed_text else (),
        notes=notes,
        outputs=(f"{weights}/adapter_model.safetensors" if lora else f"{weights}/config.json",),
        lora=lora,
        prepare=_prepare_flags(job, values) | prepare_flags(loss),
        scoring=build_scoring(job, named, values, loss, task_type),
        weights=weights,
        resume=Resume("--resume_from_checkpoint", output),
        full_batch_rows=rows if values.get("dataloader_drop_last") else 1,
        counts_rows=not _makes_other_rows(values),
        batch=int(values["per_device_train_batch_size"]),
        accumulation=int(values["gradient_accumulation_steps"]),
        flat_loss=find_constant_loss(loss, values, rows),
    )


def _merge(job: Job, base: str, adapter: str, output: str) -> Command:
    """Return `swift export --merge_lora true` into a folder that appears whole or not at all."""
    return render_command(
        "swift/merge.j2",
        env=job.environment(),
        cwd=str(job.run_dir),
        python=job.backend_python,
        workers=job.workers,
        tokenizer_from=base if base.startswith("/") else None,
        adapter=adapter,
        out=output,
    )


@cache
def _all_arguments() -> dict[str, Argument]:
    old = {name: Argument(name, kind, None, None) for name, kind in OLD_SWIFT_SPELLINGS.items()}
    return load_arguments("swift") | old


def _typed(train: Mapping[str, Any]) -> dict[str, Any]:
    return coerce_all(train, _all_arguments())


def _translate(job: Job) -> Translation:
    translation = translate_swift(_typed(job.recipe.train), job.versions, job.recipe.task)
    return resolve_paths(job, translation, load_arguments("swift"))


def _is_full(arguments: Mapping[str, Any]) -> bool:
    return str(arguments.get("tuner_type", arguments.get("train_type", "lora"))) == "full"


def _makes_other_rows(values: Mapping[str, Any]) -> bool:
    """Tell whether ms-swift trains on other rows than it reads: parts of long ones, or several packed into one."""
    return values["truncation_strategy"] == "split" or any(values.get(name) for name in ("packing", "streaming"))


def _require_named(job: Job) -> SwiftModel:
    named = find_swift_model(job.model, job.recipe.task, job.versions)
    if isinstance(named, Problem):  # check_job has said it already, where a recipe was checked
        raise RecipeError(named.message, hint=named.hint)
    return named


def _arguments(
    job: Job, translation: Translation, named: SwiftModel, *, model: str, data: str, output: str
) -> list[RenderedArgument]:
    """Return the train command's arguments in reading order: model, task, data, tuner, steps, saving, hardware."""
    found, given, recipe = ArgumentList(translation), translation.arguments, job.recipe
    known, full = load_arguments("swift"), _is_full(translation.arguments)
    found.put("model", model, "recipe", "model")
    found.put("model_type", named.model_type, "orch", f"by {named.why}: left out, a folder's name would decide")
    found.put("template", named.template, "orch", f"the prompt of {named.model_type}")
    if not job.model.is_local and not job.smoke:
        found.put("use_hf", True, "orch", "from Hugging Face, where the base model is measured from; not ModelScope")
    task_type = find_task_type(job, given)
    if task_type != "causal_lm":
        found.put("task_type", task_type, "recipe", "task")
    if recipe.task != "sft" and (loss := job.loss):
        found.put("loss_type", name_loss(loss.type, task_type, job.versions), "recipe", "loss")
        if loss.mrl_dims:
            sizes = {str(size): weight for size, weight in loss.mrl_dims.items()}
            found.put("mrl_dims", sizes, "recipe", "loss.mrl_dims")
    found.put("dataset", [f"{data}/train.jsonl"], "recipe", "data.train, prepared")
    if recipe.data.validation_ratio:
        found.put("val_dataset", [f"{data}/validation.jsonl"], "recipe", "data.validation_ratio, split by query")
    found.put("split_dataset_ratio", 0, "orch", "Orch splits by query: a query is on one side only")
    found.put("strict", True, "orch", "a row that cannot be used is an error, not a row less")
    found.put("max_length", _MAX_LENGTHS[recipe.task], "orch", "a limit is always shown: what is longer is refused")
    found.put("truncation_strategy", "delete", "orch", "the data are checked for it first, so that no row goes missing")
    found.put(name_tuner(job.versions), "lora", "default", "ms-swift's default")
    if not full:
        lora = ("lora_rank", "lora_alpha", "lora_dropout", "target_modules")
        found.put_defaults(known, lora, "ms-swift's default")
    found.put("output_dir", output, "orch", "a fresh folder of the run")
    found.put("learning_rate", 1e-5 if full else 1e-4, "default", "ms-swift's default for full and LoRA training")
    found.put_defaults(known, ("num_train_epochs", "per_device_train_batch_size"), "transformers' default")
    found.put("gradient_accumulation_steps", 1, "orch", "left out, ms-swift fills a batch up to 16 rows")
    found.put_defaults(known, ("seed",), "transformers' default")
    found.put_rest()
    if recipe.task != "sft":
        found.put("dataloader_drop_last", True, "orch", "the batch is part of the loss: a smaller last one weighs more")
    put_saving(found, job, given, eval_batch=1)
    put_limit(found, job)
    if wants_best(job):  # without a best one, ms-swift fails on linking to nothing, once it has trained
        found.put("create_checkpoint_symlink", True, "orch", "`best` names the best checkpoint")
    _put_fixed(found)
    _put_precision(found, job, given, full=full)
    if deepspeed := _deepspeed(job):
        found.put("deepspeed", deepspeed, "recipe", "deepspeed")
    put_determinism(found, job)
    return found.items()


def _put_fixed(found: ArgumentList) -> None:
    found.put("add_version", False, "orch", "the output folder is the run's own, also when it is resumed")
    found.put("check_model", False, "orch", "no question to a hub about files on this disk")
    found.put("report_to", ["none"], "orch", "no experiment tracker unless the recipe names one")
    found.put("ddp_timeout", 1800, "orch", "a lost process is noticed after half an hour, not after 208 days")


def _put_precision(found: ArgumentList, job: Job, given: Mapping[str, Any], *, full: bool) -> None:
    """Add dtype and mixed precision, all three: ms-swift turns fp16 on for weights in float32."""
    precision = job.hardware.precision
    half = next((name for name in ("bf16", "fp16") if given.get(name)), precision if precision != "fp32" else None)
    if {"bf16", "fp16"} & given.keys() and not (given.get("bf16") or given.get("fp16")):
        half = None
    why = f"{job.hardware}"
    if full and half:
        why = "full training: in half precision small steps would be rounded away"
    found.put("torch_dtype", "float32" if full or half is None else _DTYPES[half], "hardware", why)
    found.put("bf16", half == "bf16", "hardware", f"{job.hardware}")
    found.put("fp16", half == "fp16", "hardware", f"{job.hardware}")
    if job.hardware.kind == "cpu" and job.processes() > 1:
        found.put("ddp_backend", "gloo", "hardware", "several processes on a CPU")


def _deepspeed(job: Job) -> str | None:
    if job.recipe.deepspeed is None or job.smoke:
        return None
    return str(job.run_dir / "files/ds_config.json") if job.deepspeed_text else job.recipe.deepspeed


def _prepare_flags(job: Job, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the prepare stage needs to know of lengths, columns, the instruction and the validation rows."""
    data, flags = job.recipe.data, {}
    flags["max-tokens"] = values["max_length"]
    flags["truncation"] = {"delete": "drop", "split": "split"}.get(values["truncation_strategy"], "cut")
    if job.recipe.task == "sft" and values["template"] == "qwen3" and values.get("add_non_thinking_prefix", True):
        flags["answer-prefix"] = _EMPTY_THOUGHT
    if data.instruction:
        flags["instruction"] = data.instruction
    if data.validation_ratio:
        flags["validation-ratio"] = data.validation_ratio
        if values.get("dataloader_drop_last"):
            flags["min-validation"] = int(values["per_device_eval_batch_size"]) * count_data_ranks(job, values)
    return flags


BACKEND = Backend(
    name="swift",
    title="ms-swift",
    trainers="ms-swift's trainers",
    distributions=("ms-swift", "torch", "transformers", "peft", "sentence-transformers"),
    tasks=("embedding", "reranker", "sft"),
    deepspeed_names=("zero0", "zero1", "zero2", "zero3", "zero2_offload", "zero3_offload"),
    family="decoder",  # it trains LLMs only, and says itself which it knows
    length_counts_prompt=True,
    lora={"tuner_type": "lora"},
    # replaced by the names of a kind of layers (get_target_modules in swift/pipelines/train/tuner.py); PEFT knows
    # all-linear in the place of a list, and not in the list that FlagEmbedding hands it
    layer_kinds=frozenset({"all-linear", "all-embedding", "all-router", "all-norm"}),
    loads="torch_dtype",
    checkpointing=True,
    spreads_layers=True,
    own_variables=tuple(ANSWERS),
    remedies=Remedies(
        cures={
            "flash-attention-missing": ("train.attn_impl=sdpa",),
            "no-target-modules": ("train.target_modules=all-linear",),
        },
    ),
    known=_all_arguments,
    reserved=RESERVED,
    check_values=_check_values,
    trains_lora=lambda job: not _is_full(_translate(job).arguments),
    data_form=lambda job: _FORMS[job.recipe.task],
    check_job=_check_job,
    smoke_scale=_smoke_scale,
    build_training=_build_training,
    merge=_merge,
)
