"""sentence-transformers' trainers as one command and its config: what both share, and cross-encoders."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import msgspec

from orchestrator.backends.arguments import Argument, load_arguments, load_words
from orchestrator.backends.protocol import Backend, Found, Job, SmokeScale, Training, name_checkpoint
from orchestrator.backends.sharing import (
    SHARING_ARGUMENTS,
    build_fsdp_arguments,
    count_step_rows,
    deepspeed_environment,
)
from orchestrator.backends.trainer import (
    ArgumentList,
    deterministic_environment,
    find_saving,
    finish_training,
    put_determinism,
    put_fixed,
    put_hardware,
    put_limit,
    put_saving,
)
from orchestrator.backends.trainer_checks import (
    COMMON,
    check_code,
    check_deepspeed,
    check_settings,
    check_trainer,
    check_validation,
)
from orchestrator.errors import Problem
from orchestrator.logs.patches import Remedies
from orchestrator.recipe.losses import (
    DEFAULT_LOSSES,
    LISTS,
    MARGINS,
    find_constant_loss,
    find_losses,
    find_target,
    list_losses,
)
from orchestrator.recipe.plan import File, Note, Resume
from orchestrator.recipe.schema import Loss

_CONFIG = "files/train.json"
_DEEPSPEED = "files/ds_config.json"
_STABLE = "warmup_stable_decay"
_DEFAULT = DEFAULT_LOSSES["sentence-transformers", "reranker"]
_HARD_TO_REACH = "margin_mse, pointwise_mse (both with activation: identity), pairwise_ranknet and list_mle learn them"
_OTHERS = {
    name: Problem(f"{name}: this backend trains an adapter where lora_rank is given, and all weights elsewhere", hint)
    for hint in ("say lora_rank: 16 in its place, or remove it",)
    for name in ("use_lora", "tuner_type", "train_type")
}
_ALWAYS = ("graded", "activation", "pos_weight", "k")
_BEST, LOSS = "metric_for_best_model", "loss"
TABLE = load_words("sentence_transformers")
MEASURES: dict[str, str] = TABLE["measures"]["reranker"]
CHOICES = {_BEST: Argument(_BEST, "str", None, (*MEASURES, "spearman"))}
FORMATS, LORA = tuple(TABLE["formats"]), tuple(TABLE["lora"])
SHARED_ARGUMENTS, _OF_RERANKERS = (
    {name: Argument(name, kind, default, None) for name, (kind, default) in TABLE[part].items()}
    for part in ("of_workers", "of_rerankers")
)
WORKER_ARGUMENTS = SHARED_ARGUMENTS | _OF_RERANKERS
CONDITIONS = tuple(row for row in COMMON if row.argument != _BEST)  # what it may be stands in CHOICES
_SMOKE_LEAVES_OUT = frozenset(TABLE["smoke_leaves_out"]) | SHARING_ARGUMENTS


class Trainer(msgspec.Struct, frozen=True):
    """What one of the two trainers has for itself.

    `worker` starts it; `put` adds its arguments; `measures` are what may find the best checkpoint, the first unless the
    recipe names another, each with the library's name; `config` is its part of train.json.
    """

    worker: str
    put: Callable[[Job, ArgumentList], None]
    measures: Callable[[Job], Mapping[str, str]]
    config: Callable[[Job, Mapping[str, Any]], dict[str, Any]]
    build_loss: Callable[[Job, str], dict[str, Any]]
    prepare: Callable[[Job, Mapping[str, Any]], dict[str, Any]]
    scoring: Callable[[Job, Mapping[str, Any]], dict[str, Any]]


def _check_values(train: Mapping[str, Any]) -> Iterator[tuple[str, Problem]]:
    """Yield the shares and texts that the trainer or its worker cannot work with; `train` has their types."""
    for name, value in train.items():
        if name in TABLE["shares"] and not 0 <= value <= 1:
            yield name, Problem(f"{name} is a share, from 0 to 1; got {value}", "0.1 is 10 %")
        elif name in {"query_format", "document_format"} and value.count("{}") != 1:
            message = f"{name} is {value!r}: it needs {{}} exactly once, where the text goes"
            yield name, Problem(message, "'query: {}'")
        elif name == "num_labels" and value != 1:
            message = f"num_labels is {value}: a reranker gives each document one score"
            yield name, Problem(message, "remove it; grades are one label from 0 to 1: data.max_label")


def find_loss(job: Job) -> Loss:
    """Return the job's loss; the default where the task has no such loss, or there is none, which is refused."""
    owner = (job.recipe.backend, job.recipe.task)
    if job.loss is not None and job.loss.type in list_losses(*owner):
        return job.loss
    return Loss(type=DEFAULT_LOSSES.get(owner, "mnrl")).of(*owner)


