"""Embedding models with sentence-transformers' SentenceTransformerTrainer: what only they have, and what is refused."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from orchestrator.backends.embeddings import Embedding, find_guide_problem, read_own, settle_embedding
from orchestrator.backends.models import find_model
from orchestrator.backends.protocol import Found, Job, SmokeScale, Training
from orchestrator.backends.sentence_transformers import BACKEND as CROSS_ENCODERS
from orchestrator.backends.sentence_transformers import (
    CHOICES,
    CONDITIONS,
    SHARED_ARGUMENTS,
    TABLE,
    WORKER_ARGUMENTS,
    Trainer,
    build_smoke_scale,
    build_training,
    check_shared,
    find_form,
    find_loss,
    put_lora,
)
from orchestrator.backends.trainer import TINY_HIDDEN_SIZE, ArgumentList, shrink_sizes
from orchestrator.backends.trainer_checks import check_settings, check_trainer
from orchestrator.errors import OrchError, Problem
from orchestrator.recipe.losses import CLASSES, COMPARED, GROUPS, SCORES, find_losses, find_own_loss, list_losses
from orchestrator.recipe.schema import Loss, ModelRef

_OF_RERANKERS = {
    name: Problem(f"{name} is of rerankers, and the recipe trains an embedding model", "remove it")
    for name in WORKER_ARGUMENTS.keys() - SHARED_ARGUMENTS
}
_HUB_ID = re.compile(r"[\w-][\w.-]*/[\w.-]+")
SEVERAL = "multi_dataset_batch_sampler"
_OF_WHOLE = ("plus", "hard_negatives", "matryoshka_dims", "n_layers_per_step")  # what no added loss has for itself
_CHOOSE = "mnrl for queries with answers, cosent for pairs with scores, margin_mse for a teacher's scores"


def _put(job: Job, found: ArgumentList) -> None:
    """Add what decides how a text is read, and how rows become batches."""
    why = "shown because it cuts your data: each text with its prompt, in tokens"
    found.put("max_length", SHARED_ARGUMENTS["max_length"].default, "default", why)
    if any(one.facts.in_batch for one in find_loss(job).parts):
        why = "a text that stands in a batch twice would be its own negative"
        found.put("batch_sampler", "no_duplicates", "orch", why)
    elif find_form(job) == CLASSES:
        found.put("batch_sampler", "group_by_label", "orch", "each batch has two texts and more of several classes")
    put_lora(job, found, "every linear layer")


def _name_measures(job: Job) -> dict[str, str]:
    """Return what may find the best checkpoint: the order of pairs, or queries that search the validation documents."""
    if find_loss(job).facts.measured_by_loss:
        return dict(TABLE["measures"]["classes"])
    return dict(TABLE["measures"]["compares" if find_form(job) == COMPARED else "ranks"])


def find_width(job: Job) -> int | None:
    """Return how long the trained vectors are, where the recipe or the model's config says it."""
    dense = job.recipe.model.dense
    return job.model.hidden_size if dense is None else dense.out_features


def find_embedding(job: Job) -> Embedding:
    """Return how the model embeds, and asks the recipe's task; of one that is refused, any way."""
    found = settle_embedding(job.model, job.recipe.model)
    if not isinstance(found, Embedding):
        return Embedding("mean", normalize=True)
    task = job.recipe.data.instruction
    return replace(found, query=found.instruct.replace("{}", task)) if task else found


def _build_config(job: Job, values: Mapping[str, Any]) -> dict[str, Any]:
    changes = job.recipe.model.model_dump(mode="json", include=set(job.recipe.model.changes))
    told = {"max_length": values["max_length"], **find_embedding(job).scoring(), **changes}
    sources = name_sources(job)
    more = {name: _build_loss(one, "") for name, one in list_set_jobs(job).items()}
    return {"embedding": told, **({"sources": sources} if sources else {}), **({"more": more} if more else {})}


def list_set_jobs(job: Job) -> dict[str, Job]:
    """Return each further training set as a job of that set alone, by its name."""
    found: dict[str, Job] = {}
    for name, one in job.recipe.data.more.items():
        loss = one.loss.of(job.recipe.backend, job.recipe.task)
        data = job.recipe.data.model_copy(update={"train": one.files, "more": {}})
        train = {name: value for name, value in job.recipe.train.items() if name != SEVERAL}
        recipe = job.recipe.model_copy(update={"data": data, "loss": loss, "train": train})
        alone = replace(job, recipe=recipe, kind="group" if "group" in loss.facts.kinds else "pair")
        found[name] = replace(alone, recipe=recipe.model_copy(update=_shrink_loss(loss))) if job.smoke else alone
    return found


