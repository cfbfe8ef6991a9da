"""FlagEmbedding's reranker trainers, decoder-only (LLM) and encoder-only (BERT-like), as rendered commands."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from orchestrator.backends.argument_list import ArgumentList, RenderedArgument, build_notes
from orchestrator.backends.argument_paths import check_paths, resolve_paths
from orchestrator.backends.arguments import load_arguments
from orchestrator.backends.batch_splitting import check_splitting
from orchestrator.backends.deepspeed import deepspeed_environment
from orchestrator.backends.determinism import deterministic_environment, explain_determinism, put_determinism
from orchestrator.backends.flagembedding_arguments import (
    OTHER_TRAINERS,
    RESERVED,
    all_arguments,
    check_values,
    find_lengths,
    type_all,
    uses_lora,
)
from orchestrator.backends.flagembedding_checks import check_flagembedding_job
from orchestrator.backends.parallelism import SHARING_ARGUMENTS, check_parallelism, count_step_rows
from orchestrator.backends.protocol import Backend, Found, Job, SmokeScale, Training
from orchestrator.backends.render import render_command
from orchestrator.backends.spellings import Translation, translate
from orchestrator.backends.version_checks import check_versions
from orchestrator.logs.patches import Remedies
from orchestrator.recipe.losses import log_of
from orchestrator.recipe.plan import File, Note, Resume

_MODULES = {
    "decoder": "FlagEmbedding.finetune.reranker.decoder_only.base",
    "encoder": "FlagEmbedding.finetune.reranker.encoder_only.base",
}
_SMOKE_LEAVES_OUT = frozenset({
    "max_steps", "save_steps", "warmup_steps", "use_flash_attn", "torch_compile", "use_liger_kernel", "tf32",
    "per_gpu_train_batch_size",
}) | SHARING_ARGUMENTS  # fmt: skip


def _check_job(job: Job) -> list[Found]:
    """Return what does not fit together, each with the path of the key to change."""
    train, translation = type_all(job.recipe.train), _translate(job)
    problems: list[Found] = [(("train", name), problem) for name, problem in translation.problems]
    problems += check_versions(job, f"flagembedding.{job.model.family}_only", translation.arguments)
    problems += check_paths(job, translation.arguments, all_arguments())
    return [
        *problems,
        *check_flagembedding_job(job, train),
        *check_splitting(job, train),
        *check_parallelism(job, train),
    ]


def _smoke_scale(job: Job) -> SmokeScale:
    """Return a job of two epochs of 8 short steps, with a learning rate that visibly moves a random model.

    Its checkpoints stand at the ends of epochs: from there a resumed training repeats an undisturbed one exactly.
    """
    train = type_all(job.recipe.train)
    group = min(int(train.get("train_group_size", 8)), 4)
    return SmokeScale(
        train={
            "num_train_epochs": 2, "per_device_train_batch_size": 2, "gradient_accumulation_steps": 1,
            "train_group_size": group, "query_max_len": 128, "passage_max_len": 256, "learning_rate": 0.01,
            "logging_steps": 1, "save_strategy": "epoch", "dataloader_num_workers": 0,
            "bf16": False, "fp16": False,
        },
        leave_out=_SMOKE_LEAVES_OUT,
    )  # fmt: skip


def _build_training(job: Job, *, model: str, data: str, output: str) -> Training:
    """Return the train stage for the base model at `model` on the prepared folder `data`; all paths absolute."""
    train_file = f"{data}/train.jsonl"
    translation = _translate(job)
    arguments = _arguments(job, translation, model=model, train_file=train_file, output=output)
    values = {argument.name: argument.value for argument in arguments}
    processes = job.processes()
    env = deepspeed_environment(job) | deterministic_environment(job, values["seed"])
    env |= job.environment() | translation.env
    command = render_command(
        "flagembedding/train.j2",
        env=env,
        cwd=str(job.run_dir),
        python=job.backend_python,
        workers=job.workers,
        nproc_per_node=processes,
        module=_MODULES[job.model.family],
        arguments=arguments,
    )
    lora = uses_lora(job)
    files = (File(_deepspeed_file(job), job.deepspeed_text),) if job.deepspeed_text else ()
    query_max_len, passage_max_len = find_lengths(job)
    return Training(
        command=command,
        files=files,
        notes=build_notes(arguments, translation)
        + _explain_scores(values)
        + _explain_resume(job)
        + explain_determinism(job, env),
        outputs=(f"{output}/adapter_model.safetensors" if lora else f"{output}/config.json",),
        lora=lora,
        prepare=_prepare_flags(values, query_max_len, passage_max_len),
        weights=output,
        scoring=_scoring(job, values, query_max_len, passage_max_len),
        # Without DeepSpeed its checkpoints cannot be resumed: the decoder's holds no base model, the encoder's
        # loader asks for `_keys_to_ignore_on_save` (FlagEmbedding issue 1144).
        resume=Resume("--resume_from_checkpoint", output) if job.deepspeed_text else None,
        full_batch_rows=count_step_rows(job, values),
        batch=int(values["per_device_train_batch_size"]),
        accumulation=int(values["gradient_accumulation_steps"]),
        flat_loss=None if values.get("knowledge_distillation") else log_of(int(values["train_group_size"])),
    )


def _translate(job: Job) -> Translation:
    translation = translate(type_all(job.recipe.train), job.versions.get("transformers"))
    return resolve_paths(job, translation, all_arguments())


def _deepspeed_file(job: Job) -> str:
    return f"files/ds_{job.recipe.deepspeed if job.recipe.deepspeed == 'stage0' else 'config'}.json"


def _arguments(
    job: Job, translation: Translation, *, model: str, train_file: str, output: str
) -> list[RenderedArgument]:
    """Return the train command's arguments in reading order: model, data, LoRA, training, saving, hardware."""
    found, given = ArgumentList(translation), translation.arguments
    known = load_arguments(f"flagembedding.{job.model.family}_only")
    found.put("model_name_or_path", model, "recipe", "model")
    found.put("model_type", job.model.family, "orch", "left out, the decoder trainer would train without its prompt")
    if job.model.trust_remote_code:
        found.put("trust_remote_code", True, "recipe", "model.trust_remote_code")
    found.put("train_data", [train_file], "recipe", "data.train, prepared")
    cache = output.removesuffix("/output") + "/cache"
    found.put("cache_path", cache, "orch", "keeps the data cache inside the run folder")
    why = "FlagEmbedding's default, shown because it cuts or groups your data"
    found.put_defaults(known, ("train_group_size", "query_max_len", "passage_max_len"), why)
    if job.model.family == "decoder":
        why = "FlagLLMReranker puts it in front at inference by default; training would not"
        found.put("query_instruction_for_rerank", "A: ", "orch", why)
        found.put("passage_instruction_for_rerank", "B: ", "orch", why)
    if uses_lora(job):
        lora = ("lora_rank", "lora_alpha", "lora_dropout", "target_modules")
        found.put_defaults(known, lora, "FlagEmbedding's default")
    found.put("output_dir", output, "orch", "a fresh folder of the run")
    batch = ("per_device_train_batch_size", "gradient_accumulation_steps")
    found.put_defaults(known, ("learning_rate", "num_train_epochs", *batch, "seed"), "transformers' default")
    found.put_rest()
    found.put("dataloader_drop_last", True, "orch", "an incomplete last batch mixes groups or crashes")
    found.put("logging_steps", 10, "orch", "transformers' default of 500 leaves most runs without a loss curve")
    if not {"save_strategy", "save_steps"} & given.keys():
        found.put("save_strategy", "epoch", "orch", "a run that is interrupted continues from the last epoch")
    found.put("save_total_limit", 2, "orch", "checkpoints fill disks")
    found.put("report_to", "none", "orch", "no experiment tracker unless the recipe names one")
    found.put("ddp_timeout", 1800, "orch", "a lost process is noticed after half an hour")
    precision = job.hardware.precision
    if precision in {"bf16", "fp16"} and not {"bf16", "fp16"} & given.keys():
        found.put(precision, True, "hardware", f"{job.hardware}")
    if job.hardware.kind == "cpu":
        found.put("use_cpu", True, "hardware", "no GPU is used: several processes would not synchronise without it")
    if job.deepspeed_text:
        found.put("deepspeed", str(job.run_dir / _deepspeed_file(job)), "recipe", "deepspeed")
    put_determinism(found, job)
    return found.items()


