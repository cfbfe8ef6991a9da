"""What other tools call an argument: their scripts are where recipes come from, so their names are answered with ours.

Sources: LLaMA-Factory's examples and hparams, axolotl's config reference, TRL's SFTConfig, RAG-Retrieval's configs.
"""

from __future__ import annotations

import difflib
from collections.abc import Collection, Mapping

_LISTED = "`orch schema` lists every argument"
_NEAR = 0.78  # what is less alike is another word: use_badam is no use_dora
_BATCH = ("per_device_train_batch_size",)
_LENGTH = ("max_length", "query_max_len and passage_max_len")
_FLASH = ("attn_impl: flash_attn", "use_flash_attn: true")
_TUNER = ("tuner_type", "use_lora")
_HALF = ("bf16: true or fp16: true; left out, the hardware decides",)
# Their name → ours, the first that the backend has; what follows the first word is said with it.
_NAMES: dict[str, tuple[str, ...]] = {
    "lr": ("learning_rate",),
    "lr_scheduler": ("lr_scheduler_type",),
    "scheduler": ("lr_scheduler_type",),
    **dict.fromkeys(("epochs", "num_epochs", "n_epochs"), ("num_train_epochs",)),
    **dict.fromkeys(("batch_size", "micro_batch_size", "train_batch_size"), _BATCH),
    "eval_batch_size": ("per_device_eval_batch_size",),
    **dict.fromkeys(
        ("grad_accum", "gradient_accumulation", "accumulate_grad_batches"), ("gradient_accumulation_steps",)
    ),
    **dict.fromkeys(
        ("cutoff_len", "sequence_len", "seq_len", "max_len", "max_seq_len", "max_seq_length", "model_max_length"),
        _LENGTH,
    ),
    **dict.fromkeys(("query_max_len", "passage_max_len"), ("max_length, of query and document together",)),
    **dict.fromkeys(("lora_target", "lora_target_modules"), ("target_modules",)),
    "lora_target_linear": ("target_modules: all-linear", "target_modules"),
    **dict.fromkeys(("lora_r", "r", "rank"), ("lora_rank",)),
    **dict.fromkeys(("additional_target", "lora_modules_to_save"), ("modules_to_save",)),
    **dict.fromkeys(("finetuning_type", "adapter", "use_peft", "peft_type"), _TUNER),
    **dict.fromkeys(("adapter_name_or_path", "lora_model_dir"), ("adapters", "from_peft")),
    "loraplus_lr_ratio": ("lorap_lr_ratio",),
    "pissa_init": ("init_weights: pissa",),
    **dict.fromkeys(("flash_attn", "flash_attention", "attn_implementation"), _FLASH),
    "enable_liger_kernel": ("use_liger_kernel",),
    "use_unsloth": ("tuner_backend: unsloth",),
    "quantization_bit": ("quant_bits, with quant_method: bnb",),
    "quantization_method": ("quant_method",),
    "double_quantization": ("bnb_4bit_use_double_quant",),
    "load_in_4bit": ("quant_bits: 4, with quant_method: bnb",),
    "load_in_8bit": ("quant_bits: 8, with quant_method: bnb",),
    **dict.fromkeys(("sample_packing", "neat_packing"), ("packing",)),
    "mask_history": ("loss_scale: last_round",),
    **dict.fromkeys(("train_on_prompt", "train_on_inputs"), ("loss_scale: all",)),
    **dict.fromkeys(("resize_vocab", "special_tokens"), ("new_special_tokens",)),
    "preprocessing_num_workers": ("dataset_num_proc",),
    **dict.fromkeys(("mixed_precision", "pure_bf16", "dtype"), _HALF),
    "warmup_proportion": ("warmup_ratio",),
    "warmup": ("warmup_ratio",),
    "stable_proportion": ("stable_ratio",),
    **dict.fromkeys(("early_stopping_patience", "early_stopping"), ("early_stop_interval", "early_stopping_patience")),
    "evals_per_epoch": ("eval_steps", "save_steps"),
    "saves_per_epoch": ("save_steps",),
    "save_on_epoch_end": ("save_strategy: epoch, which it is when nothing is said",),
    "num_max_checkpoints": ("save_total_limit",),
    "log_interval": ("logging_steps",),
    "log_with": ("report_to",),
    **dict.fromkeys(("wandb_project", "use_wandb"), ("report_to: wandb",)),
    "use_swanlab": ("report_to: swanlab",),
    **dict.fromkeys(("assistant_only_loss", "completion_only_loss"), ("loss_scale: default, which it is",)),
    "image_max_pixels": ("max_pixels",),
    "shuffle_rate": ("shuffle_ratio",),
    "neg_nums": ("train_group_size, which counts the positive too",),
}
# Their name → another place of the recipe, or why there is none.
_ELSEWHERE = {
    **dict.fromkeys(("model_name_or_path", "base_model", "model_id", "model_name"), "say it as `model:`"),
    "trust_remote_code": "say it as `model: {path: …, trust_remote_code: true}`",
    **dict.fromkeys(("chat_template", "template", "template_type"), "say it as `model: {path: …, template: …}`"),
    "chat_template_path": "remove it: the template is ms-swift's, by name: `model: {path: …, template: …}`",
    **dict.fromkeys(
        ("eos_token", "eot_tokens", "pad_token", "dataset_text_field"), "remove it: the model's template decides it"
    ),
    **dict.fromkeys(("infer_backend", "vllm_gpu_memory_utilization"), "remove it: it is for inference: orch serve"),
    **dict.fromkeys(("compute_accuracy",), "remove it, and name measures: evaluate: {metrics: [loss, exact_match]}"),
    "stage": "say it as `task:` (reranker, embedding or sft)",
    **dict.fromkeys(
        ("dataset", "datasets", "train_data", "train_file", "train_dataset", "dataset_name"), "say it as `data.train:`"
    ),
    **dict.fromkeys(("eval_dataset", "val_dataset", "test_datasets"), "say it as `data.eval:`"),
    **dict.fromkeys(("val_size", "val_set_size", "test_size"), "say it as `data.validation_ratio:`"),
    **dict.fromkeys(
        ("dataset_dir", "media_dir"), "remove it: the paths of `data.train:` start from the recipe's folder"
    ),
    **dict.fromkeys(
        ("dataset_prepared_path", "overwrite_cache", "tokenized_path"), "remove it: every run prepares its data anew"
    ),
    "max_samples": "remove it, and name a smaller file; of a hub's data set a part: owner/name:train[:1000]",
    "plot_loss": "remove it: the report draws the loss",
    "pad_to_sequence_len": "remove it: rows are padded to the longest of a batch",
    **dict.fromkeys(("export_dir", "hub_model_id"), "remove it: the model stands in the run's folder `model/`"),
    "nproc_per_node": "say it as `launch: {nproc_per_node: …}`",
    "num_gpus": "say it as `launch: {nproc_per_node: …}`",
}


def is_foreign(name: str) -> bool:
    """Tell whether another tool calls an argument so."""
    return name in _NAMES or name in _ELSEWHERE


def find_own_name(name: str, known: Collection[str], owned: Mapping[str, str]) -> str:
    """Return what to say instead of a name that a trainer does not have: another tool's, or one that is near.

    `known` are its own names, without those that a recipe says elsewhere; `owned` says where.
    """
    for ours in _NAMES.get(name, ()):
        if ours.split()[0].strip(":,") in known:
            return f"say {ours}"
    for ours in _NAMES.get(name, ()):
        if ours in owned:
            return owned[ours]
    if name in _ELSEWHERE:
        return _ELSEWHERE[name]
    if name in _NAMES:
        return f"remove it: this trainer has no {_NAMES[name][0].split()[0].strip(':,')}"
    near = difflib.get_close_matches(name, sorted(known), n=1, cutoff=_NEAR)
    return f"did you mean {near[0]!r}?" if near else _LISTED
