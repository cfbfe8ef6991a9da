"""FlagEmbedding's trainers of embedding models: BERT-like ones, bge-m3 with its heads, LLMs (with examples in queries).

Sources: FlagEmbedding/finetune/embedder and abc/finetune/embedder of 1.4.2. Each query's positive is told from its own
negatives and from the documents of the other rows in its batch.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from orchestrator.backends.arguments import load_arguments, load_words
from orchestrator.backends.embeddings import Embedding, settle_embedding
from orchestrator.backends.flagembedding import BACKEND as RERANKERS
from orchestrator.backends.flagembedding import (
    CONDITIONS,
    LORA_OF_ENCODERS,
    SMOKE_LEAVES_OUT,
    OwnArgument,
    build_training,
    check_common,
    find_lengths,
    put_arguments,
    shrink_train,
    trains_lora,
)
from orchestrator.backends.known_models import find_embeds
from orchestrator.backends.protocol import Found, Job, SmokeScale, Training
from orchestrator.backends.trainer import ArgumentList
from orchestrator.backends.trainer_checks import check_trainer
from orchestrator.errors import Problem
from orchestrator.machine.rundir import RunDir
from orchestrator.recipe.losses import log_of
from orchestrator.recipe.plan import Note

_MODULE = "FlagEmbedding.finetune.embedder."
# Each trainer: its module and the snapshot of its arguments.
_TRAINERS = {
    "encoder": ("encoder_only.base", "flagembedding.embedder_encoder_only"),
    "m3": ("encoder_only.m3", "flagembedding.embedder_m3"),
    "decoder": ("decoder_only.base", "flagembedding.embedder_decoder_only"),
    "icl": ("decoder_only.icl", "flagembedding.embedder_icl"),
}
# bge-en-icl's, whose queries have examples of the batch in front and a mark behind
_OF_ICL = ("icl_suffix_str", "retrieval_use_examples", "example_query_max_len", "example_passage_max_len")
# nothing without the first of _OF_M3
_OF_HEADS = ("use_self_distill", "self_distill_start_step", "fix_encoder", "colbert_dim")
_OF_M3 = ("unified_finetuning", *_OF_HEADS)
_PARTS = ("sparse", "colbert", "sum")
_WORDS = load_words("flagembedding")
_POOLINGS = {"cls": "cls", "mean": "mean", "lasttoken": "last_token"}  # the house's word → FlagEmbedding's
# What needs other processes, the rows of every file, or tokens of a real vocabulary.
_NOT_IN_SMOKE = {
    "negatives_cross_device", "same_dataset_within_batch", "small_threshold", "drop_threshold",
    "additional_special_tokens",
}  # fmt: skip
_NO_BATCH = "no_in_batch_neg"
_SIDES = ("query", "passage")


def _find_trainer(job: Job) -> str:
    """Return which trainer it is: that of bge-m3 only where its heads are meant, for it reads them from pickles."""
    train = job.backend.type_all(job.recipe.train)
    if job.model.family == "encoder" and any(train.get(name) not in {None, False, -1} for name in _OF_M3):
        return "m3"
    listed = find_embeds(job.model.name)
    marks = listed is not None and bool(listed.suffix)  # something stands behind its queries
    if job.model.family == "decoder" and (marks or any(name in train for name in _OF_ICL)):
        return "icl"
    return job.model.family


def _batches_by_file(job: Job) -> bool:
    """Tell whether each file makes batches of its own; with examples there is no other way."""
    return _find_trainer(job) == "icl" or bool(job.backend.type_all(job.recipe.train).get("same_dataset_within_batch"))


def _has_heads(job: Job) -> bool:
    """Tell whether bge-m3's sparse and ColBERT weights are trained, and so kept."""
    return bool(job.backend.type_all(job.recipe.train).get("unified_finetuning"))


def _check_values(train: Mapping[str, Any]) -> Iterator[tuple[str, Problem]]:
    if train.get("temperature", 1) <= 0:
        yield "temperature", Problem("temperature divides every score: it lies above 0", "0.02 is usual")
    if train.get("use_mrl") and not train.get("mrl_dims"):
        yield "use_mrl", Problem("use_mrl without mrl_dims ends the training at once", "say mrl_dims: [1024, 512, 256]")
    for name in ("query_instruction_format", "passage_instruction_format"):
        if name in train and _read_format(train[name], "\0") is None:
            message = f"{name}: {train[name]!r} puts no instruction in front of a text, and then the text as it is"
            yield name, Problem(message, "such as '{}{}': what stands behind the text no other library would put there")


def _read_format(form: str, instruction: str) -> str | None:
    """Return what a format puts in front of a text; None for one that is none, or puts something behind it."""
    try:
        made = form.replace("\\n", "\n").format(instruction, "\1")
    except (IndexError, KeyError, ValueError):
        return None
    prefix = made.removesuffix("\1")
    return prefix if prefix != made and "\1" not in prefix and instruction in prefix else None


