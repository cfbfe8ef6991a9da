"""Bugs of the backends and their libraries that bite in some versions and some jobs, each with its source.

To add one: an id, the versions that have it, a condition on the job and its train arguments, what happens, what to do,
and where it was reported or fixed. `severe` is for a wrong model with exit code 0, and for an end after long work.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass

from orchestrator.backends.models import load_config
from orchestrator.backends.protocol import Job
from orchestrator.checks.model_files import local_models
from orchestrator.checks.train_values import is_on, read_train_values
from orchestrator.machine.model_weights import read_weights
from orchestrator.recipe.plan import Plan

_TIED = frozenset({"lm_head", "embed_tokens", "wte", "all-embedding"})


@dataclass(frozen=True)
class Affected:
    """The versions of one package that have a bug: from `since` on, and before `before`; empty: all."""

    package: str
    since: str = ""
    before: str = ""


@dataclass(frozen=True)
class KnownBug:
    """A bug: every package of `affected` must be installed in an affected version, and `applies` must hold."""

    id: str
    affected: tuple[Affected, ...]
    applies: Callable[[Job, Plan], bool]
    what: str
    remedy: str
    source: str
    severe: bool = False


def _pads_with_positives(job: Job, plan: Plan) -> bool:  # noqa: ARG001
    return job.recipe.backend == "swift" and job.recipe.loss is not None and job.recipe.loss.hard_negatives is not None


def _writes_positive_messages(job: Job, plan: Plan) -> bool:  # noqa: ARG001
    return job.recipe.backend == "swift" and job.recipe.task in {"embedding", "reranker"}


def _runs_flagembedding(job: Job, plan: Plan) -> bool:  # noqa: ARG001
    return job.recipe.backend == "flagembedding"


def _trains_llm_in_flagembedding(job: Job, plan: Plan) -> bool:  # noqa: ARG001
    return job.recipe.backend == "flagembedding" and job.model.family == "decoder"


def _scores_with_llm(job: Job, plan: Plan) -> bool:  # noqa: ARG001
    return job.recipe.task == "reranker" and job.model.family == "decoder"


def _adapts_tied_embeddings(job: Job, plan: Plan) -> bool:
    values = read_train_values(plan)
    if job.smoke or job.model.folder is None or "target_modules" not in values:
        return False
    named = {
        name.rpartition(".")[2] for key in ("target_modules", "modules_to_save") for name in values.get(key, "").split()
    }
    return bool(named & _TIED) and load_config(job.model.folder).get("tie_word_embeddings") is True


def _accumulates_tokens(job: Job, plan: Plan) -> bool:
    steps = read_train_values(plan).get("gradient_accumulation_steps", "1")
    return job.recipe.task == "sft" and steps.isdigit() and int(steps) > 1


def _is_in_fp16(job: Job, plan: Plan, architecture: str) -> bool:
    named = any(name.startswith(architecture) for name in job.model.architectures)
    return named and is_on(read_train_values(plan), "fp16")


def _loads_pickles(job: Job, plan: Plan) -> bool:  # noqa: ARG001
    return any(
        read_weights(model.folder).pickles for _, model, allowed in local_models(job) if allowed and model.folder
    )


def _uses_several_rtx_40(job: Job, plan: Plan) -> bool:  # noqa: ARG001
    env = {**os.environ, **job.recipe.launch.env}
    several = job.processes() > 1 and any("RTX 40" in name for name in job.hardware.names)
    return several and not {"NCCL_P2P_DISABLE", "NCCL_IB_DISABLE"} <= env.keys()


KNOWN_BUGS: tuple[KnownBug, ...] = (
    KnownBug(
        "swift-hard-negatives",
        (Affected("ms-swift", before="4.6.0"),),
        _pads_with_positives,
        "loss.hard_negatives fills a row that has fewer negatives with its positive, which is trained as a negative",
        "pip install 'ms-swift>=4.6', or remove loss.hard_negatives: all negatives of a row are used",
        "https://github.com/modelscope/ms-swift/pull/10068",
        severe=True,
    ),
    KnownBug(
        "swift-old-rows",
        (Affected("ms-swift", before="3.9.0"),),
        _writes_positive_messages,
        "this version reads query, response and rejected_response, not the positive_messages that Orch writes",
        "pip install 'ms-swift>=4.0'",
        "https://github.com/modelscope/ms-swift/issues/5972",
        severe=True,
    ),
    KnownBug(
        "flagembedding-transformers-5",
        (Affected("FlagEmbedding", before="1.4.1"), Affected("transformers", since="5.0.0")),
        _runs_flagembedding,
        "the trainer calls prepare_for_model, which the tokenizers of transformers 5 no longer have",
        "pip install 'FlagEmbedding>=1.4.1', or 'transformers<5'",
        "https://github.com/FlagOpen/FlagEmbedding/pull/1593",
        severe=True,
    ),
    KnownBug(
        "flagembedding-flash-attention-2",
        (Affected("FlagEmbedding", before="1.4.0"), Affected("transformers", since="4.53.0")),
        _trains_llm_in_flagembedding,
        "the trainer loads the model with use_flash_attention_2, an argument that transformers 4.53 removed",
        "pip install 'FlagEmbedding>=1.4.1', or 'transformers<4.53'",
        "https://github.com/FlagOpen/FlagEmbedding/issues/1541",
        severe=True,
    ),
    KnownBug(
        "sentence-transformers-no-logit-score",
        (Affected("sentence-transformers", before="5.4.0"),),
        _scores_with_llm,
        "an LLM reranker is loaded with a new, random head, and scores at random without an error",
        "pip install 'sentence-transformers>=6.1'",
        "https://github.com/modelscope/evalscope/pull/1620",
        severe=True,
    ),
    KnownBug(
        "sentence-transformers-cut-prompt",
        (Affected("sentence-transformers", since="5.4.0", before="5.6.0"),),
        _scores_with_llm,
        "a pair longer than max_length loses the end of its prompt, where an LLM reranker reads its score",
        "pip install 'sentence-transformers>=6.1'",
        "https://github.com/huggingface/sentence-transformers/pull/3787",
        severe=True,
    ),
    KnownBug(
        "peft-tied-embeddings",
        (Affected("peft"),),
        _adapts_tied_embeddings,
        "lm_head and embed_tokens share their weights in this model: merging an adapter of one changes both",
        "leave them out of target_modules and modules_to_save",
        "https://github.com/huggingface/peft/issues/2018",
        severe=True,
    ),
    KnownBug(
        "transformers-gradient-accumulation",
        (Affected("transformers", before="4.46.0"),),
        _accumulates_tokens,
        "with gradient accumulation short answers weigh more than long ones: the loss is not that of the full batch",
        "pip install 'transformers>=4.57', or say gradient_accumulation_steps: 1",
        "https://github.com/huggingface/transformers/pull/34191",
    ),
    KnownBug(
        "gemma3-fp16",
        (Affected("transformers"),),
        lambda job, plan: _is_in_fp16(job, plan, "Gemma3"),
        "Gemma 3 overflows in fp16: its activations become infinite",
        "train with bf16 on a GPU that has it, or say train: {fp16: false} for float32",
        "https://github.com/huggingface/transformers/issues/36822",
    ),
    KnownBug(
        "qwen2-fp16",
        (Affected("transformers"),),
        lambda job, plan: _is_in_fp16(job, plan, "Qwen2"),
        "Qwen2 was trained in bf16, and can overflow to NaN in fp16",
        "train with bf16 on a GPU that has it, or say train: {fp16: false} for float32",
        "https://github.com/QwenLM/Qwen3/issues/868",
    ),
    KnownBug(
        "torch-load",
        (Affected("torch", before="2.6.0"), Affected("transformers", since="4.52.0")),
        _loads_pickles,
        "transformers refuses to load pickled weights with this version of PyTorch (CVE-2025-32434)",
        "pip install 'torch>=2.6', or take the model's safetensors files",
        "https://github.com/huggingface/transformers/pull/37785",
        severe=True,
    ),
    KnownBug(
        "rtx-40-p2p",
        (Affected("accelerate"),),
        _uses_several_rtx_40,
        "with a driver before 550.40.07 accelerate ends on several GPUs of the RTX 40 series: they have no P2P",
        "say launch: {env: {NCCL_P2P_DISABLE: '1', NCCL_IB_DISABLE: '1'}}, or update the driver",
        "https://github.com/QwenLM/Qwen-VL/issues/447",
    ),
)
