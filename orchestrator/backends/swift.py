"""ms-swift's `swift sft` and `swift export --merge_lora`: embedding models, rerankers and LLMs as rendered commands.

`loss:` becomes environment variables, which ms-swift reads and records nowhere: swift/loss/embedding.py,
swift/loss/reranker.py and the collators of swift/template/base.py, ms-swift 4.6.0.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from orchestrator.backends.aliases import is_full, name_loss, name_tuner
from orchestrator.backends.arguments import load_arguments, load_words
from orchestrator.backends.protocol import WORKER_IMPORTS, Backend, Job, SmokeScale, Training, name_checkpoint
from orchestrator.backends.render import render_command
from orchestrator.backends.sharing import SHARING_ARGUMENTS, build_swift_fsdp, count_data_ranks, count_step_rows
from orchestrator.backends.swift_checks import check_job
from orchestrator.backends.swift_models import ANSWERS, GENERATIVE, SwiftModel, find_swift_model, find_task_type
from orchestrator.backends.trainer import (
    ArgumentList,
    deterministic_environment,
    finish_training,
    put_determinism,
    put_limit,
    put_saving,
    put_timeout,
    put_trackers,
    shrink_sizes,
    wants_best,
)
from orchestrator.errors import Problem, RecipeError
from orchestrator.logs.patches import Remedies
from orchestrator.recipe.losses import find_constant_loss
from orchestrator.recipe.plan import Command, File, Note, Resume
from orchestrator.recipe.schema import Loss

_SHOWN = "shown, because ms-swift records it nowhere"
_WORDS = load_words("swift")
_MAX_LENGTHS = {"embedding": 512, "reranker": 1024, "sft": 2048}
_FORMS = {"embedding": "swift-embedding", "reranker": "swift-reranker", "sft": "swift-chat"}
_ENCODER_FORMS = {**_FORMS, "reranker": "swift-encoder-reranker"}
# What the template qwen3 puts in front of every answer that has no thought: it counts against max_length.
_EMPTY_THOUGHT = "<think>\n\n</think>\n\n"
_SMOKE_LENGTHS = {"embedding": 256, "reranker": 512, "sft": 512}
_DTYPES = {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32"}


def _list_loss_variables(loss: Loss | None, *, generative: bool) -> tuple[Note, ...]:
    """Return every environment variable that decides the loss; none is left to ms-swift's own default."""
    notes = [Note("train", *answer, "default", _SHOWN) for answer in (ANSWERS if generative else {}).items()]
    for name, setting in loss.facts.settings.items() if loss else ():
        given = getattr(loss, name)
        value = setting.default if given is None else given
        if setting.variable and value is not None:
            text = str(value).lower() if isinstance(value, bool) else str(value)
            origin, why = ("default", _SHOWN) if given is None else ("recipe", f"loss.{name}")
            notes.append(Note("train", setting.variable, text, origin, why))
    return tuple(notes)


def _prepare_loss(loss: Loss | None) -> dict[str, Any]:
    """Return what the prepare stage needs to refuse rows that the loss would take wrongly."""
    if loss is None:
        return {}
    flags: dict[str, Any] = {"loss": loss.type}
    if loss.use_batch is False:
        flags["no-in-batch-negatives"] = True
    if loss.hard_negatives:
        flags["hard-negatives"] = loss.hard_negatives
    for name in ("max_positives", "max_negatives"):
        if setting := loss.facts.settings.get(name):
            flags[name.replace("_", "-")] = getattr(loss, name) or setting.default
    return flags


def _build_scoring(
    job: Job, named: SwiftModel, values: Mapping[str, Any], loss: Loss | None, task_type: str
) -> dict[str, Any]:
    """Return the scoring spec of the trained format, without what the plan adds (name, label, dtype, batch size)."""
    tool = {
        "tool": "swift",
        "model_type": named.model_type,
        "template": named.template,
        "task_type": task_type,
        "max_length": int(values["max_length"]),
    }
    instruction = job.recipe.data.instruction
    if job.recipe.task == "embedding":
        sizes = sorted(loss.mrl_dims, reverse=True) if loss and loss.mrl_dims else None
        return {
            "scorer": "embedding",
            **tool,
            # Qwen3-Embedding's form, inline, and without a blank behind the colon
            "query_prompt": f"Instruct: {instruction}\nQuery:" if instruction else "",
            "document_prompt": "",
            "pooling": "cls" if job.model.family == "encoder" else "lasttoken",
            "normalize": True,
            "truncate_dim": None,
            "mrl_dims": sizes,
        }
    if job.recipe.task == "reranker":
        if job.model.family == "encoder":
            return {"scorer": "cross-encoder", **tool}
        scorer = "qwen3-native" if task_type == GENERATIVE else "qwen3-score-head"
        return {"scorer": scorer, **tool, "instruction": instruction}
    evaluate = job.recipe.evaluate
    return {
        "scorer": "chat",
        **tool,
        "system": values.get("system"),
        "template_args": {name: values[name] for name in _WORDS["template_arguments"] if name in values},
        "max_new_tokens": 16 if job.smoke else evaluate.max_new_tokens,
        "generate": evaluate.generate,
    }


