"""What does not fit together in a job for ms-swift, found before anything runs."""

from __future__ import annotations

from collections.abc import Iterator

from orchestrator.backends.aliases import is_full, is_swift_4
from orchestrator.backends.arguments import load_arguments, load_words
from orchestrator.backends.embeddings import Embedding, read_own
from orchestrator.backends.known_models import CLASSIFIER
from orchestrator.backends.protocol import Found, Job
from orchestrator.backends.sharing import gathers_weights
from orchestrator.backends.swift_models import (
    ANSWERS,
    GENERATIVE,
    SCORE_HEAD,
    TASK_TYPES,
    find_swift_model,
    find_task_type,
)
from orchestrator.backends.trainer import wants_best
from orchestrator.backends.trainer_checks import (
    COMMON,
    WHEN,
    Applies,
    Condition,
    Train,
    check_code,
    check_deepspeed,
    check_settings,
    check_trainer,
    check_validation,
    describe_lack,
    load_conditions,
)
from orchestrator.errors import Problem
from orchestrator.machine.packages import parse_release
from orchestrator.recipe.losses import list_losses, list_script_names, list_variables
from orchestrator.recipe.schema import Loss

_FLASH = ("flash_attn", "flash_attention_2", "flash_attention_3", "flash_attention_4")
_WORDS = load_words("swift")
_CLASSIFIES = ("seq_cls", "decision", "prm")
_LOSSES_OF_LLMS = ("cross_entropy", "loss_scale", "channel_loss")  # 4.6 has the first, 3.6 the others
_FITS = "positives only: infonce; labels 0 and 1: contrastive or online_contrastive; scores: cosine_similarity"
# ms-swift 3.6 takes one positive from the last message and the negatives from `rejected_response`; 3.12 and 4 read what
# Orch writes, `positive_messages` and `negative_messages` (RowPreprocessor.standard_keys).
_READS_GROUPS = (3, 12)


def _is_unknown(job: Job, train: Train, row: Condition) -> bool:
    given = train[row.argument] if isinstance(train[row.argument], list) else [train[row.argument]]
    brings_own = train.get("external_plugins") or train.get("custom_register_path")
    return is_swift_4(job.versions) and not brings_own and any(one not in row.among for one in given)


def _is_no_fsdp(_: Job, train: Train, __: Condition) -> bool:
    said = train["fsdp"]
    return bool(said) and said != "fsdp2" and not said.endswith(".json") and not said.strip().startswith("{")


def _lacks_length(_: Job, train: Train, row: Condition) -> bool:
    value = train["rope_scaling"].strip()
    return not value.startswith("{") and (value not in row.among or not train.get("max_model_len"))


# What a row's `when` names, beside those of every trainer.
_WHEN: dict[str, Applies] = {
    "takes_another_copy": lambda job, train, _: not train["use_hf"] and job.model.comes_by_its_id,
    "lacks_flash_attention": lambda _, train, row: bool(train[row.argument]) and train.get("attn_impl") not in _FLASH,
    "never_ends": lambda _, train, __: bool(train["streaming"]) and train.get("max_steps", -1) <= 0,
    "has_deepspeed": lambda job, train, _: bool(train["fsdp"]) and job.recipe.deepspeed is not None,
    "is_no_fsdp": _is_no_fsdp,
    "saves_shards": lambda job, train, row: not (_is_no_fsdp(job, train, row) or gathers_weights(train["fsdp"])),
    "has_one_process": lambda job, train, _: (
        bool(train["fsdp"]) and job.hardware.kind == "cuda" and job.world_size() == 1
    ),
    # with a slash it is a kernel of the hub
    "is_no_attention": lambda _, train, row: (
        train["attn_impl"] not in {*row.among, "flash_attn"} and "/" not in train["attn_impl"]
    ),
    "lacks_bits": lambda _, train, __: not train.get("quant_bits") and train["quant_method"] != "fp8",
    "trains_lora": lambda _, train, row: train[row.argument] > 0 and not is_full(train),
    "lacks_length": _lacks_length,
    "splits_chats": lambda job, train, _: (
        job.recipe.task == "sft"
        and train["truncation_strategy"] == "split"
        and train.get("use_chat_template") is not False
    ),
    "classifies": lambda job, train, _: (
        (job.recipe.task, train.get("task_type"), train["num_labels"]) != ("reranker", SCORE_HEAD, 1)
    ),
    "generates_for_the_best": lambda job, train, _: (
        bool(train["predict_with_generate"]) and (wants_best(job) or job.recipe.task != "sft")
    ),
    "is_unknown": _is_unknown,
}
_CONDITIONS = (*COMMON, *load_conditions("swift_conditions"))