def find_form(job: Job) -> str:
    """Return which rows the loss reads."""
    return find_loss(job).facts.form


def build_smoke_scale(job: Job) -> SmokeScale:
    """Return a job of two epochs of 8 short steps, with a learning rate that visibly moves a random model.

    Its checkpoints stand at the ends of epochs. Early stopping is left out: two epochs are what a smoke run has. So are
    names of layers, which a tiny model has not; an adapter starts at zero, and needs longer strides.
    """
    return SmokeScale(
        train={
            "num_train_epochs": 2, "per_device_train_batch_size": 2, "per_device_eval_batch_size": 2,
            "gradient_accumulation_steps": 1, "max_length": 256,
            "learning_rate": 1e-2 if trains_lora(job) else 1e-3, "logging_steps": 1,
            "save_strategy": "epoch", "eval_strategy": "epoch" if job.recipe.data.validation_ratio else "no",
            "dataloader_num_workers": 0, "bf16": False, "fp16": False,
        },
        leave_out=_SMOKE_LEAVES_OUT,
    )  # fmt: skip


def build_training(job: Job, trainer: Trainer, *, model: str, data: str, output: str) -> Training:
    """Return the train stage for the base model at `model` on the prepared folder `data`; all paths absolute."""
    translation, loss = job.backend.translate(job), find_loss(job)
    arguments = _list_arguments(job, trainer, ArgumentList(translation), output=output)
    values = arguments.values()
    rows = int(values["per_device_train_batch_size"]) * (job.world_size() if loss.gather_across_devices else 1)
    env = (
        {"HF_DATASETS_CACHE": output.removesuffix("/output") + "/cache"}
        | ({} if job.smoke else deepspeed_environment(job))
        | deterministic_environment(job, values["seed"])
        | translation.env
        | job.environment()
    )
    config = _build_config(job, trainer, values, model=model, data=data)
    files = [File(_CONFIG, json.dumps(config, ensure_ascii=False, indent=2) + "\n")]
    if job.deepspeed_text and not job.smoke:
        files.append(File(_DEEPSPEED, job.deepspeed_text))
    return finish_training(
        job,
        arguments,
        template="sentence-transformers/train.j2",
        template_values={"worker": trainer.worker, "config": str(job.run_dir / _CONFIG)},
        env=env,
        files=tuple(files),
        notes_before=explain_loss(job),
        prepare=_prepare_flags(job, values) | trainer.prepare(job, values),
        scoring=trainer.scoring(job, values),
        reads=(config["loss"]["guide"],) if loss.guide else (),
        weights=f"{output}/{name_checkpoint(job, last='last')}",  # links that the worker makes at its end
        resume=Resume("--resume_from_checkpoint", output),
        full_batch_rows=count_step_rows(job, values) if values["dataloader_drop_last"] else 1,
        flat_loss=find_constant_loss(loss, values, rows=rows),
    )


def _list_arguments(job: Job, trainer: Trainer, found: ArgumentList, *, output: str) -> ArgumentList:
    """Return what the worker and its trainer are told, in reading order: input, steps, saving, hardware."""
    known, given = load_arguments("sentence_transformers"), found.given
    trainer.put(job, found)
    found.put("output_dir", output, "orch", "a fresh folder of the run")
    batch = ("per_device_train_batch_size", "gradient_accumulation_steps")
    found.put_defaults(known, ("learning_rate", "num_train_epochs", *batch, "seed"), "transformers' default")
    if "stable_ratio" in given:
        found.put("lr_scheduler_type", _STABLE, "orch", "stable_ratio: up in a line, level, down in half a cosine")
    found.put_rest()
    several = job.world_size() > 1
    why = "sentence-transformers' own rule for several processes" if several else "the last, smaller batch counts too"
    found.put("dataloader_drop_last", several, "default", why)
    found.put("logging_steps", 10, "orch", "transformers' default of 500 leaves most runs without a loss curve")
    found.put("save_strategy", find_saving(given).save_strategy, "orch", "shown: the whole training stands in one file")
    put_saving(found, job, eval_batch=8)
    if job.recipe.data.validation_ratio:
        measures = trainer.measures(job)
        asked = given.get(_BEST, next(iter(measures)))
        which = "lowest validation loss" if asked == LOSS else f"highest {asked} of the validation rows"
        found.put(_BEST, measures[next(iter(measures))], "orch", f"the best checkpoint has the {which}")
        found.put("greater_is_better", asked != LOSS, "orch", f"the best checkpoint has the {which}")
    put_limit(found, job)
    put_fixed(found, job)
    put_hardware(found, job)
    if job.hardware.kind == "cpu" and job.world_size() > 1:
        found.put("ddp_backend", "gloo", "hardware", "several processes on a CPU")
    if not job.smoke:  # a tiny model on a CPU is not shared out
        if job.deepspeed_text:
            found.put("deepspeed", str(job.run_dir / _DEEPSPEED), "recipe", "deepspeed")
        if job.recipe.launch.shared_by == "fsdp":
            for name, value in build_fsdp_arguments(job).items():
                found.put(name, value, "recipe", "launch.distributed")
    put_determinism(found, job)
    return found


