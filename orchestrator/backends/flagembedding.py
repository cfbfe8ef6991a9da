"""FlagEmbedding's reranker trainers, decoder-only (LLM) and encoder-only (BERT-like), as rendered commands."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

from orchestrator.backends.argument_list import ArgumentList, RenderedArgument, build_notes
from orchestrator.backends.arguments import Argument, build_schema, check_arguments, coerce_all, load_arguments
from orchestrator.backends.protocol import Found, Job, SmokeScale, Training
from orchestrator.backends.spellings import OLD_SPELLINGS, Translation, translate
from orchestrator.errors import Problem
from orchestrator.plan import File, Resume
from orchestrator.render import render_command

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from orchestrator.plan import Command

# Arguments that Orch sets from elsewhere in the recipe: giving them twice would let one of the two lose in silence.
_OWNED = {
    "model_name_or_path": "say it as `model:`",
    "train_data": "say it as `data.train:`",
    "output_dir": "the run folder decides it",
    "deepspeed": "say it as `deepspeed:` at the top level",
    "resume_from_checkpoint": "use: orch resume RUN",
    "trust_remote_code": "say it as `model: {path: …, trust_remote_code: true}`",
    "token": "set HF_TOKEN in your environment: secrets do not belong in a recipe",
    "hub_token": "set HF_TOKEN in your environment: secrets do not belong in a recipe",
}
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
_MODULES = {
    "decoder": "FlagEmbedding.finetune.reranker.decoder_only.base",
    "encoder": "FlagEmbedding.finetune.reranker.encoder_only.base",
}
_POSITIVE = (
    "query_max_len",
    "passage_max_len",
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
    "lora_rank",
)
_SMOKE_LEAVES_OUT = frozenset({
    "max_steps", "save_steps", "warmup_steps", "use_flash_attn", "torch_compile", "use_liger_kernel", "tf32",
    "per_gpu_train_batch_size",
})  # fmt: skip
_PROMPT_TOKENS = 64  # room that a decoder needs for FlagEmbedding's own prompt, which both lengths together must hold


class FlagEmbedding:
    """The backend `flagembedding`."""

    name = "flagembedding"
    extra = "flagembedding"
    distributions = ("FlagEmbedding", "torch", "transformers", "peft", "sentence-transformers")
    tasks = ("reranker",)
    deepspeed_names = ()

    def data_form(self, job: Job) -> str:  # noqa: ARG002
        """Return which writer of orchestrator.data makes its train file."""
        return "flagembedding"

    def argument_names(self) -> frozenset[str]:
        """Return every name that `train:` may hold for one of the two trainers, old spellings included."""
        names = (
            load_arguments("flagembedding.decoder_only").keys() | load_arguments("flagembedding.encoder_only").keys()
        )
        return frozenset(names | OLD_SPELLINGS.keys())

    def json_schema(self) -> dict[str, dict[str, Any]]:
        """Return the JSON Schema of each name under `train:`."""
        return build_schema(_all_arguments(), _OWNED)

    def check_train(self, train: Mapping[str, Any]) -> list[tuple[str, Problem]]:
        """Return what is wrong with single values: unknown names, Orch's own names, wrong types and choices."""
        problems = check_arguments(train, _all_arguments(), _OWNED, whose="FlagEmbedding's trainers")
        for name, value in _typed(train).items():
            if name in _POSITIVE and value < 1:
                problems.append((name, Problem(f"{name} is {value}; it must be at least 1")))
            elif name == "train_group_size" and value < 2:  # noqa: PLR2004
                problem = Problem(f"a group of {value} has nothing to rank: the loss is always 0", "8 is usual")
                problems.append((name, problem))
        return problems

    def check_job(self, job: Job) -> list[Found]:
        """Return what does not fit together, each with the path of the key to change."""
        train = _typed(job.recipe.train)
        translated = translate(train, job.versions.get("transformers")).problems
        return [
            *((("train", name), problem) for name, problem in translated),
            *_check_absent(job),
            *_check_family(job, train),
            *_check_merge(job, train),
            *_check_evaluation(train),
            *_check_precision(job, train),
            *_check_lengths(job),
            *_check_deepspeed(job),
        ]

    def smoke_scale(self, job: Job) -> SmokeScale:
        """Return a job of two epochs of 8 short steps, with a learning rate that visibly moves a random model.

        Its checkpoints stand at the ends of epochs: from there a resumed training repeats an undisturbed one exactly.
        """
        train = _typed(job.recipe.train)
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

    def build_training(self, job: Job, *, model: str, data: str, output: str) -> Training:
        """Return the train stage for the base model at `model` on the prepared folder `data`; all paths absolute."""
        train_file = f"{data}/train.jsonl"
        translation = translate(_typed(job.recipe.train), job.versions.get("transformers"))
        arguments = _arguments(job, translation, model=model, train_file=train_file, output=output)
        values = {argument.name: argument.value for argument in arguments}
        processes = job.processes()
        command = render_command(
            "flagembedding/train.j2",
            env=_environment(job) | translation.env,
            cwd=str(job.run_dir),
            python=job.backend_python,
            nproc_per_node=processes,
            module=_MODULES[job.model.family],
            arguments=arguments,
        )
        lora = _uses_lora(job)
        files = (File(_deepspeed_file(job), job.deepspeed_text),) if job.deepspeed_text else ()
        query_max_len, passage_max_len = _lengths(job)
        return Training(
            command=command,
            files=files,
            notes=build_notes(arguments, translation),
            outputs=(f"{output}/adapter_model.safetensors" if lora else f"{output}/config.json",),
            lora=lora,
            prepare=_prepare_flags(values, query_max_len, passage_max_len),
            weights=output,
            scoring=_scoring(job, values, query_max_len, passage_max_len),
            # Without DeepSpeed its checkpoints cannot be resumed: the decoder's holds no base model, the encoder's
            # loader asks for `_keys_to_ignore_on_save` (FlagEmbedding issue 1144).
            resume=Resume("--resume_from_checkpoint", output) if job.deepspeed_text else None,
            full_batch_rows=int(values["per_device_train_batch_size"]) * processes,
        )

    def build_merge(self, job: Job, *, base: str, adapter: str, output: str) -> Command:
        """Return Orch's own merge: FlagEmbedding merges only in memory, at the end of a training (decisions/0003)."""
        return render_command(
            "orch/merge.j2",
            env=job.environment(),
            cwd=str(job.run_dir),
            python=job.backend_python,
            workers=job.workers,
            base=base,
            adapter=adapter,
            out=output,
            trust_remote_code=job.model.trust_remote_code,
        )


