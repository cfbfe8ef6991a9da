"""Fold a LoRA adapter into its base model and save the result as a whole folder."""

from __future__ import annotations

import argparse
import json
import warnings
from pathlib import Path
from typing import Any

from orchestrator.workers.failure import WorkerError
from orchestrator.workers.folders import fresh_folder
from orchestrator.workers.scoring_spec import DTYPES
from orchestrator.workers.tokenizer_files import copy_tokenizer, has_tokenizer
from orchestrator.workers.weights import read_tensors, require_safetensors, scan_weights


def check_adapter(folder: Path) -> dict[str, Any]:
    """Return the adapter's config. Raises WorkerError for one that is missing, damaged, or was never trained."""
    config_file = folder / "adapter_config.json"
    if not config_file.is_file():
        raise WorkerError(f"{folder} holds no adapter_config.json: it is not a LoRA adapter")
    files = [path for path in require_safetensors(folder) if path.name == "adapter_model.safetensors"]
    if not files:
        raise WorkerError(f"{folder} holds no adapter_model.safetensors: the adapter was not saved")
    scan = scan_weights(files)
    if scan.problems:
        raise WorkerError(*(f"{files[0]}: {problem}" for problem in scan.problems))
    # LoRA starts with B at zero, and only training moves it
    moved = [bool(tensor.any()) for name, tensor in read_tensors(files) if ".lora_B." in name or "embedding_B" in name]
    if not moved:
        raise WorkerError(f"{files[0]} holds no LoRA weights: nothing to merge")
    if not any(moved):
        raise WorkerError(f"{files[0]}: every lora_B is zero: nothing was trained, merging would give the base")
    config: dict[str, Any] = json.loads(config_file.read_text(encoding="utf-8"))
    return config


def load_base(base: str, task_type: str | None, dtype: str, *, trust_remote_code: bool) -> Any:
    """Return the base model in the class that the adapter was trained on."""
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

    # not `dtype`, which transformers has since 4.56 only; FlagEmbedding itself says torch_dtype
    if task_type == "SEQ_CLS":
        return AutoModelForSequenceClassification.from_pretrained(
            base, torch_dtype=dtype, num_labels=1, trust_remote_code=trust_remote_code
        )
    return AutoModelForCausalLM.from_pretrained(base, torch_dtype=dtype, trust_remote_code=trust_remote_code)


def attach_adapter(model: Any, folder: Path) -> Any:
    """Return the model with the adapter on top. Raises WorkerError when the two do not fit."""
    from peft import PeftModel

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        adapted = PeftModel.from_pretrained(model, folder)
    for warning in caught:
        if "adapter keys" in str(warning.message):
            raise WorkerError(f"{folder} does not fit its base model: {str(warning.message).splitlines()[0][:300]}")
    return adapted


def merge(base: str, adapter: Path, folder: Path, dtype: str, *, trust_remote_code: bool) -> None:
    """Write the merged model and the adapter's tokenizer into `folder`."""
    config = check_adapter(adapter)
    model = load_base(base, config.get("task_type"), dtype, trust_remote_code=trust_remote_code)
    try:
        merged = attach_adapter(model, adapter).merge_and_unload(safe_merge=True)
    except ValueError as error:  # safe_merge found NaN
        raise WorkerError(f"the adapter cannot be merged: {error}") from error
    merged.save_pretrained(folder)
    if has_tokenizer(adapter):
        copy_tokenizer(adapter, folder)
    else:
        from transformers import AutoTokenizer

        AutoTokenizer.from_pretrained(base, trust_remote_code=trust_remote_code).save_pretrained(folder)
    scan = scan_weights(require_safetensors(folder))
    if scan.problems:
        raise WorkerError(*(f"merged model: {problem}" for problem in scan.problems))


def main(argv: list[str]) -> int:
    """Write the merged model to `--out`, which appears whole or not at all."""
    parser = argparse.ArgumentParser(prog="workers merge", description=__doc__, allow_abbrev=False)
    parser.add_argument("--base", required=True, help="a folder or a hub id")
    parser.add_argument("--adapter", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--dtype", choices=("auto", *DTYPES), default="auto", help="auto is the base model's own")
    parser.add_argument("--trust-remote-code", action="store_true")
    options = parser.parse_args(argv)
    with fresh_folder(options.out) as folder:
        merge(options.base, options.adapter, folder, options.dtype, trust_remote_code=options.trust_remote_code)
    return 0