def _put_lengths(job: Job, found: ArgumentList) -> None:
    """Add what decides how a cross-encoder reads a pair."""
    why = "shown because it cuts your data: query and document together, in tokens"
    found.put("max_length", WORKER_ARGUMENTS["max_length"].default, "default", why)
    if job.model.family == "decoder":
        found.put_defaults(WORKER_ARGUMENTS, FORMATS, "how query and document are written for an LLM")
    if find_loss(job).facts.answers:
        why = "a text that stands in a batch twice would be its own negative"
        found.put("batch_sampler", "no_duplicates", "orch", why)
    put_lora(job, found, "the head is trained whole")


def put_lora(job: Job, found: ArgumentList, why: str) -> None:
    """Add the adapter's settings, where one is trained."""
    if trains_lora(job):
        found.put_defaults(WORKER_ARGUMENTS, LORA[:3], "PEFT's default")
        found.put("target_modules", WORKER_ARGUMENTS["target_modules"].default, "default", why)


def _build_config(job: Job, trainer: Trainer, values: Mapping[str, Any], *, model: str, data: str) -> dict[str, Any]:
    """Return files/train.json: everything that decides the training, read strictly by the worker."""
    patience = values.get("early_stopping_patience")
    threshold = values.get("early_stopping_threshold", 0.0)
    arguments = {name: value for name, value in values.items() if name not in WORKER_ARGUMENTS}
    if best := arguments.get(_BEST):  # by the library's name
        arguments[_BEST] = trainer.measures(job).get(best, best)
    return {
        "version": 1,
        "model": model,
        "family": job.model.family,
        "trust_remote_code": job.model.trust_remote_code,
        "loss": trainer.build_loss(job, model),
        "form": find_form(job),
        "train": f"{data}/train.jsonl",
        "validation": f"{data}/validation.jsonl" if job.recipe.data.validation_ratio else None,
        **trainer.config(job, values),
        "stable_ratio": values.get("stable_ratio"),
        "early_stopping": None if patience is None else {"patience": patience, "threshold": threshold},
        "deterministic": job.recipe.deterministic,
        **build_lora(values),
        "arguments": arguments,
    }


def trains_lora(job: Job) -> bool:
    """Tell whether the trainer writes an adapter: where the recipe gives a rank."""
    return "lora_rank" in job.recipe.train