def _find_prompts(values: Mapping[str, Any]) -> dict[str, str]:
    """Return what stands in front of queries and of documents in the training."""
    instructions = [values.get(f"{side}_instruction_for_retrieval") or "" for side in _SIDES]
    forms = [values.get(f"{side}_instruction_format", "{}{}") for side in _SIDES]
    query, document = (
        (_read_format(form, one) if one else "") or "" for form, one in zip(forms, instructions, strict=True)
    )
    # a query's format is used with an instruction, were it empty; a passage's is left out without one
    return {"query_prompt": query or forms[0].replace("\\n", "\n").format("", ""), "document_prompt": document}


def _list_own(job: Job) -> list[OwnArgument]:
    """Return the arguments that only these trainers have: prompts, pooling, and the loss's own."""
    known, found = load_arguments(job.backend.find_snapshot(job)), settle_embedding(job.model, job.recipe.model)
    own = found if isinstance(found, Embedding) else Embedding("cls", normalize=True)  # which is refused before
    shown = "FlagEmbedding's default, shown because it decides what is learnt"
    why = "the model's own prompt" if own.query else "left out, rows' own prompts would be too"
    document = [("passage_instruction_for_retrieval", own.document, "orch", "the model's own prompt")]
    icl: list[OwnArgument] = []
    if "icl_suffix_str" in known:
        alone = "its data set has batches of one file only, and ends at once without"
        icl = [("same_dataset_within_batch", True, "orch", alone)]
        icl += [(name, known[name].default, "default", shown) for name in _OF_ICL[1:]]
        mark = own.suffix or known["icl_suffix_str"].default
        icl += [("icl_suffix_str", mark, "orch" if own.suffix else "default", "stands behind every query")]
    pooling, says = _POOLINGS.get(own.pooling, "cls"), "as the model's own files, its authors or the recipe say"
    return [
        ("query_instruction_for_retrieval", own.query, "orch", why),
        *(document if own.document else []),
        *icl,
        ("sentence_pooling_method", pooling, "orch", says),
        ("normalize_embeddings", True, "orch", "cosines are learnt, and measured"),
        ("temperature", known["temperature"].default, "default", shown),
    ]


def _build_training(job: Job, *, model: str, data: str, output: str) -> Training:
    trainer, found = _find_trainer(job), ArgumentList(job.backend.translate(job))
    sources = _name_sources(job)
    files = [f"{data}/{RunDir(Path()).train_sources.name}/{name}" for name in sources] or [f"{data}/train.jsonl"]
    put_arguments(job, found, _list_own(job), model=model, train_files=files, output=output)
    values, folder = found.values(), job.model.folder
    heads = [folder / f"{name}_linear.pt" for name in ("sparse", "colbert")] if folder and not job.smoke else []
    return build_training(
        job,
        found,
        _MODULE + _TRAINERS[trainer][0],
        output=output,
        notes=_explain(values),
        resumes=not values.get("same_dataset_within_batch"),
        prepare=_prepare_flags(values) | ({"by-source": sources} if sources else {}),
        scoring=_build_scoring(job, values),
        parts=_PARTS if _has_heads(job) else (),
        base_has_parts=all(path.is_file() for path in heads),  # of a model that is not here nothing is known to lack
        flat_loss=_find_flat_loss(job, trainer, values),
    )


def _name_sources(job: Job) -> list[str]:
    """Return the names of the files that each make batches of their own (same_dataset_within_batch), none without.

    What FlagEmbedding knows by the end of a folder's name, no_in_batch_neg, goes along: there a query is told from its
    own negatives alone.
    """
    if not _batches_by_file(job):
        return []
    paths = [Path("rows.jsonl")] if job.teacher else [Path(name) for name in job.recipe.data.train]
    alone = [any(part.endswith(_NO_BATCH) for part in (path.stem, path.parent.name)) for path in paths]
    stems = [re.sub(r"[^A-Za-z0-9_-]", "-", path.stem).removesuffix(_NO_BATCH).rstrip("-_") for path in paths]
    numbered = enumerate(zip(stems, alone, strict=True))
    return [f"{number:03d}-{stem}{f'-{_NO_BATCH}' if own else ''}.jsonl" for number, (stem, own) in numbered]