def _build_training(job: Job, *, model: str, data: str, output: str) -> Training:
    training = build_training(job, _EMBEDDER, model=model, data=data, output=output)
    told = {name: training.prepare[name] for name in ("max-tokens", "truncation")}
    more = {
        name: {"kind": one.kind, "form": find_form(one), "flags": told | _build_prepare(one, {})}
        for name, one in list_set_jobs(job).items()
    }
    return replace(training, more=more, flat_loss=None) if more else training


def name_sources(job: Job) -> list[str]:
    """Return the names of the files that each make batches of their own, where the recipe says how they take turns."""
    if SEVERAL not in job.recipe.train or len(job.recipe.data.train) == 1:
        return []
    stems = [re.sub(r"[^A-Za-z0-9_-]", "-", Path(name).stem) for name in job.recipe.data.train]
    return [f"{number:03d}-{stem}.jsonl" for number, stem in enumerate(stems)]


def _build_prepare(job: Job, values: Mapping[str, Any]) -> dict[str, Any]:  # noqa: ARG001  the signature of all tasks
    """Return what the prepare stage needs to write the rows that the loss reads, and to refuse others."""
    loss, embedding = find_loss(job), find_embedding(job)
    flags: dict[str, Any] = {"loss": loss.type}
    if loss.facts.learns == "teacher":
        flags["needs-scores"] = True
    if loss.hard_negatives:
        flags["hard-negatives"] = loss.hard_negatives
    if loss.translations:
        flags["translations"] = True
    if loss.num_labels:
        flags["num-labels"] = loss.num_labels
    if sources := name_sources(job):
        flags["by-source"] = sources
    prompts = {"query-instruction": embedding.query, "passage-instruction": embedding.document}
    return flags | {flag: prompt for flag, prompt in prompts.items() if prompt}