def check_job(job: Job) -> list[Found]:
    """Return every problem, each with the path of the key to change."""
    return check_trainer(job, _check, conditions=_CONDITIONS, when=WHEN | _WHEN)


def _check(job: Job, train: Train) -> Iterator[Found]:
    """Yield what only ms-swift refuses; `train` has the installed version's names and the backend's types."""
    yield from _check_model(job, train)
    yield from _check_task(job, train)
    yield from _check_loss(job)
    yield from _check_tuner(train)
    yield from _check_encoder(job, train)
    yield from _check_quantising(job, train)
    yield from _check_truncation(job, train)
    yield from check_validation(job, train, tuple(_WORDS["needs_validation"]))
    if job.deepspeed_text:
        message = "ms-swift refuses a DeepSpeed file with {}: it brings its own"
        yield from check_deepspeed(job, clash=(message, "leave them out, or name zero0 to zero3"))
    yield from _check_placement(job, train)
    yield from _check_versions(job)
    if job.recipe.teacher is not None:
        message = "ms-swift's losses learn from labels and pairs, not from a teacher's scores"
        hint = "remove it, or distil with backend: sentence-transformers or flagembedding"
        yield ("teacher",), Problem(message, hint if job.recipe.task == "reranker" else "remove it")


def _check_model(job: Job, train: Train) -> Iterator[Found]:
    named = find_swift_model(job.model, job.recipe.task, job.versions)
    if isinstance(named, Problem):
        yield ("model",), named
    yield from check_code(job, "and ms-swift always runs it")
    reranks = job.model.score_head and job.recipe.task == "reranker"
    if reranks and find_task_type(job.model, job.recipe.task, train) != SCORE_HEAD:
        message = "as generative_reranker it would be asked for a word, and the head dropped"
        message = f"{job.model.describe_head()}: {message}"
        yield ("train", "task_type"), Problem(message, "say train: {task_type: reranker}")


def _check_task(job: Job, train: Train) -> Iterator[Found]:
    known = TASK_TYPES[job.recipe.task]
    if train.get("task_type") in _CLASSIFIES:
        asked = train["task_type"]
        message = f"task_type {asked}: Orch trains rerankers, embedding models and LLMs, and no classifiers"
        hint = "remove task_type, num_labels and problem_type"
        hint += ": an LLM then learns to answer with the label as text" if job.recipe.task == "sft" else ""
        yield ("train", "task_type"), Problem(message, hint)
    elif train.get("task_type") == GENERATIVE and job.model.family == "encoder":
        message = f"{job.model.name} is an encoder, and task_type {GENERATIVE} asks an LLM for a word"
        yield ("train", "task_type"), Problem(message, "say task_type: reranker, or remove it")
    elif train.get("task_type", known[0]) not in known:
        message = f"task_type {train['task_type']!r} does not fit task: {job.recipe.task}"
        yield ("train", "task_type"), Problem(message, f"one of {', '.join(known)}, or remove it")
    if job.recipe.task == "sft" and job.recipe.data.instruction is not None:
        message = "an LLM's rows hold their own instruction"
        yield ("data", "instruction"), Problem(message, "say it as train.system, or remove it")
    if job.recipe.data.instruction is not None and job.model.family == "encoder":
        message = "ms-swift's encoders are trained and used without an instruction"
        yield ("data", "instruction"), Problem(message, "remove it; or say backend: sentence-transformers")
    if job.recipe.task != "sft":
        for key, given in (
            (("train", "system"), train.get("system")),
            (("evaluate", "instruction"), job.recipe.evaluate.instruction),
        ):
            if given:
                message = "the instruction is part of the training and of every later use"
                yield key, Problem(message, "say it as data.instruction")


