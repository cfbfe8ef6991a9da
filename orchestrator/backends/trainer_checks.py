"""What every trainer refuses, or must not be told: conditions on its arguments, and checks that all tools share."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from itertools import chain
from types import MappingProxyType
from typing import Any

import msgspec

from orchestrator.backends.aliases import find_missing_files
from orchestrator.backends.arguments import FOLDER, describe_versions, find_set, is_near, load_arguments, version_sets
from orchestrator.backends.embeddings import refuse_told, settle_embedding
from orchestrator.backends.known_models import find_known, list_score_head_formats, refuse_layerwise
from orchestrator.backends.protocol import Found, Job
from orchestrator.backends.scorers import load_own_spec
from orchestrator.backends.sharing import check_parallelism, load_deepspeed, zero_stage
from orchestrator.backends.trainer import SETS_ASIDE, check_determinism, check_saving
from orchestrator.errors import Problem
from orchestrator.machine.tables import load_table
from orchestrator.recipe.losses import find_batch_obstacle, list_settings
from orchestrator.recipe.schema import Loss

_REMOVE_OR_SET_ASIDE = f"remove it, or {SETS_ASIDE}"
Train = Mapping[str, Any]  # the train command's arguments, with the installed version's names and types
_GRADED = "graded labels are trained with backend: sentence-transformers; elsewhere a document is relevant or not"
_WHAT = {
    "multimodal": "is a model that sees or hears, and this trainer takes text models",
    "decision": "is a model that decides, and this trainer takes rerankers, encoders and LLMs",
}
# peft has no merge for the layers of these (tuners/lora/awq.py, gptq.py, aqlm.py, eetq.py of peft 0.20).
_UNMERGED = frozenset({"awq", "gptq", "aqlm", "eetq"})
_MARK = re.compile(r"[-_](awq|gptq|aqlm|eetq|int[48]|[48]-?bits?|w[48]a16)(?=[-_]|$)", re.IGNORECASE)
_KEY = ("watch", "on_oom")
_OTHERWISE = "say watch: {on_oom: fail}"
_FIXED = ("train_batch_size", "train_micro_batch_size_per_gpu", "gradient_accumulation_steps")


class Condition(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A row of a table of conditions: arguments/conditions.yaml says what its keys mean."""

    argument: str
    when: str
    why: str
    hint: str
    other: str = ""
    among: tuple[str, ...] = ()
    least: float = 0


Applies = Callable[[Job, Train, Condition], bool]


def load_conditions(name: str) -> tuple[Condition, ...]:
    """Return one of the tables of conditions beside the arguments."""
    return load_table(FOLDER / f"{name}.yaml", Condition)


# What a row's `when` names.
WHEN: dict[str, Applies] = {
    "is_on": lambda _, train, row: bool(train[row.argument]),
    "is_off": lambda _, train, row: not train[row.argument],
    "is_on_with": lambda _, train, row: bool(train[row.argument] and train.get(row.other)),
    "is_not_among": lambda _, train, row: train[row.argument] not in row.among,
    "is_below": lambda _, train, row: train[row.argument] < row.least,
    "never_logs": lambda _, train, __: (
        train["logging_steps"] <= 0 and train.get("logging_strategy", "steps") == "steps"
    ),
    "saves_between_evaluations": lambda _, train, row: bool(
        train[row.argument] and train.get("eval_steps") and train.get("save_steps", 500) % train["eval_steps"]
    ),
    "follows_validation": lambda job, train, row: (
        train[row.argument] in row.among and job.recipe.data.validation_ratio is None
    ),
    "has_no_workers": lambda job, train, row: (
        train[row.argument] is not None and not train.get("dataloader_num_workers", job.backend.data_workers)
    ),
    # without DeepSpeed no checkpoint of FlagEmbedding's can be continued, with or without the optimizer
    "is_on_with_deepspeed": lambda job, train, row: bool(train[row.argument]) and job.deepspeed_text is not None,
}
COMMON = load_conditions("conditions")


def _check_conditions(
    conditions: tuple[Condition, ...], when: Mapping[str, Applies], job: Job, train: Train
) -> Iterator[Found]:
    for row in conditions:
        if row.argument in train and when[row.when](job, train, row):
            value = train[row.argument]
            shown = str(value).lower() if isinstance(value, bool) else value
            hint = row.hint.replace("{among}", ", ".join(row.among))
            yield ("train", row.argument), Problem(f"{row.argument}: {shown}: {row.why}", hint)


