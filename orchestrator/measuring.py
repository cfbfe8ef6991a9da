"""Which models a run measures, and how each is scored: the baselines, and the packaged model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from orchestrator.plan import Note

if TYPE_CHECKING:
    from orchestrator.backends.protocol import Job, Training

QWEN3_INSTRUCTION = "Given a web search query, retrieve relevant passages that answer the query"
_DTYPES = {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32"}
# FlagLLMReranker computes the logits of every position over the whole vocabulary: 5 GB for 8 × 1024 tokens of Qwen3.
_BATCH_SIZES = {"decoder": 8, "encoder": 32}
_BATCH_SIZES_BY_SCORER = {"embedding": 32, "chat": 4}
_QWEN3_PROMPT_TOKENS = 128  # its chat template counts against max_length; FlagEmbedding's prompt comes on top
_BI_ENCODER_TOKENS = 512
_LABELS = {
    "qwen3-native": "base model in Qwen3-Reranker's own prompt",
    "cross-encoder": "base model as the cross-encoder it is",
    "bi-encoder": "base model as the bi-encoder it is (cosine of its embeddings)",
    "embedding": "base model with its authors' own instruction",
}
_TRAINED_LABELS = {
    "embedding": "base embedding model",
    "chat": "base LLM",
}
_TUNED_LABEL = "tuned model, packaged, in the format of its training"


@dataclass(frozen=True)
class System:
    """One model as it is scored: its name in the plan, the whole scoring spec, and the stage's title."""

    name: str
    spec: dict[str, Any]
    title: str


@dataclass(frozen=True)
class Measured:
    """The untouched model in each format that the recipe asks for, the yardstick first; and the tuned one."""

    baselines: tuple[System, ...]
    packaged: System
    notes: tuple[Note, ...] = ()


def build_measured(job: Job, training: Training) -> Measured:
    """Return what is scored. A base model without a format of its own, or with the training's, has one baseline."""
    native = _native(job, training)
    same = native is not None and native == training.scoring
    names: list[str] = []
    for asked in job.recipe.evaluate.baselines:
        name = asked if native is not None else "trained-format"
        name = "native" if same else name
        if name not in names:
            names.append(name)
    notes: tuple[Note, ...] = ()
    if native is None and "native" in job.recipe.evaluate.baselines:
        why = "the base model has no way of scoring of its own, or it is the training's"
        notes = (Note("baseline", "native", "trained-format", "orch", why),)
    baselines = tuple(
        _baseline(job, training, name, native if name == "native" and not same else None) for name in names
    )
    packaged = System("packaged", _complete(job, "packaged", training.scoring, _TUNED_LABEL), _TUNED_LABEL)
    return Measured(baselines, packaged, notes)


def _baseline(job: Job, training: Training, name: str, native: dict[str, Any] | None) -> System:
    if native is not None:
        label = _LABELS[native["scorer"]]
        return System(name, _complete(job, name, native, label), f"Score the untouched {label}")
    scorer = training.scoring["scorer"]
    label = _TRAINED_LABELS.get(scorer) or "base model in the format of the training"
    if name == "native" and scorer == "qwen3-native":
        label = _LABELS[scorer]
    return System(name, _complete(job, name, training.scoring, label), f"Score the untouched {label}")


def _native(job: Job, training: Training) -> dict[str, Any] | None:
    """Return how the base model's authors score with it; None where that is unknown, or a cross-encoder's logit."""
    scorer, max_length = training.scoring["scorer"], training.scoring["max_length"]
    if scorer == "chat":
        return training.scoring
    if scorer == "embedding":
        prompt = training.scoring["query_prompt"]
        if prompt or job.kind == "pair":
            return training.scoring
        return {**training.scoring, "query_prompt": f"Instruct: {QWEN3_INSTRUCTION}\nQuery:"}
    native = job.model.native
    if scorer == native == "qwen3-native":
        return training.scoring
    if native is None or native == "cross-encoder":
        return None
    spec: dict[str, Any] = {"scorer": native, "max_length": max_length}
    if native == "bi-encoder":  # it reads query and document apart, up to its own length
        spec["max_length"] = max(max_length, _BI_ENCODER_TOKENS)
    if native == "qwen3-native":
        if "tool" not in training.scoring:  # ms-swift's length counts the prompt already
            spec["max_length"] += _QWEN3_PROMPT_TOKENS
        spec["instruction"] = job.recipe.data.instruction or job.recipe.evaluate.instruction or QWEN3_INSTRUCTION
    return spec


def _complete(job: Job, name: str, scoring: dict[str, Any], label: str) -> dict[str, Any]:
    """Return the spec with what every scorer needs to know."""
    default = _BATCH_SIZES_BY_SCORER.get(scoring["scorer"], _BATCH_SIZES[job.model.family])
    return {
        "version": 1,
        "name": name,
        "label": label,
        "dtype": _DTYPES[job.hardware.precision],
        "trust_remote_code": job.model.trust_remote_code,
        "batch_size": job.recipe.evaluate.batch_size or default,
        **({"base_name": "a tiny random model"} if job.smoke else {}),
        **scoring,
    }