def _check_loss(job: Job) -> Iterator[Found]:
    """Yield what is wrong with the loss: its type for this task, its fields, Matryoshka's sizes, twice the same."""
    task, train = job.recipe.task, job.recipe.train
    loss = job.loss
    if "loss_type" in train:
        old, known_types = str(train["loss_type"]), load_arguments("swift", job.versions)["loss_type"].choices or ()
        if job.recipe.loss is not None:
            yield ("train", "loss_type"), Problem("the loss is given twice", "keep `loss:`")
        elif task == "sft" and not (old in _LOSSES_OF_LLMS and old in known_types):
            message = f"loss_type {old!r}: an LLM learns the next token here, and ms-swift has no such loss for it"
            yield ("train", "loss_type"), Problem(message, "remove it; loss_scale weighs tokens")
        elif task != "sft" and old not in list_script_names(job.recipe.backend):
            known = ", ".join(list_script_names(job.recipe.backend, task))
            yield ("train", "loss_type"), Problem(f"unknown loss_type {old!r}", f"one of {known}")
    yield from _check_environment(job)
    if loss is None:
        if task == "embedding":
            yield ("task",), Problem("an embedding model needs a loss", f"say `loss: infonce`. {_FITS}")
        return
    if loss.type not in (own := list_losses(job.recipe.backend, task)):
        known = ", ".join(own)
        hint = f"one of {known}" if known else "remove it: an LLM learns the next token"
        yield ("loss",), Problem(f"the loss {loss.type} is not for task: {task}", hint)
        return
    yield from _check_fields(loss, job.model.hidden_size)


def _check_fields(loss: Loss, hidden_size: int | None) -> Iterator[Found]:
    yield from check_settings(loss)
    if loss.use_batch is False:
        for field in ("include_qq", "include_dd", "mask_fake_negative"):
            if getattr(loss, field):
                message = f"{field} is about the batch's other texts, and use_batch is off"
                yield ("loss", field), Problem(message, "remove one of the two")
    for size, weight in (loss.mrl_dims or {}).items():
        if size < 1 or weight <= 0:
            yield ("loss", "mrl_dims"), Problem(f"mrl_dims: {size} with weight {weight}", "both must be above 0")
        elif hidden_size is not None and size > hidden_size:
            message = f"mrl_dims asks for {size} numbers, and the model's vectors have {hidden_size}"
            yield ("loss", "mrl_dims"), Problem(message, f"sizes up to {hidden_size}, such as {hidden_size // 2}")


def _check_environment(job: Job) -> Iterator[Found]:
    settings = list_variables(job.recipe.backend)
    for variable in job.recipe.launch.env:
        if variable in settings:
            message = f"{variable} is a setting of the loss"
            yield ("launch", "env", variable), Problem(message, f"say it as loss.{settings[variable]}")
        elif variable in ANSWERS:
            yield ("launch", "env", variable), Problem(f"{variable} is set by Orch", "remove it")


def _check_tuner(train: Train) -> Iterator[Found]:
    tuner = train.get("tuner_type", train.get("train_type", "lora"))
    if tuner not in {"lora", "full"}:
        message = f"tuner_type {tuner!r}: only lora and full are merged and verified"
        hint = _WORDS["tuners"].get(str(tuner), "say tuner_type: lora, or full")
        yield ("train", "tuner_type"), Problem(message, hint)
    for name in _WORDS["lora"] if tuner == "full" else ():
        if name in train:
            yield ("train", name), Problem(f"full training has no {name}", "remove it, or say tuner_type: lora")


