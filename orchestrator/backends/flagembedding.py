"""FlagEmbedding's trainers as rendered commands: what all share, and those of rerankers (LLMs, BERT-like models)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import msgspec

from orchestrator.backends import trainer
from orchestrator.backends.arguments import load_arguments, load_words
from orchestrator.backends.protocol import WORKER_IMPORTS, Backend, Found, Job, SmokeScale, Training
from orchestrator.backends.sharing import SHARING_ARGUMENTS, count_step_rows, deepspeed_environment, load_deepspeed
from orchestrator.backends.trainer_checks import COMMON, Condition, check_deepspeed, check_trainer
from orchestrator.errors import Problem
from orchestrator.logs.patches import Remedies
from orchestrator.recipe.losses import log_of
from orchestrator.recipe.plan import File, Note, Resume

_MODULES = {
    "decoder": "FlagEmbedding.finetune.reranker.decoder_only.base",
    "encoder": "FlagEmbedding.finetune.reranker.encoder_only.base",
}
# What workers/train_flagembedding.py does with less waste, and why it stands in the command.
_SPEEDUPS = {"decoder": ("last_logits", "trim_padding"), "encoder": ("trim_padding",)}
_WHY_SPEEDUPS = {
    "last_logits": "the logits of the last position alone, for no other is read",
    "trim_padding": "rows of like length pass together, padded to their own longest",
}
_WORDS = load_words("flagembedding")
_TRAINERS = "FlagEmbedding's reranker trainers"
LENGTHS = ("query_max_len", "passage_max_len")
# What only the trainers of LLMs have.
DECODER_ONLY = (
    "lora_rank", "lora_alpha", "lora_dropout", "target_modules", "modules_to_save", "from_peft", "raw_peft",
    "use_lora", "save_merged_lora_model", "use_flash_attn",
)  # fmt: skip
# ... and how a LoRA of an encoder is trained all the same; of an argument that is none of LoRA's, nothing
LORA_OF_ENCODERS = dict.fromkeys(
    DECODER_ONLY[:8], "say backend: sentence-transformers, whose lora_rank adapts encoders too, or remove it"
)
_DECODERS = re.compile(r"ForCausalLM$")
_ENCODERS = re.compile(r"Bert|XLMRoberta|Electra|Deberta")
_PROMPT_TOKENS = 64  # room that a decoder needs for FlagEmbedding's own prompt, which both lengths together must hold
SMOKE_LEAVES_OUT = frozenset({
    "max_steps", "save_steps", "warmup_steps", "use_flash_attn", "torch_compile", "use_liger_kernel", "tf32",
    "per_gpu_train_batch_size",
}) | SHARING_ARGUMENTS  # fmt: skip
_NO_LENGTHS = ("the rows of FlagEmbedding have no length that the sampler finds, and it ends the training", "remove it")
CONDITIONS = (
    *(
        msgspec.structs.replace(row, when="is_on_with_deepspeed") if row.argument == "save_only_model" else row
        for row in COMMON
    ),
    Condition("group_by_length", "is_on", *_NO_LENGTHS),
    Condition("train_sampling_strategy", "is_not_among", *_NO_LENGTHS, among=("random", "sequential")),
)


OwnArgument = tuple[str, Any, str, str]  # an argument, its value, where it comes from, and why


def _check_values(train: Mapping[str, Any]) -> Iterator[tuple[str, Problem]]:
    if train.get("train_group_size", 2) < 2:  # noqa: PLR2004
        message = f"a group of {train['train_group_size']} has nothing to rank: the loss is always 0"
        yield "train_group_size", Problem(message, "8 is usual")


def trains_lora(job: Job) -> bool:
    """Tell whether the trainer writes an adapter: an LLM's, unless the recipe says otherwise."""
    return job.model.family == "decoder" and bool(job.backend.type_all(job.recipe.train).get("use_lora", True))


def find_lengths(job: Job) -> tuple[int, int]:
    """Return the longest query and the longest passage, in tokens."""
    train, known = job.backend.type_all(job.recipe.train), load_arguments(job.backend.snapshots[0])
    query, passage = (int(train.get(name, known[name].default)) for name in LENGTHS)
    return query, passage


def shrink_train(job: Job, **more: Any) -> dict[str, Any]:
    """Return what `--smoke` sets under `train:`."""
    group = min(int(job.backend.type_all(job.recipe.train).get("train_group_size", 8)), 4)
    return {
        "num_train_epochs": 2, "per_device_train_batch_size": 2, "gradient_accumulation_steps": 1,
        "train_group_size": group, "query_max_len": 128, "passage_max_len": 256, "learning_rate": 0.01,
        "logging_steps": 1, "save_strategy": "epoch", "dataloader_num_workers": 0,
        "bf16": False, "fp16": False,
    } | more  # fmt: skip


