"""Arguments of `swift sft` that a recipe says elsewhere, never, or only together with others: each with its reason."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from orchestrator.backends.conditions import COMMON, Applies, Condition, is_on
from orchestrator.backends.protocol import Job
from orchestrator.backends.swift_scoring import SCORE_HEAD
from orchestrator.backends.swift_spellings import is_swift_4

_OF_MODEL = "say it as `model: {path: …, %s: …}`"
_PREPARED = "name the files under `data.train:`; rows that Orch has not prepared would be trained beside them"
_ONE_SET = "remove it: there is one data set, for Orch reads several files as one"
_NO_RAY = "remove it: Orch starts the processes itself, on this machine"
# Arguments that Orch sets from elsewhere in the recipe: giving them twice would let one of the two lose in silence.
RESERVED = {
    "model": "say it as `model:`",
    "model_type": _OF_MODEL % "model_type",
    "template": _OF_MODEL % "template",
    "model_revision": "download it (hf download ID --revision REVISION) and name its folder as `model:`: what is "
    "trained must be what is measured and merged",
    "dataset": "say it as `data.train:`",
    "val_dataset": "say it as `data.validation_ratio:`",
    "cached_dataset": _PREPARED,
    "cached_val_dataset": "say it as `data.validation_ratio:`; rows that Orch has not prepared would be validated on",
    "custom_dataset_info": _PREPARED,
    "interleave_prob": _ONE_SET,
    "stopping_strategy": _ONE_SET,
    "load_args": "remove it: arguments that stand in another training's args.json would be seen by nobody",
    "load_data_args": "remove it: arguments that stand in another training's args.json would be seen by nobody",
    "ignore_args_error": "remove it: an argument that is not known is an error",
    "split_dataset_ratio": "say it as `data.validation_ratio:`, which keeps a query on one side",
    "columns": "say it as `data.columns:`",
    "mrl_dims": "say it as `loss: {type: …, mrl_dims: …}`",
    "output_dir": "the run folder decides it",
    "add_version": "the run folder is fresh: Orch needs to know the path",
    "create_checkpoint_symlink": "Orch sets it: `checkpoint: best` stands on it",
    "check_model": "Orch sets it: it asks a hub about a folder on your disk",
    "strict": "Orch sets it: rows are never left out in silence",
    "deepspeed": "say it as `deepspeed:` at the top level",
    "resume_from_checkpoint": "use: orch resume RUN",
    "resume_only_model": "use: orch resume RUN",
    "local_rank": "torchrun sets it",
    "use_ray": _NO_RAY,
    "device_groups": _NO_RAY,
    "ray_exp_name": _NO_RAY,
    "hub_token": "set HF_TOKEN in your environment: secrets do not belong in a recipe",
    "swanlab_token": "set SWANLAB_API_KEY in your environment: secrets do not belong in a recipe",
    "swanlab_secret": "set it in your environment: secrets do not belong in a recipe",
}
_FLASH = ("flash_attn", "flash_attention_2", "flash_attention_3", "flash_attention_4")
_ATTENTION = (*_FLASH, "sdpa", "eager", "flex_attention")
_TURN_ON_FLASH = "say attn_impl: flash_attn, which needs a GPU and the package flash-attn; or remove it"
_ROPE = ("linear", "dynamic", "yarn")
# swift/callbacks/mapping.py, swift/optimizers/mapping.py and swift/metrics/mapping.py of ms-swift 4.6.0
_NAMED = {
    "callbacks": (
        "activation_cpu_offload", "adalora", "deepspeed_elastic", "early_stop", "graceful_exit", "lisa", "perf_log",
    ),
    "optimizer": ("default", "galore", "lorap", "muon", "muonclip", "multimodal"),
    "eval_metric": ("acc", "nlg", "infonce", "paired", "reranker"),
}  # fmt: skip


def _without_flash(name: str) -> Applies:
    return lambda _, train: bool(train[name]) and train.get("attn_impl") not in _FLASH


def _with(name: str, other: str) -> Applies:
    return lambda _, train: bool(train[name] and train.get(other))


def _of_classification(job: Job, train: Mapping[str, Any]) -> bool:
    scores = job.recipe.task == "reranker" and train.get("task_type") == SCORE_HEAD
    return not (scores and train["num_labels"] == 1)


def _is_full(train: Mapping[str, Any]) -> bool:
    return str(train.get("tuner_type", train.get("train_type", "lora"))) == "full"


def _splits_chats(job: Job, train: Mapping[str, Any]) -> bool:
    return (
        job.recipe.task == "sft"
        and train["truncation_strategy"] == "split"
        and train.get("use_chat_template") is not False
    )


def _alone(job: Job, train: Mapping[str, Any]) -> bool:
    return bool(train["fsdp"]) and job.hardware.kind == "cuda" and job.processes() == 1


def _reads_as_json(text: str) -> bool:
    return text.endswith(".json") or text.strip().startswith("{")


def _has_deepspeed(job: Job, train: Mapping[str, Any]) -> bool:
    return bool(train["fsdp"]) and job.recipe.deepspeed is not None


def _generates_for_the_best(job: Job, train: Mapping[str, Any]) -> bool:
    best = job.recipe.checkpoint in {None, "best"} and job.recipe.data.validation_ratio is not None
    return bool(train["predict_with_generate"]) and (best or job.recipe.task != "sft")


def _is_unknown(name: str) -> Applies:
    def applies(job: Job, train: Mapping[str, Any]) -> bool:
        given = train[name] if isinstance(train[name], list) else [train[name]]
        brings_own = train.get("external_plugins") or train.get("custom_register_path")
        return is_swift_4(job.versions) and not brings_own and any(one not in _NAMED[name] for one in given)

    return applies


def _needs_length(_: Job, train: Mapping[str, Any]) -> bool:
    value = train["rope_scaling"].strip()
    return not value.startswith("{") and (value not in _ROPE or not train.get("max_model_len"))


# Sources: _check_padding_free, _init_fsdp and __post_init__ of swift/arguments, ms-swift 4.6.0.
CONDITIONS = (
    *COMMON,
    Condition(
        "use_hf",
        lambda job, train: not train["use_hf"] and not job.model.is_local,
        "the base model is measured from Hugging Face, and ModelScope's copy would be trained",
        "remove it; or download ModelScope's copy and name its folder as `model:`",
    ),
    Condition("packing", _without_flash("packing"), "ms-swift packs with flash attention only", _TURN_ON_FLASH),
    Condition("padding_free", _without_flash("padding_free"), "it needs flash attention", _TURN_ON_FLASH),
    Condition("lazy_tokenize", _with("lazy_tokenize", "packing"), "packing must know every length", "remove it"),
    Condition("lazy_tokenize", _with("lazy_tokenize", "streaming"), "a stream is tokenised as it comes", "remove it"),
    Condition(
        "streaming",
        lambda _, train: bool(train["streaming"]) and train.get("max_steps", -1) <= 0,
        "a stream has no length, so the trainer cannot tell when it ends",
        "say max_steps, or remove it: the prepared rows lie on this disk",
    ),
    Condition("fsdp", _has_deepspeed, "deepspeed shares the training already", "remove it, or remove `deepspeed:`"),
    Condition(
        "fsdp",
        lambda _, train: bool(train["fsdp"]) and train["fsdp"] != "fsdp2" and not _reads_as_json(train["fsdp"]),
        "ms-swift reads its own name, or a mapping",
        "say fsdp: fsdp2; or name a JSON file of fsdp and fsdp_config",
    ),
    Condition("fsdp", _alone, "it spreads a model over processes, and there is one", "remove it, or use more GPUs"),
    Condition(
        "attn_impl",
        lambda _, train: train["attn_impl"] not in _ATTENTION and "/" not in train["attn_impl"],  # a kernel of the hub
        "transformers has no attention of that name",
        f"say attn_impl: flash_attn, or one of {', '.join(sorted({*_ATTENTION} - {'flash_attn'}))}",
    ),
    Condition(
        "quant_method",
        lambda _, train: not train.get("quant_bits") and train["quant_method"] != "fp8",
        "ms-swift wants to know how many bits",
        "say quant_bits: 4",
    ),
    Condition(
        "lisa_activated_layers",
        lambda _, train: train["lisa_activated_layers"] > 0 and not _is_full(train),
        "LISA is for full training",
        "remove it: it goes with tuner_type: full, which has no settings of LoRA and nothing to merge",
    ),
    Condition(
        "rope_scaling",
        _needs_length,
        "ms-swift does not know for which length",
        f"say {', '.join(_ROPE)} and max_model_len beside it; or a mapping of type and factor",
    ),
    Condition(
        "truncation_strategy",
        _splits_chats,
        "ms-swift splits rows of raw text only, and these are chats",
        "remove it: rows that are too long are refused with their number",
    ),
    Condition(
        "num_labels",
        _of_classification,
        "a classifier's setting: a reranker has one score, and Orch trains no classifiers",
        "remove it",
    ),
    Condition("problem_type", is_on("problem_type"), "a classifier's setting, and Orch trains none", "remove it"),
    Condition(
        "template_backend",
        lambda _, train: train["template_backend"] != "swift",
        "Orch measures and packages the model with ms-swift's own template",
        "remove it",
    ),
    Condition(
        "response_prefix",
        is_on("response_prefix"),
        "the model would be measured and packaged without it",
        "write it into the rows' answers, or remove it",
    ),
    Condition(
        "predict_with_generate",
        _generates_for_the_best,
        "the best checkpoint would be that of the highest rouge-l, and is the one with the lowest validation loss",
        "remove it: Orch lets both models answer after the training (evaluate.generate)",
    ),
    Condition(
        "safe_serialization",
        lambda _, train: not train["safe_serialization"],
        "it would write pickled weights, and pickles are never loaded",
        "remove it",
    ),
    Condition(
        "use_flash_ckpt",
        is_on("use_flash_ckpt"),
        "its checkpoints are pickles, and pickles are never loaded",
        "remove it",
    ),
    *(
        Condition(name, _is_unknown(name), "ms-swift has none of that name", f"one of {', '.join(known)}")
        for name, known in _NAMED.items()
    ),
)