def check_trainer(
    job: Job,
    own: Callable[[Job, Train], Iterator[Found]],
    *,
    conditions: tuple[Condition, ...] = COMMON,
    when: Mapping[str, Applies] = WHEN,
    half: tuple[str, ...] = (),
) -> list[Found]:
    """Return what does not fit together: what `own`, the tool's checks, find, and what is the same for every trainer.

    `half` names the tool's own arguments that need a GPU.
    """
    backend = job.backend
    translation = backend.translate(job)
    train = translation.arguments
    named = chain(translation.problems, find_missing_files(job.recipe_folder, train, backend.arguments))
    return [
        *((("train", name), problem) for name, problem in named),
        *_check_sharing(job, train),
        *own(job, train),
        *_check_conditions(conditions, when, job, train),
        *_check_base_model(job),
        *_check_score_head(job),
        *_check_embedding(job),
        *_check_merge(job),
        *_check_quantized(job),
        *_check_unused(job),
        *_check_speedups(job),
        *(check_saving(job, train) if backend.evaluates else ()),
        *_check_precision(job, train, half),
        *check_determinism(job, train),
        *_check_versions(job, train),
        *_check_splitting(job, train),
        *check_parallelism(job, train),
    ]


def check_code(job: Job, why: str) -> Iterator[Found]:
    """Yield that a model brings code along, where the trainer would run it unasked, or not load the model without."""
    if job.model.brings_code and not job.model.trust_remote_code:
        hint = "read it, then say model: {path: …, trust_remote_code: true}; or take a model without code"
        yield ("model",), Problem(f"{job.model.name} brings Python code along, {why}", hint)


def check_validation(job: Job, train: Train, names: tuple[str, ...]) -> Iterator[Found]:
    """Yield the arguments that need validation rows, where there are none."""
    if job.recipe.data.validation_ratio is not None:
        return
    by_evalscope = train.get("eval_use_evalscope") and train.get("eval_dataset")  # it brings its own data sets
    for name in names:
        if train.get(name) and not (name == "eval_steps" and by_evalscope):
            yield ("train", name), Problem(f"{name} needs validation rows, and there are none", _REMOVE_OR_SET_ASIDE)
    if train.get("eval_strategy", "no") != "no" and not by_evalscope:
        message = "eval_strategy: there are no validation rows to evaluate on"
        yield ("train", "eval_strategy"), Problem(message, _REMOVE_OR_SET_ASIDE)


def check_deepspeed(
    job: Job, *, zero3: tuple[str, str] | None = None, clash: tuple[str, str] | None = None
) -> Iterator[Found]:
    """Yield what the DeepSpeed file may not say: (message, hint) for ZeRO-3, and for parts that the trainer has."""
    config = load_deepspeed(job)
    if isinstance(config, Problem):
        yield ("deepspeed",), config
        return
    if zero3 and zero_stage(config) == 3:  # noqa: PLR2004
        yield ("deepspeed",), Problem(*zero3)
    if clash and (parts := [part for part in ("optimizer", "scheduler") if part in config]):
        yield ("deepspeed",), Problem(clash[0].format(" and ".join(parts)), clash[1])


def check_settings(loss: Loss, hints: Mapping[str, str] = MappingProxyType({})) -> Iterator[Found]:
    """Yield the settings that a loss does not have; `hints` say what they are called here."""
    own = list_settings(loss.facts)
    for field in sorted(loss.model_fields_set - {"type", *own}):
        if getattr(loss, field) is not None:
            hint = hints.get(field, f"its settings: {', '.join(sorted(own)) or 'none'}")
            yield ("loss", field), Problem(f"{loss.type} has no {field}", hint)


def _check_merge(job: Job) -> Iterator[Found]:
    if not job.backend.trains_lora(job):
        if "merge" in job.recipe.model_fields_set and job.recipe.merge:
            message = "there is no LoRA to merge: the trainer writes the full model"
            yield ("merge",), Problem(message, "say merge: false")
    elif job.recipe.gate and not job.recipe.merge:
        message = "a gate needs a measured model, and LoRA weights are measured merged"
        yield ("gate",), Problem(message, "say merge: true, or remove the gate")