def _explain_scores(values: Mapping[str, Any]) -> tuple[Note, ...]:
    """Return what the trainer makes of a teacher's scores (AbsRerankerModel.forward of FlagEmbedding 1.4.2)."""
    if not values.get("knowledge_distillation"):
        return ()
    why = "the loss is the positive's, plus the distance to the softmax of these: give logits, not probabilities"
    return (Note("train", "pos_scores, neg_scores", "softmax over each group", "default", why),)


def _explain_resume(job: Job) -> tuple[Note, ...]:
    """Return that an interrupted training starts anew, where it does."""
    if job.deepspeed_text:
        return ()
    why = (
        "FlagEmbedding cannot continue a checkpoint that it wrote without DeepSpeed: after a stop the training starts "
        "anew; deepspeed: zero0 makes it resumable"
    )
    return (Note("train", "resume_from_checkpoint", "never", "default", why),)


def _prepare_flags(values: Mapping[str, Any], query_max_len: int, passage_max_len: int) -> dict[str, Any]:
    """Return what the prepare stage needs to count the tokens that the trainer will cut."""
    flags: dict[str, Any] = {"query-max-len": query_max_len, "passage-max-len": passage_max_len}
    for name in ("query", "passage"):
        if instruction := values.get(f"{name}_instruction_for_rerank"):
            flags[f"{name}-instruction"] = instruction
    if values.get("knowledge_distillation"):
        flags["needs-scores"] = True
    return flags