def _smoke_scale(job: Job) -> SmokeScale:
    """Return a job of two epochs of 8 short steps, with a learning rate that visibly moves a random model.

    Its checkpoints stand at the ends of epochs: from there a resumed training repeats an undisturbed one exactly.
    """
    return SmokeScale(train=shrink_train(job), leave_out=SMOKE_LEAVES_OUT)


def _build_training(job: Job, *, model: str, data: str, output: str) -> Training:
    found = trainer.ArgumentList(job.backend.translate(job))
    own: list[OwnArgument] = []
    if job.model.family == "decoder":
        why = "FlagLLMReranker puts it in front at inference by default; training would not"
        marks = {"query": "A: ", "passage": "B: "}
        own = [(f"{side}_instruction_for_rerank", mark, "orch", why) for side, mark in marks.items()]
    put_arguments(job, found, own, model=model, train_files=[f"{data}/train.jsonl"], output=output)
    values = found.values()
    distils = values.get("knowledge_distillation")
    return build_training(
        job,
        found,
        _MODULES[job.model.family],
        output=output,
        notes=_explain_scores(values),
        prepare=_prepare_flags(job, values),
        scoring=_build_scoring(job, values),
        flat_loss=None if distils else log_of(int(values["train_group_size"])),
    )


def build_training(
    job: Job,
    found: trainer.ArgumentList,
    module: str,
    *,
    output: str,
    notes: tuple[Note, ...] = (),
    resumes: bool = True,
    **rest: Any,
) -> Training:
    """Return the train stage that runs `module` with these arguments; `rest` are fields of Training.

    Without DeepSpeed its checkpoints cannot be resumed: the decoder's holds no base model, the encoder's loader asks
    for `_keys_to_ignore_on_save` (FlagEmbedding issue 1144).
    """
    translation, values = job.backend.translate(job), found.values()
    env = deepspeed_environment(job) | trainer.deterministic_environment(job, values["seed"])
    return trainer.finish_training(
        job,
        found,
        template="flagembedding/train.j2",
        template_values={"module": module, "arguments": found.items(), "speedups": list(job.speedups)},
        env=env | job.environment() | translation.env,
        files=(File(_deepspeed_file(job), job.deepspeed_text),) if job.deepspeed_text else (),
        notes_after=(*notes, *_explain_worker(job, resumes=resumes)),
        weights=output,
        resume=Resume("--resume_from_checkpoint", output) if job.deepspeed_text and resumes else None,
        full_batch_rows=count_step_rows(job, values),
        **rest,
    )


def _deepspeed_file(job: Job) -> str:
    return f"files/ds_{job.recipe.deepspeed if job.recipe.deepspeed == 'stage0' else 'config'}.json"


def put_arguments(
    job: Job,
    found: trainer.ArgumentList,
    own: Iterable[OwnArgument],
    *,
    model: str,
    train_files: list[str],
    output: str,
) -> None:
    """Add the train command's arguments in reading order: model, data, LoRA, training, saving, hardware.

    `own` are those of one trainer alone: name, value, where it comes from, and why.
    """
    known = load_arguments(job.backend.find_snapshot(job))
    found.put("model_name_or_path", model, "recipe", "model")
    if "model_type" in known:
        why = "left out, the decoder trainer would train without its prompt"
        found.put("model_type", job.model.family, "orch", why)
    if job.model.trust_remote_code:
        found.put("trust_remote_code", True, "recipe", "model.trust_remote_code")
    found.put("train_data", train_files, "recipe", "data.train, prepared")
    cache = output.removesuffix("/output") + "/cache"
    found.put("cache_path", cache, "orch", "keeps the data cache inside the run folder")
    why = "FlagEmbedding's default, shown because it cuts or groups your data"
    found.put_defaults(known, ("train_group_size", *LENGTHS), why)
    for name, value, origin, reason in own:
        found.put(name, value, origin, reason)
    if trains_lora(job):
        lora = ("lora_rank", "lora_alpha", "lora_dropout", "target_modules")
        found.put_defaults(known, lora, "FlagEmbedding's default")
    found.put("output_dir", output, "orch", "a fresh folder of the run")
    batch = ("per_device_train_batch_size", "gradient_accumulation_steps")
    found.put_defaults(known, ("learning_rate", "num_train_epochs", *batch, "seed"), "transformers' default")
    found.put_rest()
    found.put("dataloader_drop_last", True, "orch", "an incomplete last batch mixes groups or crashes")
    found.put("logging_steps", 10, "orch", "transformers' default of 500 leaves most runs without a loss curve")
    if not {"save_strategy", "save_steps"} & found.given.keys():
        found.put("save_strategy", "epoch", "orch", "a run that is interrupted continues from the last epoch")
    found.put("save_total_limit", 2, "orch", "checkpoints fill disks")
    trainer.put_fixed(found, job)
    trainer.put_hardware(found, job)
    if job.deepspeed_text:
        found.put("deepspeed", str(job.run_dir / _deepspeed_file(job)), "recipe", "deepspeed")
    trainer.put_determinism(found, job)