def build_lora(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the adapter as the workers read it, under its key; nothing where all weights are trained."""
    if "lora_rank" not in values:
        return {}
    names = [name for name in LORA if name in values or not name.startswith("quant_")]
    return {"lora": {name: values.get(name, WORKER_ARGUMENTS[name].default) for name in names}}


def _build_own_config(job: Job, values: Mapping[str, Any]) -> dict[str, Any]:
    decoder = job.model.family == "decoder"
    return {
        "max_length": values["max_length"],
        "num_labels": 1,
        "format": {name: values[name] for name in FORMATS} if decoder else None,
        "shuffle_ratio": values.get("shuffle_ratio", 0.0),
    }


def build_loss(loss: Loss) -> dict[str, Any]:
    """Return the loss as the worker reads it, every setting with its value."""
    own = find_losses("sentence-transformers", "reranker")
    # the old ones stand in every file, whichever the loss; what came later where it belongs
    known = {name: setting for one in reversed(own) for name, setting in one.settings.items() if name in _ALWAYS}
    known |= loss.facts.settings
    given = {name: getattr(loss, name) for name in Loss.model_fields if name in known}
    return {"type": loss.type} | {
        name: known[name].default if value is None else value for name, value in given.items()
    }


def explain_loss(job: Job) -> tuple[Note, ...]:
    """Return where the loss and each of its settings come from, for `orch render --explain`."""
    loss = find_loss(job)
    origin, why = ("recipe", "loss") if job.recipe.loss else ("default", "each document is judged alone, by its label")
    notes = [Note("train", "loss", loss.type, origin, why)]
    if "labelled" in loss.facts.kinds:
        origin, why = ("recipe", "loss.target") if loss.target else ("default", "what this loss usually learns")
        notes.append(Note("train", "loss.target", find_target(loss), origin, why))
    for name, setting in sorted(loss.facts.settings.items()):
        value = getattr(loss, name)
        if value is None and not setting.shown:
            continue
        origin, why = ("recipe", f"loss.{name}") if value is not None else ("default", setting.meaning)
        told = " + ".join(one.type for one in loss.parts[1:]) if name == "plus" else value
        notes.append(Note("train", f"loss.{name}", str(setting.default if value is None else told), origin, why))
    if loss.guide:
        whose, why = "its own", "the guide's vectors are learnt as its authors make them"
        if loss.facts.in_batch:  # it reads the tokens of the trained model's batch
            whose = "the trained model's"
            why = "the guide reads texts behind the prompts of the model that is trained, never its own"
        notes.append(Note("train", "loss.guide prompts", whose, "default", why))
    return tuple(notes)


def _prepare_loss(job: Job, train: Mapping[str, Any]) -> dict[str, Any]:
    loss = find_loss(job)
    flags: dict[str, Any] = {"loss": loss.type}
    target = find_target(loss)
    if loss.graded:
        flags["graded"] = True
    if target == "teacher" or loss.facts.learns == "teacher":
        flags["target"] = target
    if target == "teacher":
        flags["needs-scores"] = True
    if loss.facts.form == LISTS and "train_group_size" in train:
        flags["train-group-size"] = train["train_group_size"]
    return flags


def _prepare_flags(job: Job, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the prepare stage needs to know of lengths and of the validation rows."""
    flags: dict[str, Any] = {"max-tokens": values["max_length"], "truncation": "cut"}
    if ratio := job.recipe.data.validation_ratio:
        flags["validation-ratio"] = ratio
        if job.world_size() > 1:  # incomplete batches are dropped there too; the worker makes them small enough
            flags["min-validation"] = job.world_size()
        if job.recipe.train.get(_BEST, LOSS) != LOSS and not job.smoke:
            flags["ranks-validation"] = True
    return flags


def _build_scoring(job: Job, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return how a model trained so must be scored: the same pair, or the same written formats, cut at one length."""
    tool, max_length = job.recipe.backend, values["max_length"]
    if job.model.family == "encoder":
        return {"scorer": "cross-encoder", "tool": tool, "prompt": None, "max_length": max_length}
    formats = {name: values[name] for name in FORMATS}
    return {"scorer": "formatted-head", "tool": tool, **formats, "max_length": max_length}


def _check(job: Job, train: Mapping[str, Any]) -> Iterator[Found]:
    """Yield what only this trainer refuses; `train` has the installed version's names and the trainer's types."""
    if job.recipe.data.instruction is not None:
        message = "a cross-encoder of sentence-transformers takes no instruction"
        hint = "write it into train.query_format"
        yield ("data", "instruction"), Problem(message, hint if job.model.family == "decoder" else "remove it")
    yield from check_code(job, "and does not load without it")
    yield from _check_loss(job, train)
    for name in FORMATS if job.model.family == "encoder" else ():
        if name in train:
            message = f"an encoder reads query and document as a pair, with its own separator: it has no {name}"
            yield ("train", name), Problem(message, "remove it; formats are for LLMs")
    yield from check_shared(job, train, MEASURES)
    loss, asked = find_loss(job), train.get(_BEST, LOSS)
    if asked != LOSS and find_target(loss) == "teacher" and loss.facts.form != MARGINS:
        message = f"{_BEST}: {asked} needs relevant documents, and a teacher's scores say of none that it is"
        yield ("train", _BEST), Problem(message, "remove it: the best checkpoint has the lowest validation loss")


def check_shared(job: Job, train: Mapping[str, Any], measures: Mapping[str, str]) -> Iterator[Found]:
    """Yield what both trainers refuse; `measures` are what may find the best checkpoint."""
    yield from _check_schedule(train)
    yield from check_validation(job, train, tuple(TABLE["needs_validation"]))
    stops = "early_stopping_threshold" in train and "early_stopping_patience" not in train
    if stops and job.recipe.data.validation_ratio is not None:
        message = "early_stopping_threshold without early_stopping_patience stops nothing"
        yield ("train", "early_stopping_threshold"), Problem(message, "say early_stopping_patience: 3")
    if job.world_size() > 1 and train.get("dataloader_drop_last") is False:
        message = "with several processes sentence-transformers always drops the last, incomplete batch"
        yield ("train", "dataloader_drop_last"), Problem(message, "remove it; the log says how many rows")
    zero3 = "under ZeRO-3 no process holds whole weights, and sentence-transformers would save pieces of them"
    clash = "its {} would replace those of train: in silence, warm-up and decay included"
    others = "leave them out, or name zero0, zero1 or zero2"
    yield from check_deepspeed(job, zero3=(zero3, "say zero2, zero1 or zero0"), clash=(clash, others))
    if job.recipe.launch.shared_by == "fsdp" and job.model.family == "decoder":
        message = "FSDP is tried with encoders only: an LLM's new head and its embeddings are not split as it expects"
        yield ("launch", "distributed"), Problem(message, "say deepspeed: zero2")
    asked = train.get(_BEST, LOSS)
    if asked not in {LOSS, *measures}:
        message = f"{_BEST}: {asked} is not measured of these rows"
        yield ("train", _BEST), Problem(message, f"say {' or '.join(measures)}")
    yield from check_lora(job, train)


def check_lora(job: Job, train: Mapping[str, Any]) -> Iterator[Found]:
    """Yield settings of an adapter where there is none, and what an adapter cannot be trained with."""
    if not trains_lora(job):
        for name in LORA:
            if name in train:
                message = f"{name} without lora_rank: nothing says that an adapter is trained"
                yield ("train", name), Problem(message, "say lora_rank: 16, or remove it: all weights are trained")
    elif job.recipe.launch.shared_by == "fsdp":
        message = "FSDP gathers a whole model when it saves, and no adapter"
        hint = "remove it, or remove lora_rank: an adapter needs little memory"
        yield ("launch", "distributed"), Problem(message, hint)
    elif job.model.quantization is not None:
        message = f"{job.model.name} is quantised ({job.model.quantization}), and this trainer loads whole weights"
        yield ("model",), Problem(message, "name the model that it was made from")
    else:
        yield from _check_quantising(job, train)


def _check_quantising(job: Job, train: Mapping[str, Any]) -> Iterator[Found]:
    """Yield why the weights beside an adapter cannot be loaded in 4 or 8 bits."""
    asked = (train.get("quant_method"), train.get("quant_bits"))
    if asked == (None, None):
        return
    if asked[0] != "bnb" or asked[1] not in {4, 8}:
        message = f"quant_method {asked[0]} with quant_bits {asked[1]}: the weights are loaded in 4 or 8 bits by bnb"
        yield ("train", "quant_method"), Problem(message, "say quant_method: bnb and quant_bits: 4")
    if job.recipe.task == "reranker":
        message = "a reranker's head is trained whole, and this trainer quantises embedding models only"
        yield ("train", "quant_method"), Problem(message, "remove quant_method and quant_bits; or say backend: swift")
    if job.hardware.kind == "cpu" and not job.smoke:
        message = "quantised weights are trained on a GPU, and there is none"
        yield ("train", "quant_method"), Problem(message, "remove it")
    if job.recipe.deepspeed is not None:
        message = "DeepSpeed and quantised weights are not tried together"
        yield ("deepspeed",), Problem(message, "remove one of the two: an adapter's optimizer is small")


def _check_loss(job: Job, train: Mapping[str, Any]) -> Iterator[Found]:
    """Yield what is wrong with the loss: another backend's, settings that it does not have, a target that it cannot."""
    loss, known = job.loss or find_loss(job), list_losses(job.recipe.backend, job.recipe.task)
    if loss.type not in known:
        message = f"the loss {loss.type} is not one of sentence-transformers' cross-encoders"
        yield ("loss",), Problem(message, f"one of {', '.join(known)}; left out, it is {_DEFAULT}")
        return
    yield from check_settings(loss, TABLE["hints"]["reranker"])
    if "train_group_size" in train and loss.facts.form != LISTS:
        message = f"{loss.type} learns no lists: there is no group to bound"
        yield ("train", "train_group_size"), Problem(message, "remove it, or take a loss over lists")
    batch = int(train.get("per_device_train_batch_size", 8))
    if loss.facts.answers and batch == 1:
        message = f"a batch of one row has no other rows, which are negatives of {loss.type}"
        hint = "say 16 or more; loss: cached_mnrl trains large batches in the memory of small ones"
        yield ("train", "per_device_train_batch_size"), Problem(message, hint)
    if find_target(loss) == "teacher":
        yield from _check_teacher(job, loss)
    elif job.recipe.teacher is not None:
        message = "the teacher's scores would be computed and not learnt: the loss learns labels"
        yield ("teacher",), Problem(message, "say loss: {type: margin_mse}, or loss.target: teacher, or remove it")


def _check_teacher(job: Job, loss: Loss) -> Iterator[Found]:
    if loss.facts.answers:
        message = f"a teacher's scores say of no document that it is the answer, which {loss.type} learns"
        yield ("loss", "target"), Problem(message, _HARD_TO_REACH)
    elif loss.type == "listwise_ce" and not loss.graded:
        message = "a teacher's scores are no single positive, which listwise_ce learns unless it is graded"
        yield ("loss", "target"), Problem(message, _HARD_TO_REACH)
    elif job.recipe.teacher is not None and not loss.facts.reads_logits:
        message = f"a teacher's scores are logits, of any size, and {loss.type} learns numbers from 0 to 1"
        yield ("loss", "target"), Problem(message, _HARD_TO_REACH)
    if job.recipe.teacher is not None and loss.activation == "sigmoid":
        message = "a teacher's scores are logits: a score that passed a sigmoid never reaches them"
        yield ("loss", "activation"), Problem(message, "say activation: identity")


def _check_schedule(train: Mapping[str, Any]) -> Iterator[Found]:
    stable, scheduler = train.get("stable_ratio"), train.get("lr_scheduler_type")
    if stable is None:
        if scheduler == _STABLE and "lr_scheduler_kwargs" not in train:
            message = f"{_STABLE} does not know how long the learning rate stays"
            yield ("train", "lr_scheduler_type"), Problem(message, "say stable_ratio: 0.4, a share of the steps")
        return
    if scheduler not in {None, _STABLE}:
        message = f"stable_ratio is a part of {_STABLE}, and lr_scheduler_type is {scheduler}"
        yield ("train", "lr_scheduler_type"), Problem(message, "remove one of the two")
    if "lr_scheduler_kwargs" in train:
        message = "stable_ratio decides the schedule's steps, and lr_scheduler_kwargs gives them too"
        yield ("train", "lr_scheduler_kwargs"), Problem(message, "remove one of the two")
    warmup = train.get("warmup_ratio") or train.get("warmup_steps") or 0
    if warmup < 1 and warmup + stable > 1:
        message = f"warm-up {warmup} and stable_ratio {stable} are more than all steps"
        yield ("train", "stable_ratio"), Problem(message, "together at most 1; what is left is the decay")


_CROSS_ENCODER = Trainer(
    "train_cross_encoder",
    _put_lengths,
    lambda _: MEASURES,
    _build_own_config,
    lambda job, _: build_loss(find_loss(job)),
    _prepare_loss,
    _build_scoring,
)

BACKEND = Backend(
    name="sentence-transformers",
    title="sentence-transformers",
    trainers="sentence-transformers' trainer and its worker",
    distributions=("sentence-transformers", "torch", "transformers", "accelerate", "datasets"),
    tasks=("reranker", "embedding"),
    own_modules={"embedding": "orchestrator.backends.sentence_transformers_embedders"},
    kind="labelled",
    loads="float32",
    lora={"lora_rank": 16},
    lora_families=("encoder", "decoder"),
    layer_kinds=frozenset({"all-linear"}),
    evaluates=True,
    starts_fsdp=True,
    reads_patterns=False,  # Orch's worker opens the rows, and hands datasets what was in them
    other_models="BAAI/bge-reranker-v2-m3 or Qwen/Qwen3-Reranker-0.6B",
    remedies=Remedies(batch=8, lengths={"max_length": 512}),
    snapshots=("sentence_transformers",),
    own_arguments=WORKER_ARGUMENTS | CHOICES,
    reserved=TABLE["reserved"],
    others=_OTHERS,
    at_least=TABLE["at_least"],
    check_values=_check_values,
    trains_lora=trains_lora,
    data_form=find_form,
    check_job=lambda job: check_trainer(job, _check, conditions=CONDITIONS),
    smoke_scale=build_smoke_scale,
    build_training=partial(build_training, trainer=_CROSS_ENCODER),
)