def _smoke_scale(job: Job) -> SmokeScale:
    full, encodes = is_full(job.backend.translate(job).arguments), job.model.family == "encoder"
    loss = job.recipe.loss
    # a tiny encoder has no head, and the adapter keeps of a new one what it is told to
    head = {"modules_to_save": ["head", "classifier"]} if encodes and job.recipe.task == "reranker" else {}
    return SmokeScale(
        train={
            "num_train_epochs": 2, "per_device_train_batch_size": 2, "per_device_eval_batch_size": 2,
            "gradient_accumulation_steps": 1, "max_length": _SMOKE_LENGTHS[job.recipe.task],
            "learning_rate": 1e-3 if full else 1e-2, "logging_steps": 1, "save_strategy": "epoch",
            "eval_strategy": "epoch" if job.recipe.data.validation_ratio else "no",
            "dataloader_num_workers": 0, "bf16": False, "fp16": False, **({} if full else head),
        },
        leave_out=SHARING_ARGUMENTS.union(_WORDS["smoke_leaves_out"]),
        recipe={"loss": loss.model_copy(update=shrink_sizes(loss, "mrl_dims"))} if loss else {},
        like=("encoder", "modernbert") if encodes else None,
    )  # fmt: skip


def _build_training(job: Job, *, model: str, data: str, output: str) -> Training:
    named, translation = find_swift_model(job.model, job.recipe.task, job.versions), job.backend.translate(job)
    if isinstance(named, Problem):  # check_job has said it already, where a recipe was checked
        raise RecipeError.from_problems([named])
    loss = job.loss if job.recipe.task != "sft" else None
    task_type = find_task_type(job.model, job.recipe.task, translation.arguments)
    arguments = _list_arguments(job, ArgumentList(translation), named, model=model, data=data, output=output)
    values = arguments.values()
    env = {"HF_DATASETS_CACHE": output.removesuffix("/output") + "/cache"}
    if job.hardware.kind == "cpu" and job.world_size() > 1:
        env["ACCELERATE_USE_CPU"] = "true"  # or each process trains alone and writes the same files
    variables = _list_loss_variables(loss, generative=task_type == GENERATIVE)
    env |= {note.argument: note.value for note in variables}
    rows = count_step_rows(job, values)
    # ms-swift trains on other rows than it reads: parts of long ones, or several packed into one
    others = values["truncation_strategy"] == "split" or any(values.get(name) for name in ("packing", "streaming"))
    return finish_training(
        job,
        arguments,
        template="swift/train.j2",
        template_values={"deepspeed": _deepspeed(job) is not None, "arguments": arguments.items()},
        env=deterministic_environment(job, values["seed"]) | job.environment() | env | translation.env,
        files=(File("files/ds_config.json", job.deepspeed_text),) if job.deepspeed_text else (),
        notes_after=variables,
        prepare=_prepare_flags(job, values) | _prepare_loss(loss),
        scoring=_build_scoring(job, named, values, loss, task_type),
        weights=f"{output}/{name_checkpoint(job, last='last-checkpoint')}",
        resume=Resume("--resume_from_checkpoint", output),
        full_batch_rows=rows if values.get("dataloader_drop_last") else 1,
        counts_rows=not others,
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


def _list_arguments(
    job: Job, found: ArgumentList, named: SwiftModel, *, model: str, data: str, output: str
) -> ArgumentList:
    """Return the train command's arguments in reading order: model, task, data, tuner, steps, saving, hardware."""
    recipe, known, full = job.recipe, load_arguments("swift"), is_full(found.given)
    found.put("model", model, "recipe", "model")
    found.put("model_type", named.model_type, "orch", f"by {named.why}: left out, a folder's name would decide")
    found.put("template", named.template, "orch", f"the prompt of {named.model_type}")
    if job.model.comes_by_its_id and not job.smoke:
        found.put("use_hf", True, "orch", "from Hugging Face, where the base model is measured from; not ModelScope")
    task_type = find_task_type(job.model, recipe.task, found.given)
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
    put_saving(found, job, eval_batch=1)
    put_limit(found, job)
    if wants_best(job):  # without a best one, ms-swift fails on linking to nothing, once it has trained
        found.put("create_checkpoint_symlink", True, "orch", "`best` names the best checkpoint")
    found.put("add_version", False, "orch", "the output folder is the run's own, also when it is resumed")
    found.put("check_model", False, "orch", "no question to a hub about files on this disk")
    put_trackers(found, job)
    put_timeout(found, job, "a lost process is noticed after half an hour, not after 208 days")
    _put_hardware(found, job, full=full)
    put_determinism(found, job)
    return found


def _put_hardware(found: ArgumentList, job: Job, *, full: bool) -> None:
    """Add dtype and mixed precision, all three: ms-swift turns fp16 on for weights in float32; and what is shared."""
    given, precision = found.given, job.hardware.precision
    half = next((name for name in ("bf16", "fp16") if given.get(name)), precision if precision != "fp32" else None)
    if {"bf16", "fp16"} & given.keys() and not (given.get("bf16") or given.get("fp16")):
        half = None
    why = "full training: in half precision small steps would be rounded away" if full and half else f"{job.hardware}"
    found.put("torch_dtype", "float32" if full or half is None else _DTYPES[half], "hardware", why)
    found.put("bf16", half == "bf16", "hardware", f"{job.hardware}")
    found.put("fp16", half == "fp16", "hardware", f"{job.hardware}")
    if job.hardware.kind == "cpu" and job.world_size() > 1:
        found.put("ddp_backend", "gloo", "hardware", "several processes on a CPU")
    if deepspeed := _deepspeed(job):
        found.put("deepspeed", deepspeed, "recipe", "deepspeed")
    if job.recipe.launch.shared_by == "fsdp" and not job.smoke:
        found.put("fsdp", build_swift_fsdp(), "recipe", "launch.distributed; whole weights in every checkpoint")
        found.put("gradient_checkpointing", False, "orch", "FSDP2 has activation_checkpointing for it")


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


_IMPORTS = (  # it patches libraries: what does not import it is never a fork of what has
    "swift.pipelines.train.sft", "swift.pipelines.export.export", "swift.callbacks", "swift.trainers",
    "swift.trainers.embedding_trainer", "swift.trainers.reranker_trainer", "swift.trainers.seq2seq_trainer",
    "swift.loss_scale", "swift.optimizers", "modelscope.hub.check_model", *WORKER_IMPORTS[1:],
)  # fmt: skip

BACKEND = Backend(
    name="swift",
    title="ms-swift",
    trainers="ms-swift's trainers",
    distributions=("ms-swift", "torch", "transformers", "peft", "sentence-transformers"),
    tasks=("embedding", "reranker", "sft"),
    deepspeed_names=("zero0", "zero1", "zero2", "zero3", "zero2_offload", "zero3_offload"),
    family="decoder",  # it trains LLMs only, and says itself which it knows
    embeds_by="ms-swift reads an LLM's last token, an encoder's first, and makes vectors of length 1; a query's task "
    "is data.instruction",
    length_counts_prompt=True,
    imports={"": WORKER_IMPORTS, "swift.cli.sft": _IMPORTS, "swift.cli.export": _IMPORTS},
    lora={"tuner_type": "lora"},
    # replaced by the names of a kind of layers (get_target_modules in swift/pipelines/train/tuner.py); PEFT knows
    # all-linear in the place of a list, and not in the list that FlagEmbedding hands it
    layer_kinds=frozenset({"all-linear", "all-embedding", "all-router", "all-norm"}),
    loads="torch_dtype",
    checkpointing=True,
    spreads_layers=True,
    own_loader=True,
    starts_fsdp=True,
    own_variables=tuple(ANSWERS),
    remedies=Remedies(
        cures={
            "flash-attention-missing": ("train.attn_impl=sdpa",),
            "no-target-modules": ("train.target_modules=all-linear",),
        },
    ),
    snapshots=("swift",),
    command_snapshots=("swift_export",),
    aliases="swift",
    reserved=_WORDS["reserved"],
    at_least=dict.fromkeys(_WORDS["at_least_one"], 1),
    trains_lora=lambda job: not is_full(job.backend.translate(job).arguments),
    evaluates=True,
    data_workers=1,
    data_form=lambda job: (_ENCODER_FORMS if job.model.family == "encoder" else _FORMS)[job.recipe.task],
    check_job=check_job,
    smoke_scale=_smoke_scale,
    build_training=_build_training,
    merge=_merge,
)