def _check_encoder(job: Job, train: Train) -> Iterator[Found]:
    """Yield what ms-swift would leave out of an encoder: the layers of a new head in an adapter, another pooling."""
    own = read_own(job.model) if job.recipe.task == "embedding" and job.model.family == "encoder" else None
    if isinstance(own, Embedding) and own.pooling != "cls":
        message = f"{job.model.name} pools by {own.pooling}, and ms-swift takes every encoder's first token (cls)"
        yield ("model",), Problem(message, "say backend: sentence-transformers")
    headless = job.model.architectures and not any(name.endswith(CLASSIFIER) for name in job.model.architectures)
    if job.recipe.task == "reranker" and job.model.family == "encoder" and headless and not is_full(train):
        message = f"{job.model.name} has no head that scores, and a LoRA adapter of ms-swift keeps none that is new"
        yield ("train",), Problem(message, "say train: {tuner_type: full}; or name a model that scores already")


def _check_quantising(job: Job, train: Train) -> Iterator[Found]:
    """Yield why ms-swift cannot quantise the weights as it loads them (QuantizeArguments.get_quantization_config)."""
    method, bits = train.get("quant_method"), train.get("quant_bits")
    if method is None:
        if bits is not None:
            message = f"quant_bits {bits} without quant_method quantises nothing"
            yield ("train", "quant_bits"), Problem(message, "say quant_method: bnb, or remove it")
        return
    if job.model.quantization is not None:
        message = f"{job.model.name} is quantised already ({job.model.quantization})"
        yield ("train", "quant_method"), Problem(message, "remove quant_method and quant_bits")
        return
    if is_full(train):
        message = "quantised weights cannot be trained, only LoRA beside them"
        yield ("train", "quant_method"), Problem(message, "say tuner_type: lora, or remove quant_method")
    known = _WORDS["bits"].get(str(method))
    if known is not None and str(bits) not in known:
        message = f"{method} has no quant_bits {bits}: there is no such number of bits for it"
        message = f"quant_method {method} without quant_bits" if bits is None else message
        yield ("train", "quant_bits"), Problem(message, f"say quant_bits: {known[-1]}, one of {', '.join(known)}")


def _check_truncation(job: Job, train: Train) -> Iterator[Found]:
    asked = train.get("truncation_strategy", "delete")
    if job.recipe.task == "reranker" and asked != "delete":
        message = f"truncation_strategy {asked} cuts the prompt itself: the answer would be read at another place"
        yield ("train", "truncation_strategy"), Problem(message, "remove it, and raise max_length or shorten the texts")
    if job.recipe.task == "embedding" and asked == "split":
        yield ("train", "truncation_strategy"), Problem("a text cannot be split into two vectors", "remove it")


def _check_placement(job: Job, train: Train) -> Iterator[Found]:
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
    refused = ["deepspeed"] if job.recipe.deepspeed is not None else []
    for name in (*refused, *(name for name in ("fsdp", "use_liger_kernel") if train.get(name))):
        spread = f"{gpus // processes} GPUs a process: ms-swift spreads the model over them"
        yield key, Problem(f"{spread}, and refuses {name} then", f"{hint}; or remove {name}")


def _check_versions(job: Job) -> Iterator[Found]:
    """Yield what ms-swift 3 cannot do: the rows of embedding models and rerankers, Matryoshka sizes."""
    installed = job.versions.get("ms-swift")
    if installed is not None and parse_release(installed) < _READS_GROUPS and job.recipe.task != "sft":
        message = f"ms-swift {installed} reads the rows of {job.recipe.task} models in another form than Orch writes"
        yield ("task",), Problem(message, "install ms-swift 3.12 or later, such as the tested 4.6.0")
    loss = job.recipe.loss
    if loss is not None and loss.mrl_dims and "mrl_dims" not in load_arguments("swift", job.versions):
        lack = describe_lack(job, "swift", "mrl_dims", "no Matryoshka loss")
        if lack is not None:
            yield ("loss", "mrl_dims"), lack