def _explain(values: Mapping[str, Any]) -> tuple[Note, ...]:
    """Return what the trainer makes of a teacher's scores (AbsEmbedderModel.distill_loss), and when it cannot go on."""
    notes = []
    if values.get("knowledge_distillation"):
        why = "a distance to the softmax of these: give logits, not probabilities"
        if values.get("kd_loss_type", "kl_div") == "kl_div":
            why = f"the loss without them, plus {why}"
        notes.append(Note("train", "pos_scores, neg_scores", "softmax over each group", "default", why))
    elif "kd_loss_type" in values:
        why = "without knowledge_distillation no teacher's scores are learnt"
        notes.append(Note("train", "kd_loss_type", "not used", "default", why))
    if values.get("same_dataset_within_batch"):
        why = "its batches are drawn from the start again, so that a stopped training starts anew"
        notes.append(Note("train", "resume_from_checkpoint", "never", "default", why))
    if "\\n" in values.get("icl_suffix_str", ""):
        why = r"FlagEmbedding makes no line break of \n here, as it does in query_instruction_format"
        notes.append(Note("train", "icl_suffix_str", "as it stands", "default", why))
    return tuple(notes)


def _prepare_flags(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the prepare stage needs to count the tokens that the trainer will cut."""
    prompts = _find_prompts(values)
    flags: dict[str, Any] = {"apart": True} | {f"{side}-max-len": int(values[f"{side}_max_len"]) for side in _SIDES}
    for side, prompt in zip(_SIDES, prompts.values(), strict=True):
        if prompt:
            flags[f"{side}-instruction"] = prompt
    if values.get("knowledge_distillation"):
        flags["needs-scores"] = True
    return flags


def _build_scoring(job: Job, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return how a model trained so must be scored: its prompts and pooling, texts up to the longer of both lengths."""
    dims = sorted(map(int, values.get("mrl_dims") or ()), reverse=True) if values.get("use_mrl") else None
    pooling = next(own for own, theirs in _POOLINGS.items() if theirs == values["sentence_pooling_method"])
    return {
        "scorer": "embedding",
        "tool": "flagembedding",
        "max_length": max(find_lengths(job)),
        **_find_prompts(values),
        **({"query_suffix": values["icl_suffix_str"]} if "icl_suffix_str" in values else {}),
        "pooling": pooling,
        "normalize": True,
        "truncate_dim": None,
        "mrl_dims": dims,
        "end_token": False,
        **({"colbert_dim": int(values.get("colbert_dim", -1))} if _has_heads(job) else {}),
    }


def _find_flat_loss(job: Job, trainer: str, values: Mapping[str, Any]) -> float | None:
    """Return the loss of a model to which all documents are alike: it chooses among those of a batch."""
    if trainer in {"m3", "icl"} or values.get("knowledge_distillation") or values.get("same_dataset_within_batch"):
        return None
    gathered = job.world_size() if values.get("negatives_cross_device") else 1
    rows = int(values["per_device_train_batch_size"]) * gathered
    return log_of(rows * int(values["train_group_size"]))


def _smoke_scale(job: Job) -> SmokeScale:
    """Return a job of two epochs of 8 short steps; in full training a random model moves far enough at 0.001."""
    more = {} if trains_lora(job) else {"learning_rate": 0.001}
    # 512 tokens are kept for the query, and examples stand in what is left (icl/dataset.py: _create_batch_data)
    more |= {"query_max_len": 640} if _find_trainer(job) == "icl" else {}
    train = shrink_train(job, **more)
    like = ("m3", "bert") if _has_heads(job) else None
    return SmokeScale(train=train, like=like, leave_out=SMOKE_LEAVES_OUT | _NOT_IN_SMOKE)


def _check(job: Job, _: Mapping[str, Any]) -> Iterator[Found]:
    """Yield what only these trainers refuse, in the recipe's own spelling of the arguments."""
    train, trainer = job.backend.type_all(job.recipe.train), _find_trainer(job)
    its_loss = "remove it: these trainers tell a query's positive from its negatives and from the batch's documents"
    yield from check_common(job, its_loss, "say it as train.query_instruction_for_retrieval")
    known = load_arguments(job.backend.find_snapshot(job))
    every = {name for _, snapshot in _TRAINERS.values() for name in load_arguments(snapshot)}
    for name in train:
        if name in every and name not in known:
            message = f"FlagEmbedding's {_TRAINERS[trainer][0]} trainer has no {name}"
            other = LORA_OF_ENCODERS.get(name) if trainer != "decoder" else None
            yield ("train", name), Problem(message, other or "remove it, or name a model that is trained with it")
    yield from _check_heads(job, train) if trainer == "m3" else ()
    if train.get("normalize_embeddings") is False:
        message = "normalize_embeddings: false learns products of vectors of any length, and cosines are measured"
        yield ("train", "normalize_embeddings"), Problem(message, "remove it")
    if trainer == "icl" and train.get("same_dataset_within_batch") is False:
        message = "examples are drawn from a batch of one file: this trainer ends at once without"
        yield ("train", "same_dataset_within_batch"), Problem(message, "remove it")
    for name in ("small_threshold", "drop_threshold"):
        if train.get(name):
            message = f"{name} leaves out small data sets, or joins them, where nobody sees it"
            yield ("train", name), Problem(message, "remove it, and put rows that belong together into one file")
    names = [Path(name).name for name in job.recipe.data.train]
    if _batches_by_file(job) and (twice := {name for name in names if names.count(name) > 1}):
        message = f"same_dataset_within_batch tells data sets by their files' names, and several are {min(twice)}"
        yield ("data", "train"), Problem(message, "give them names of their own")
    yield from _check_embedding(job, train)
    width = job.model.hidden_size
    if wide := [dim for dim in train.get("mrl_dims") or () if width is not None and int(dim) > width]:
        message = f"mrl_dims: {', '.join(wide)}: the vectors of {job.model.name} have {width} dimensions"
        yield ("train", "mrl_dims"), Problem(message, f"give at most {width}")
    if train.get("negatives_cross_device") and job.world_size() == 1 and not job.smoke:
        message = "negatives_cross_device: one process has no other's negatives, and FlagEmbedding ends at once"
        yield ("train", "negatives_cross_device"), Problem(message, "remove it: on one GPU it would add nothing")


def _check_heads(job: Job, train: Mapping[str, Any]) -> Iterator[Found]:
    if not job.recipe.model.allow_pickle:
        message = "the sparse and ColBERT heads of bge-m3 are pickles (sparse_linear.pt, colbert_linear.pt)"
        given = ", ".join(name for name in _OF_M3 if name in train)
        hint = f"say model: {{path: {job.model.name}, allow_pickle: true}}, or train it dense only: remove {given}"
        yield ("model",), Problem(message, hint)
    for name in _OF_HEADS if not train.get("unified_finetuning") else ():
        if train.get(name) not in {None, False, -1}:
            message = f"{name} is of the sparse and ColBERT heads, and without unified_finetuning neither is trained"
            yield ("train", name), Problem(message, "say unified_finetuning: true, or remove it")
    if train.get("use_mrl"):
        yield ("train", "use_mrl"), Problem("FlagEmbedding's trainer of bge-m3 has no Matryoshka", "remove it")
    if train.get("unified_finetuning") and train.get("sub_batch_size"):
        message = "sub_batch_size: parts of a batch have ColBERT vectors of other lengths, which are not put together"
        yield ("train", "sub_batch_size"), Problem(message, "remove it, and lower per_device_train_batch_size")


def _check_embedding(job: Job, train: Mapping[str, Any]) -> Iterator[Found]:
    """Yield pooling and prompts that are not the model's, or that FlagEmbedding does not have."""
    own = settle_embedding(job.model, job.recipe.model)
    if not isinstance(own, Embedding):  # check_trainer says why
        return
    pooling, given = _POOLINGS.get(own.pooling), train.get("sentence_pooling_method")
    if pooling is None:
        message = f"{job.model.name} pools by {own.pooling}, and FlagEmbedding by cls, mean or last_token"
        yield ("model",), Problem(message, "say backend: sentence-transformers, or name another model")
    elif own.layered:
        message = f"{job.model.name} has layers behind its pooling, which FlagEmbedding neither trains nor applies"
        yield ("model",), Problem(message, "say backend: sentence-transformers, or name another model")
    elif given is not None and given != pooling:
        message = f"sentence_pooling_method is {given}, and {job.model.name} pools by {pooling}"
        yield ("train", "sentence_pooling_method"), Problem(message, f"say {pooling}, or remove it")
    told = job.recipe.model.prompts
    for side, own_side in (("query", "query"), ("passage", "document")):
        name = f"{side}_instruction_for_retrieval"
        if told is not None and getattr(told, own_side) is not None and name in train:
            message = f"model.prompts.{own_side} and train.{name} say what stands in front of the same texts"
            yield ("train", name), Problem(message, "remove one of the two")


BACKEND = replace(
    RERANKERS,
    trainers="FlagEmbedding's embedder trainers",
    own_modules={},
    tasks=("embedding",),
    scores_vocabulary=False,
    speedups=lambda _: (),
    lengths_add_up=False,
    other_models="",
    snapshots=tuple(snapshot for _, snapshot in _TRAINERS.values()),
    choose_snapshot=lambda job: _TRAINERS[_find_trainer(job)][1],
    reserved={name: say for name, say in _WORDS["reserved"].items() if name not in {"sub_batch_size", "max_len"}},
    others={name: group["say"] for group in _WORDS["of_rerankers"] for name in group["names"]},
    at_least=dict(RERANKERS.at_least) | {"sub_batch_size": 1, "train_group_size": 2},
    check_values=_check_values,
    check_job=lambda job: check_trainer(job, _check, conditions=CONDITIONS, half=("use_flash_attn",)),
    smoke_scale=_smoke_scale,
    build_training=_build_training,
)