def _check_precision(job: Job, train: Train, also: tuple[str, ...]) -> Iterator[Found]:
    """Yield what needs a GPU where there is none (bf16, fp16, and the arguments `also`), and both halves at once."""
    for name in ("bf16", "fp16", *also):
        if train.get(name) and job.hardware.kind == "cpu" and not job.smoke:
            message = f"{name} needs a GPU, and there is none"
            yield ("train", name), Problem(message, "remove it: Orch chooses by hardware")
    if train.get("bf16") and train.get("fp16"):
        yield ("train", "fp16"), Problem("bf16 and fp16 exclude each other", "keep one")


def _check_unused(job: Job) -> Iterator[Found]:
    """Yield keys that mean something to one backend and nothing to this one: said, never ignored."""
    backend, data = job.backend, job.recipe.data
    for name in ("min_label", "max_label") if backend.kind != "labelled" else ():
        if getattr(data, name) is not None:
            yield ("data", name), Problem(f"{backend.trainers} read no labels to scale", f"remove it: {_GRADED}")
    if data.scores_as_labels and backend.kind != "labelled":
        yield ("data", "scores_as_labels"), Problem(f"{backend.trainers} read no labels", f"remove it: {_GRADED}")


def _check_sharing(job: Job, train: Train) -> Iterator[Found]:
    """Yield why the processes cannot share the training as `launch.distributed` says, or nobody could prove it."""
    for name, value in (("save_strategy", "no"), ("save_only_model", True)) if job.world_size() > 1 else ():
        if train.get(name) == value:
            message = f"{name}: no checkpoint would prove that the processes are one group, by a state of each of them"
            yield ("train", name), Problem(message, "remove it: save_total_limit keeps the disk small")
    launch, backend, named = job.recipe.launch, job.backend, job.recipe.deepspeed
    if launch.ddp_timeout_s and "ddp_timeout" in train:
        hint = "keep launch.ddp_timeout_s: hosts wait for one another so long, too"
        yield ("train", "ddp_timeout"), Problem("launch.ddp_timeout_s says it already", hint)
    asked, key = launch.shared_by, ("launch", "distributed" if launch.distributed else "strategy")
    if asked == "deepspeed" and named is None:
        yield key, Problem("nothing says how DeepSpeed shares the training", "say deepspeed: zero2, beside launch")
    elif asked in {"ddp", "fsdp"} and named is not None:
        yield key, Problem(f"deepspeed shares the training already; {asked} is another way", "keep one of the two")
    if asked != "fsdp":
        return
    if not backend.starts_fsdp:
        message = "are not started with FSDP: they save what one process holds, a part of the weights"
        hint = "remove it, and say deepspeed: zero2 where one GPU is too small"
        yield key, Problem(f"{backend.trainers} {message}", hint)
    elif not job.smoke and job.hardware.kind == "cpu":
        message = "FSDP needs GPUs: accelerate leaves it out on a CPU, where processes share by ddp"
        yield key, Problem(message, "remove it: several processes on a CPU are ddp")
    elif not job.smoke and job.world_size() == 1:
        yield key, Problem("FSDP spreads a model over processes, and there is one", "remove it, or use more GPUs")


def _check_speedups(job: Job) -> Iterator[Found]:
    known = job.backend.speedups(job)
    for name in job.speedups:
        if name not in known:
            hint = f"it knows {', '.join(known)}" if known else "remove speedups"
            yield ("speedups",), Problem(f"{job.backend.trainers} know no speedup {name!r} here", hint)


def _check_base_model(job: Job) -> Iterator[Found]:
    """Yield a base model that a trainer of text rerankers cannot take: one that sees, or that scores by layers."""
    model, hint = job.model, f"name another model, such as {job.backend.other_models}"
    if not job.backend.other_models:
        return
    if why := refuse_layerwise(model.name, model.architectures):
        yield ("model",), Problem(why, hint)
    known = find_known(model.name)
    if known is not None and known.kind in _WHAT:
        yield ("model",), Problem(f"{model.name} {_WHAT[known.kind]}", hint)


def _check_score_head(job: Job) -> Iterator[Found]:
    """Yield what would ask the head of an LLM that scores in a format that nobody trained, or drop it in silence."""
    model, recipe = job.model, job.recipe
    if not model.score_head:
        return
    what = model.describe_head()
    if recipe.task != "reranker":
        yield ("model",), Problem(f"{what}: task {recipe.task} would drop it", "name the LLM that it was made from")
    elif model.native is None and load_own_spec(model) is None and "native" in recipe.evaluate.baselines:
        fitting = " or ".join(list_score_head_formats(model.folder))
        message = f"{what}, and nothing says in which format the head was trained: the reference would be random"
        hint = (
            f"say model: {{path: {model.name}, native: …}}, {fitting}; or measure it in the format of this training "
            "only: evaluate: {baselines: [trained-format]}"
        )
        yield ("model",), Problem(message, hint)