def _build_scoring(job: Job, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return how a model trained so must be scored: its own pooling and prompts, cut at the training's length."""
    dims = find_loss(job).matryoshka_dims
    return {
        "scorer": "embedding",
        "tool": job.recipe.backend,
        "max_length": values["max_length"],
        **find_embedding(job).scoring(),
        "truncate_dim": None,
        "mrl_dims": sorted(dims, reverse=True) if dims else [],
    }


def _check(job: Job, train: Mapping[str, Any]) -> Iterator[Found]:
    """Yield what only this trainer refuses; `train` has the installed version's names and the trainer's types."""
    yield from check_shared(job, train, _name_measures(job))
    found = settle_embedding(job.model, job.recipe.model)
    if job.recipe.data.instruction is not None and isinstance(found, Embedding) and not found.instruct:
        message = f"{job.model.name} takes no task in front of its queries"
        yield ("data", "instruction"), Problem(message, "remove it; a prompt of the model's own is model.prompts")
    if isinstance(found, Embedding) and found.suffix:
        message = f"{job.model.name} has {found.suffix!r} behind its queries, which no prompt of the library says"
        yield ("model",), Problem(message, "say backend: flagembedding, or name another model")
    loss, known = job.loss, list_losses(job.recipe.backend, job.recipe.task)
    if loss is None:
        yield ("loss",), Problem("no loss is named, and none fits every kind of rows", f"say loss: {_CHOOSE}")
    elif loss.type not in known:
        message = f"the loss {loss.type} is not one of sentence-transformers' embedding models"
        own = find_own_loss(loss.type, job.recipe.backend, job.recipe.task)
        yield ("loss",), Problem(message, own or f"one of {', '.join(known)}")
    else:
        yield from check_settings(loss, TABLE["hints"]["embedding"])
        yield from _check_loss(job, loss, train)
        if loss.facts.measured_by_loss and job.recipe.data.eval_ratio is not None:
            message = f"eval_ratio would set pairs of {loss.type} aside, whose classes are no similarity to measure by"
            yield ("data", "eval_ratio"), Problem(message, "say data.eval: a file of pairs with scores")
        for name, one in list_set_jobs(job).items():
            yield from _check_set(job, name, one, train)
    if (job.recipe.data.more or name_sources(job)) and job.recipe.watch.on_oom == "retry":
        message = "on_oom: retry halves the batch, and a step would then hold rows of several sets"
        yield ("watch", "on_oom"), Problem(message, "remove it, and choose a batch that fits")


def _check_loss(job: Job, loss: Loss, train: Mapping[str, Any]) -> Iterator[Found]:
    if not loss.facts.kinds:
        message = f"{loss.type} spreads vectors out, and alone teaches nothing"
        yield ("loss",), Problem(message, f"say loss: {{type: mnrl, plus: [{loss.type}]}}")
    elif job.kind not in loss.facts.kinds:
        what = "pairs of texts" if job.kind == "pair" else "queries with documents"
        asks = {COMPARED: "labels of pairs", CLASSES: "texts with classes (text, label)"}.get(loss.facts.form)
        asks = asks or "queries with positives and negatives"
        yield ("loss",), Problem(f"{loss.type} learns {asks}, and the rows are {what}", _CHOOSE)
    if "guide" in loss.facts.settings and loss.guide is None:
        why = "asks a stronger embedding model which negatives are none"
        why = why if loss.facts.in_batch else "learns the vectors of a stronger embedding model"
        message = f"{loss.type} {why}, and none is named"
        yield ("loss",), Problem(message, f"say loss: {{type: {loss.type}, guide: BAAI/bge-m3}}")
    elif loss.guide and not _HUB_ID.fullmatch(loss.guide) and not (job.recipe_folder / loss.guide).is_dir():
        message = f"the guide {loss.guide} is neither a folder nor a hub id"
        yield ("loss", "guide"), Problem(message, f"paths start from {job.recipe_folder}; hub ids read owner/name")
    elif loss.guide and (problem := _check_guide(job, loss)):
        yield ("loss", "guide"), problem
    taught = loss.facts.form == SCORES
    if job.recipe.teacher is not None and not taught:
        message = "the teacher's scores would be computed and not learnt: the loss learns no scores"
        hint = "say loss: margin_mse or distill_kl, or remove it"
        if loss.guide and not loss.facts.in_batch:
            hint = "remove it: the embedding model whose vectors are learnt is loss.guide"
        yield ("teacher",), Problem(message, hint)
    yield from _check_own_weights(job, loss)
    yield from _check_sum(loss)
    yield from _check_batch(job, loss, train)
    alone = len(job.recipe.data.train) == 1 and not job.recipe.data.more
    if SEVERAL in train and (job.recipe.teacher is not None or alone):
        why = "the teacher's scores are written into one file" if job.recipe.teacher else "data.train is one file"
        yield ("train", SEVERAL), Problem(f"{SEVERAL} says how several sets take turns, and {why}", "remove it")
    yield from _check_dims(job, loss)
    if loss.gather_across_devices and job.world_size() == 1:
        message = "gather_across_devices takes the rows of other processes, and there is one"
        yield ("loss", "gather_across_devices"), Problem(message, "remove it")


def _check_guide(job: Job, loss: Loss) -> Problem | None:
    """Return why the guide cannot be asked or its vectors not be learnt, for what its folder or its name tells."""
    try:
        model = find_model(ModelRef(path=loss.guide), job.recipe_folder, otherwise="encoder")
    except OrchError as error:
        return error.problems[0]
    problem, widths = find_guide_problem(model), (loss.projection_dim or find_width(job), model.hidden_size)
    asked = (model,) if loss.projection_dim else (job.model, model)
    plain = not any(isinstance(own := read_own(one), Embedding) and own.layered for one in asked)
    learnt = plain and not loss.facts.in_batch and None not in widths
    if problem is None and learnt and widths[0] != widths[1] and not job.smoke:
        whose = "projections" if loss.projection_dim else f"the vectors of {job.model.name}"
        message = f"{whose} have {widths[0]} dimensions, and those of the guide {widths[1]}"
        return Problem(message, f"say embed_distill with projection_dim: {widths[1]}, or name another guide")
    return problem


def _check_own_weights(job: Job, loss: Loss) -> Iterator[Found]:
    """Yield what a loss cannot be trained with that has weights beside the model's, or without what it asks for."""
    if loss.facts.has_weights and (job.world_size() > 1 or job.recipe.deepspeed is not None):
        message = f"{loss.type} has weights of its own, which no process shares with another"
        yield ("loss",), Problem(message, "launch: {nproc_per_node: 1}, without deepspeed")
    if (loss.type == "embed_distill" or loss.facts.form == CLASSES) and loss.distance_metric == "manhattan":
        message = f"{loss.type} compares vectors by cosine or euclidean distance"
        yield ("loss", "distance_metric"), Problem(message, "say cosine or euclidean")
    if loss.type == "softmax" and loss.num_labels is None:
        message = "softmax learns classes of pairs, and nothing says how many there are"
        yield ("loss",), Problem(message, "say loss: {type: softmax, num_labels: 3} for classes 0, 1 and 2")


def _check_sum(loss: Loss) -> Iterator[Found]:
    """Yield what cannot be added to the loss: the others read the vectors and labels of its rows."""
    key = ("loss", "plus")
    if loss.weight is not None:
        yield ("loss", "weight"), Problem("weight is of a loss that is added to another", "say it in loss.plus")
    for place, one in enumerate(loss.plus or ()):
        form = one.facts.form
        reads = not one.facts.kinds or form == loss.facts.form or (form == GROUPS and loss.facts.form == SCORES)
        if not one.facts.adds or not reads or one.type in [other.type for other in loss.parts[: place + 1]]:
            others = [facts.name for facts in find_losses("sentence-transformers", "embedding") if facts.adds]
            message = f"{one.type} cannot be added to {loss.type}: it reads other rows, or is there already"
            yield key, Problem(message if one.facts.adds else f"{one.type} cannot be added", f"of {', '.join(others)}")
        for name in _OF_WHOLE:
            if getattr(one, name) is not None:
                yield key, Problem(f"{name} is of the whole loss, and {one.type} is a part of it", "say it beside plus")
        yield from ((key, problem) for _, problem in check_settings(one, TABLE["hints"]["embedding"]))


def _check_set(job: Job, name: str, one: Job, train: Mapping[str, Any]) -> Iterator[Found]:
    key, loss = ("data", "more", name), one.recipe.loss
    known = list_losses(job.recipe.backend, job.recipe.task)
    if loss is None or loss.type not in known:
        message = f"the loss of {name} is not one of sentence-transformers' embedding models"
        yield (*key, "loss"), Problem(message, f"one of {', '.join(known)}")
    elif loss.guide or job.recipe.teacher or loss.facts.form == SCORES or CLASSES in {loss.facts.form, find_form(job)}:
        message = "further sets learn neither from a teacher nor from a guide or classes, and not beside classes"
        yield (*key, "loss"), Problem(message, "make it the set of data.train, with loss beside data, or remove it")
    else:
        rest = {argument: value for argument, value in train.items() if argument != SEVERAL}
        found = [*check_settings(loss, TABLE["hints"]["embedding"]), *_check_loss(one, loss, rest)]
        yield from (((*key, *path), problem) for path, problem in found)


def _check_batch(job: Job, loss: Loss, train: Mapping[str, Any]) -> Iterator[Found]:
    batch = int(train.get("per_device_train_batch_size", 8))
    alone = batch == 1 and not (loss.gather_across_devices and job.world_size() > 1)
    if any(one.facts.in_batch or one.type == "gor" for one in loss.parts) and alone and not loss.hard_negatives:
        message = f"a batch of one row has no other rows, which are the negatives of {loss.type}: its loss is always 0"
        hint = "say 16 or more; loss: cached_mnrl trains large batches in the memory of small ones"
        yield ("train", "per_device_train_batch_size"), Problem(message, hint)
    if loss.facts.form == CLASSES and (batch < 4 or batch % 2):  # noqa: PLR2004 - two texts of two classes
        message = f"a batch of {batch} rows: {loss.type} needs two texts of two classes at least, and an even number"
        yield ("train", "per_device_train_batch_size"), Problem(message, "say 32 or more")
    if any(one.facts.in_batch for one in loss.parts) and train.get("batch_sampler") == "group_by_label":
        message = f"group_by_label gathers rows of one label, and {loss.type} takes a batch's other rows for negatives"
        yield ("train", "batch_sampler"), Problem(message, "remove it: no text stands in a batch twice then")
    if loss.mini_batch_size and loss.mini_batch_size > batch:
        message = f"mini_batch_size is {loss.mini_batch_size}, and the batch has {batch} rows"
        yield ("loss", "mini_batch_size"), Problem(message, "raise per_device_train_batch_size: that is what it is for")


def _check_dims(job: Job, loss: Loss) -> Iterator[Found]:
    width = find_width(job)
    for size in sorted(loss.matryoshka_dims or (), reverse=True):
        if size < 1 or (width and size > width and not job.smoke):
            bounds = f"1 to {width}" if width else "1 on"
            message = f"matryoshka_dims has {size}, and the vectors of {job.model.name} have sizes from {bounds}"
            yield ("loss", "matryoshka_dims"), Problem(message, f"say [{width}, {max(width // 2, 1)}]" if width else "")


def _build_loss(job: Job, model: str, loss: Loss | None = None) -> dict[str, Any]:
    """Return the job's loss, or a part of it, as its worker reads it, every setting with its value.

    A guide is a hub id or the path of a folder, and with `--smoke` the tiny model itself.
    """
    loss = loss or find_loss(job)
    settings = loss.facts.settings.items()
    given = {name: getattr(loss, name) for name, _ in settings}
    built = {
        name: setting.default if given[name] is None else given[name]
        for name, setting in settings
        if setting.shown or given[name] is not None
    }
    if guide := built.get("guide"):
        folder = job.recipe_folder / guide
        built["guide"] = model if job.smoke else str(folder.resolve()) if folder.is_dir() else guide
    if dims := built.get("matryoshka_dims"):
        built["matryoshka_dims"] = {str(size): weight for size, weight in dims.items()}
    if loss.plus:
        parts = (_build_loss(job, model, one) for one in loss.plus)
        built["plus"] = [{name: value for name, value in one.items() if name not in _OF_WHOLE} for one in parts]
    return {"type": loss.type, **built}


def _smoke_scale(job: Job) -> SmokeScale:
    alone, told = build_smoke_scale(job), job.recipe.model
    tiny: dict[str, Any] = {"layers": (0,)} if told.layers else {}
    if told.dense:
        tiny["dense"] = told.dense.model_copy(update={"out_features": TINY_HIDDEN_SIZE})
    if find_form(job) == CLASSES:  # two texts of a class must be among the rows, and in a batch
        alone = replace(alone, train=alone.train | {"per_device_train_batch_size": 4}, limit_train=64, limit_eval=64)
    recipe = _shrink_loss(job.recipe.loss) | ({"model": told.model_copy(update=tiny)} if tiny else {})
    return replace(alone, recipe=recipe, leave_out=alone.leave_out | {SEVERAL})  # few rows may be of one file


def _shrink_loss(loss: Loss | None) -> dict[str, Any]:
    """Return the part of a recipe that holds the loss as a tiny model can learn it; nothing where none is named."""
    if loss is None:
        return {}
    changed: dict[str, Any] = shrink_sizes(loss, "matryoshka_dims")
    if loss.mini_batch_size:
        changed["mini_batch_size"] = 1
    if loss.projection_dim:
        changed["projection_dim"] = TINY_HIDDEN_SIZE  # the guide is the tiny model itself
    return {"loss": loss.model_copy(update=changed)}


_EMBEDDER = Trainer("train_embedding", _put, _name_measures, _build_config, _build_loss, _build_prepare, _build_scoring)

BACKEND = replace(
    CROSS_ENCODERS,
    trainers="sentence-transformers' trainer of embedding models and its worker",
    own_modules={},
    kind=None,
    changes_models=True,
    takes_sets=True,
    starts_fsdp=False,
    other_models="",
    reserved={name: why for name, why in CROSS_ENCODERS.reserved.items() if name != SEVERAL}
    | TABLE["reserved_for_embeddings"],
    own_arguments=SHARED_ARGUMENTS | CHOICES,
    others={**CROSS_ENCODERS.others, **_OF_RERANKERS},
    at_least={name: least for name, least in CROSS_ENCODERS.at_least.items() if name not in _OF_RERANKERS},
    data_form=find_form,
    check_job=lambda job: check_trainer(job, _check, conditions=CONDITIONS),
    smoke_scale=_smoke_scale,
    build_training=_build_training,
)