def _explain_scores(values: Mapping[str, Any]) -> tuple[Note, ...]:
    """Return what the trainer makes of a teacher's scores (AbsRerankerModel.forward of FlagEmbedding 1.4.2)."""
    if not values.get("knowledge_distillation"):
        return ()
    why = "the loss is the positive's, plus the distance to the softmax of these: give logits, not probabilities"
    return (Note("train", "pos_scores, neg_scores", "softmax over each group", "default", why),)


def _explain_worker(job: Job, *, resumes: bool) -> Iterator[Note]:
    """Yield what Orch's worker asks of the trainer, and that an interrupted training starts anew, where it does."""
    if job.speedups:
        origin = "orch" if job.recipe.speedups == "auto" else "recipe"
        whys = [*(_WHY_SPEEDUPS[name] for name in job.speedups), "speedups: none renders the trainer's own command"]
        yield Note("train", "speedups", " ".join(job.speedups), origin, "; ".join(whys))
    if resumes and not job.deepspeed_text:
        why = "FlagEmbedding cannot continue a checkpoint that it wrote without DeepSpeed: after a stop the training "
        why += "starts anew; deepspeed: zero0 makes it resumable"
        yield Note("train", "resume_from_checkpoint", "never", "default", why)


def _prepare_flags(job: Job, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the prepare stage needs to count the tokens that the trainer will cut."""
    query_max_len, passage_max_len = find_lengths(job)
    flags: dict[str, Any] = {"query-max-len": query_max_len, "passage-max-len": passage_max_len}
    for name in ("query", "passage"):
        if instruction := values.get(f"{name}_instruction_for_rerank"):
            flags[f"{name}-instruction"] = instruction
    if values.get("knowledge_distillation"):
        flags["needs-scores"] = True
    return flags


def _build_scoring(job: Job, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return how a model trained so must be scored: same instructions, prompt and lengths.

    Lengths are those of AbsReranker*TrainDataset in FlagEmbedding 1.4.2: a query may borrow a quarter of the
    passage's budget.
    """
    query_max_len, passage_max_len = find_lengths(job)
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


def _check(job: Job, _: Mapping[str, Any]) -> Iterator[Found]:
    """Yield what only these trainers refuse, in the recipe's own spelling of the arguments."""
    train = BACKEND.type_all(job.recipe.train)
    its_loss = "remove it: these trainers take the softmax over each group"
    yield from check_common(job, its_loss, "say it as train.query_instruction_for_rerank")
    yield from _check_family(job, train)
    if job.model.score_head:
        message = f"{job.model.describe_head()}: FlagEmbedding's trainer asks an LLM for a word, and would drop it"
        hint = "say backend: sentence-transformers, or backend: swift with train: {task_type: reranker}"
        yield ("model",), Problem(message, hint)
    total = sum(find_lengths(job))
    if job.model.family == "decoder" and total < _PROMPT_TOKENS:
        message = f"query_max_len + passage_max_len = {total} leaves no room beside FlagEmbedding's prompt"
        yield ("train", "passage_max_len"), Problem(message, f"give at least {_PROMPT_TOKENS} together; 1024 is usual")


def check_common(job: Job, its_loss: str, its_instruction: str) -> Iterator[Found]:
    """Yield what all of FlagEmbedding's trainers refuse; what to do about a loss and an instruction differs."""
    recipe, train = job.recipe, job.backend.type_all(job.recipe.train)
    for key, given, hint in (
        (("loss",), recipe.loss is not None, its_loss),
        (("checkpoint",), recipe.checkpoint is not None, "remove it: the last weights are the model"),
        (("data", "validation_ratio"), recipe.data.validation_ratio is not None, "remove it: Orch measures after"),
        (("data", "instruction"), recipe.data.instruction is not None, its_instruction),
    ):
        if given:
            yield key, Problem(f"{job.backend.trainers} have no {key[-1]}", hint)
    if recipe.teacher is not None and not train.get("knowledge_distillation"):
        message = "the teacher's scores would be computed and not learnt"
        yield ("teacher",), Problem(message, "say train: {knowledge_distillation: true}, or remove it")
    if train.get("save_merged_lora_model") and job.model.family == "decoder" and not trains_lora(job):
        hint = "FlagEmbedding would train to the end and then fail: remove it"
        yield ("train", "save_merged_lora_model"), Problem("there is no LoRA to merge", hint)
    yield from _check_evaluation(train)
    if train.get("dataloader_drop_last") is False:
        message = "an incomplete last batch mixes the documents of different queries in FlagEmbedding's loss"
        yield ("train", "dataloader_drop_last"), Problem(message, "remove it: what is left over is said in the ledger")
    zero3 = "FlagEmbedding saves empty weights under ZeRO-3: its save path is commented out"
    yield from check_deepspeed(job, zero3=(zero3, "use stage0, or ZeRO stage 1 or 2"))
    config, asked = load_deepspeed(job), train.get("lr_scheduler_type", "linear")
    if isinstance(config, dict) and "scheduler" in config and asked != "linear":
        message = f"DeepSpeed's own scheduler, a linear decay, would replace lr_scheduler_type {asked}"
        yield ("train", "lr_scheduler_type"), Problem(message, "remove it, or say deepspeed: zero0, which has none")


def _check_family(job: Job, train: Mapping[str, Any]) -> Iterator[Found]:
    """Yield what the trainer of this family does not have, and a family that the config contradicts.

    Each trainer loads the other's models, with a new head or none.
    """
    family, other = job.model.family, "decoder" if job.model.family == "encoder" else "encoder"
    for name in job.model.architectures:
        if (_ENCODERS if family == "decoder" else _DECODERS).search(name):
            message = f"{name} is no {family}, and the {family} trainer would train it all the same"
            yield ("model", "family"), Problem(message, f"say family: {other}, or remove it")
    for name in DECODER_ONLY if family == "encoder" else ():
        if name in train:
            message = f"FlagEmbedding's encoder-only trainer has no {name}"
            yield ("train", name), Problem(message, LORA_OF_ENCODERS.get(name, "remove it, or train an LLM reranker"))
    if train.get("model_type", family) != family:
        message = f"{job.model.name} is {family}-only"
        yield ("train", "model_type"), Problem(message, "remove model_type: Orch renders it")
    if train.get("sep_token", "\n") != "\n":
        message = "FlagEmbedding's own rerankers always separate with a newline"
        yield ("train", "sep_token"), Problem(message, "remove sep_token")


def _check_evaluation(train: Mapping[str, Any]) -> Iterator[Found]:
    for name in ("eval_strategy", "evaluation_strategy"):
        if train.get(name, "no") != "no":
            message = "FlagEmbedding's trainers do not evaluate while training"
            yield ("train", name), Problem(message, "remove it: Orch measures after")
    if train.get("load_best_model_at_end"):
        message = "FlagEmbedding's trainers do not evaluate, so none is best"
        yield ("train", "load_best_model_at_end"), Problem(message, "remove it")


BACKEND = Backend(
    name="flagembedding",
    title="FlagEmbedding",
    trainers=_TRAINERS,
    distributions=("FlagEmbedding", "torch", "transformers", "peft", "sentence-transformers"),
    tasks=("reranker", "embedding"),
    own_modules={"embedding": "orchestrator.backends.flagembedding_embedders"},
    kind="group",
    needs_negatives=True,
    lengths=LENGTHS,
    imports={"": ("FlagEmbedding", *WORKER_IMPORTS)} | {name: (name, *WORKER_IMPORTS) for name in _MODULES.values()},
    lora={"use_lora": True},
    scores_vocabulary=True,
    speedups=lambda job: _SPEEDUPS[job.model.family],
    other_models="BAAI/bge-reranker-v2-gemma or BAAI/bge-reranker-v2-m3",
    remedies=Remedies(
        batch=8,
        lengths={"query_max_len": 32, "passage_max_len": 128},
        cures={
            "resume-needs-deepspeed": ("deepspeed=stage0",),
            "flash-attention-missing": ("train.use_flash_attn=false",),
        },
    ),
    snapshots=("flagembedding.encoder_only", "flagembedding.decoder_only"),
    reserved=_WORDS["reserved"],
    others={name: group["say"] for group in _WORDS["others"] for name in group["names"]},
    at_least=dict.fromkeys((*LENGTHS, "per_device_train_batch_size", "gradient_accumulation_steps", "lora_rank"), 1),
    check_values=_check_values,
    trains_lora=trains_lora,
    data_form=lambda _: "flagembedding",
    check_job=lambda job: check_trainer(job, _check, conditions=CONDITIONS, half=("use_flash_attn",)),
    smoke_scale=_smoke_scale,
    build_training=_build_training,
)