def _check_embedding(job: Job) -> Iterator[Found]:
    """Yield why a model makes no vectors, and what the recipe says of them that is not so."""
    told, task = job.recipe.model, job.recipe.task
    if task != "embedding" or job.backend.embeds_by:
        why = job.backend.embeds_by if task == "embedding" else f"it is of embedding models, and this task is {task}"
        yield from refuse_told(told, why)
    elif isinstance(found := settle_embedding(job.model, told), list):
        yield from found
    elif not job.backend.changes_models or job.backend.trains_lora(job):
        for name in told.changes:
            message = f"model.{name} is of sentence-transformers, where all weights are trained"
            hint = "remove it, or say backend: sentence-transformers without lora_rank"
            yield ("model", name), Problem(message, hint)


def _check_quantized(job: Job) -> Iterator[Found]:
    """Yield why a quantised base model cannot be trained in full, or its LoRA not be merged."""
    method = job.model.quantization
    if method is None:
        return
    whole = _MARK.sub("", job.model.name)  # what it was made from, as far as its name and ms-swift's list tell
    listed = whole != job.model.name and find_known(whole) is not None
    other = f"name {whole}, from which it was made" if listed else "name the model that it was made from"
    if "quant_method" in job.backend.arguments:
        other += ", and say quant_method: bnb and quant_bits: 4 to train it in 4 bit"
    if not job.backend.trains_lora(job):
        message = f"{job.model.name} is quantised ({method}), and full training needs whole weights"
        yield ("model",), Problem(message, other)
    elif job.recipe.merge and method in _UNMERGED:
        message = f"{job.model.name} is quantised ({method}): LoRA can be trained on it, and not merged into it"
        yield ("model",), Problem(message, f"{other}; or say merge: false, and remove the gate")


def _check_splitting(job: Job, train: Train) -> Iterator[Found]:
    """Yield why a batch that is too large cannot be split; `train` has the installed version's names."""
    recipe = job.recipe
    if recipe.watch.on_oom != "retry":
        return
    if obstacle := find_batch_obstacle(job.loss, train):
        message = f"on_oom: retry halves the batch, and that would change what is learnt: {obstacle}"
        yield _KEY, Problem(message, f"{_OTHERWISE}, or choose a batch that fits; gradient_checkpointing saves memory")
    if train.get("auto_find_batch_size"):
        message = "auto_find_batch_size halves the batch too, and does not accumulate: two would do it at once"
        yield _KEY, Problem(message, "remove train.auto_find_batch_size")
    if train.get("per_gpu_train_batch_size"):
        message = "on_oom: retry sets per_device_train_batch_size, and per_gpu_train_batch_size would go before it"
        yield _KEY, Problem(message, "say train.per_device_train_batch_size")
    config = load_deepspeed(job)
    fixed = [] if isinstance(config, Problem) else [name for name in _FIXED if config.get(name, "auto") != "auto"]
    if fixed:
        message = f"on_oom: retry changes batch and accumulation, and the DeepSpeed file fixes {', '.join(fixed)}"
        yield _KEY, Problem(message, f'say "auto" there, or {_OTHERWISE}')


def _check_versions(job: Job, train: Train) -> Iterator[Found]:
    """Yield the arguments that the installed version does not have; `train` has its spelling already.

    Only where a snapshot was taken from these minor versions: of others the backend is asked itself, before the run.
    """
    snapshot = job.backend.find_snapshot(job)
    if not is_near(snapshot, find_set(snapshot, job.versions), job.versions):
        return
    known = load_arguments(snapshot, job.versions)
    for name in train:
        lack = describe_lack(job, snapshot, name, f"no argument {name}") if name not in known else None
        if lack is not None:
            yield ("train", name), lack


def describe_lack(job: Job, snapshot: str, name: str, lacks: str) -> Problem | None:
    """Return that the installed versions lack an argument, and the first set that has it, the tested one before others.

    None where no set has it: it is not of the trainer.
    """
    sets = (one.versions for one in version_sets(snapshot) if name in load_arguments(snapshot, one.versions))
    having = next((describe_versions(snapshot, versions) for versions in sets), None)
    message = f"{describe_versions(snapshot, job.versions)} has {lacks}"
    return Problem(message, f"remove it, or install {having}") if having else None