def _all_arguments() -> dict[str, Argument]:
    old = {name: Argument(name, kind, None, None) for name, kind in OLD_SPELLINGS.items()}
    return old | load_arguments("flagembedding.encoder_only") | load_arguments("flagembedding.decoder_only")


def _typed(train: Mapping[str, Any]) -> dict[str, Any]:
    return coerce_all(train, _all_arguments())


def _uses_lora(job: Job) -> bool:
    return job.model.family == "decoder" and bool(_typed(job.recipe.train).get("use_lora", True))


def _lengths(job: Job) -> tuple[int, int]:
    train, known = _typed(job.recipe.train), load_arguments("flagembedding.decoder_only")
    return tuple(int(train.get(name, known[name].default)) for name in ("query_max_len", "passage_max_len"))  # type: ignore[return-value]


def _deepspeed_file(job: Job) -> str:
    return f"files/ds_{job.recipe.deepspeed if job.recipe.deepspeed == 'stage0' else 'config'}.json"


def _check_absent(job: Job) -> Iterator[Found]:
    recipe = job.recipe
    for key, given, hint in (
        (("loss",), recipe.loss is not None, "remove it: these trainers take the softmax over each group"),
        (("checkpoint",), recipe.checkpoint is not None, "remove it: the last weights are the model"),
        (("data", "validation_ratio"), recipe.data.validation_ratio is not None, "remove it: Orch measures after"),
        (("data", "instruction"), recipe.data.instruction is not None, "say it as train.query_instruction_for_rerank"),
    ):
        if given:
            yield key, Problem(f"FlagEmbedding's trainers have no {key[-1]}", hint)


def _check_family(job: Job, train: Mapping[str, Any]) -> Iterator[Found]:
    family = job.model.family
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


def _check_merge(job: Job, train: Mapping[str, Any]) -> Iterator[Found]:
    if _uses_lora(job):
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


def _check_precision(job: Job, train: Mapping[str, Any]) -> Iterator[Found]:
    for name in ("bf16", "fp16", "use_flash_attn"):
        if train.get(name) and job.hardware.kind == "cpu" and not job.smoke:
            message = f"{name} needs a GPU, and there is none"
            yield ("train", name), Problem(message, "remove it: Orch chooses by hardware")
    if train.get("bf16") and train.get("fp16"):
        yield ("train", "fp16"), Problem("bf16 and fp16 exclude each other", "keep one")


def _check_lengths(job: Job) -> Iterator[Found]:
    total = sum(_lengths(job))
    if job.model.family == "decoder" and total < _PROMPT_TOKENS:
        message = f"query_max_len + passage_max_len = {total} leaves no room beside FlagEmbedding's prompt"
        yield ("train", "passage_max_len"), Problem(message, f"give at least {_PROMPT_TOKENS} together; 1024 is usual")


def _check_deepspeed(job: Job) -> list[Found]:
    if not job.deepspeed_text:
        return []
    try:
        config = json.loads(job.deepspeed_text)
        stage = config.get("zero_optimization", {}).get("stage", 0)
    except (ValueError, AttributeError) as error:
        return [(("deepspeed",), Problem(f"not a DeepSpeed configuration: {error}", "name stage0, or a JSON file"))]
    if stage == 3:  # noqa: PLR2004
        message = "FlagEmbedding saves empty weights under ZeRO-3: its save path is commented out"
        return [(("deepspeed",), Problem(message, "use stage0, or ZeRO stage 1 or 2"))]
    return []


def _environment(job: Job) -> dict[str, str]:
    env = {}
    if job.hardware.kind == "cpu" and job.deepspeed_text:
        # On a CPU DeepSpeed compiles its communication once (deepspeed/comm/torch.py: build_shm_op). In the default
        # folder a killed build of any tool leaves a lock on which every later run hangs; in this one Orch clears it.
        env = {"DS_ACCELERATOR": "cpu", "TORCH_EXTENSIONS_DIR": f"{job.cache_dir}/torch_extensions/{_build_id(job)}"}
    return env | job.environment()


def _build_id(job: Job) -> str:
    """Return what a compiled extension depends on: torch, DeepSpeed and the interpreter whose headers it includes."""
    parts = (job.versions.get("torch", ""), job.versions.get("deepspeed", ""), job.backend_python)
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:12]


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
    if _uses_lora(job):
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
    return found.items()


def _prepare_flags(values: Mapping[str, Any], query_max_len: int, passage_max_len: int) -> dict[str, Any]:
    """Return what the prepare stage needs to count the tokens that the trainer will cut."""
    flags: dict[str, Any] = {"query-max-len": query_max_len, "passage-max-len": passage_max_len}
    for name in ("query", "passage"):
        if instruction := values.get(f"{name}_instruction_for_rerank"):
            flags[f"{name}-instruction"] = instruction
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