def _scoring(job: Job, values: Mapping[str, Any], query_max_len: int, passage_max_len: int) -> dict[str, Any]:
    """Return how a model trained so must be scored: same instructions, prompt and lengths.

    Lengths are those of AbsReranker*TrainDataset in FlagEmbedding 1.4.2: a query may borrow a quarter of the
    passage's budget.
    """
    limits = {"query_max_length": query_max_len + passage_max_len // 4, "max_length": query_max_len + passage_max_len}
    instructions = {
        "query_instruction": values.get("query_instruction_for_rerank"),
        "passage_instruction": values.get("passage_instruction_for_rerank"),
        "query_instruction_format": values.get("query_instruction_format", "{}{}"),
        "passage_instruction_format": values.get("passage_instruction_format", "{}{}"),
    }
    if job.model.family == "decoder":
        return {"scorer": "flag-llm-reranker", "prompt": None, "true_token": "Yes", **instructions, **limits}
    return {"scorer": "cross-encoder", "prompt": None, **instructions, **limits}


BACKEND = Backend(
    name="flagembedding",
    title="FlagEmbedding",
    trainers="FlagEmbedding's reranker trainers",
    distributions=("FlagEmbedding", "torch", "transformers", "peft", "sentence-transformers"),
    tasks=("reranker",),
    kind="group",
    needs_negatives=True,
    lengths=("query_max_len", "passage_max_len"),
    lora={"use_lora": True},
    scores_vocabulary=True,
    remedies=Remedies(
        batch=8,
        lengths={"query_max_len": 32, "passage_max_len": 128},
        cures={
            "resume-needs-deepspeed": ("deepspeed=stage0",),
            "flash-attention-missing": ("train.use_flash_attn=false",),
        },
    ),
    known=all_arguments,
    reserved=RESERVED,
    others=OTHER_TRAINERS,
    check_values=check_values,
    trains_lora=uses_lora,
    data_form=lambda _: "flagembedding",
    check_job=_check_job,
    smoke_scale=_smoke_scale,
    build_training=_build_training,
)
