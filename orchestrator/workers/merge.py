"""Fold a LoRA adapter into its base model and save the result as a whole folder."""

from __future__ import annotations

import argparse
import gc
import json
import os
import shutil
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.workers.failure import WorkerError
from orchestrator.workers.folders import fresh_folder
from orchestrator.workers.merge_modules import compare_vectors, copy_modules, find_modules
from orchestrator.workers.merge_trial import LOGITS, SCORES, VECTORS, explain, judge, observe
from orchestrator.workers.pickles import weight_options
from orchestrator.workers.reranker.heads import name_head
from orchestrator.workers.reranker.scoring_spec import DTYPES
from orchestrator.workers.tokenizer_files import copy_tokenizer, has_tokenizer, read_json
from orchestrator.workers.weights import read_tensors, require_safetensors, scan_weights
from orchestrator.workers.whole_weights import NEW_HEAD, WORDS, require_whole
from orchestrator.workers.whole_weights import VECTORS as FOR_VECTORS

SWIFT_ARGUMENTS = "args.json"


@dataclass(frozen=True)
class MergeRequest:
    """Which adapter to merge, in which dtype, where, and the prompt to try it with, if any."""

    adapter: Path
    dtype: str = "auto"
    device: str = "cpu"
    test_prompt: str | None = None
    trust_remote_code: bool = False


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


def find_kind(adapter: Path, config: dict[str, Any]) -> str:
    """Return what the adapter's model gives: a score, an embedding, or text."""
    if config.get("task_type") == "SEQ_CLS":
        return SCORES
    # ms-swift says it in its own file only
    trained_as = read_json(adapter / SWIFT_ARGUMENTS).get("task_type")
    return VECTORS if trained_as == "embedding" or config.get("task_type") == "FEATURE_EXTRACTION" else LOGITS


def keep_head(base: str, config: dict[str, Any], *, trust_remote_code: bool) -> dict[str, Any]:
    """Return the adapter's config, as one of a scoring model where the base has a trained head.

    An adapter that says CAUSAL_LM, or nothing, fits such a base as well: as a causal model it would lose its head.
    """
    if config.get("task_type") not in {None, "CAUSAL_LM"}:
        return config
    scores = name_head(base, trust_remote_code=trust_remote_code, labels=None) == "pretrained"
    return {**config, "task_type": "SEQ_CLS"} if scores else config


def find_base(adapter: Path, config: dict[str, Any]) -> str:
    """Return the base model that the adapter names. Raises WorkerError when it is not there."""
    base = config.get("base_model_name_or_path")
    if not base:
        raise WorkerError(f"{adapter}/adapter_config.json names no base model: give it with --base")
    if Path(base).is_absolute() and not Path(base).is_dir():
        raise WorkerError(f"{adapter} was trained from {base}, which is not there: give the base model with --base")
    return str(base)


def load_base(base: str, task_type: str | None, dtype: str, *, trust_remote_code: bool, kind: str = LOGITS) -> Any:
    """Return the base model in the class that the adapter was trained on; `kind` is what the adapter's model gives.

    Raises WorkerError where its files do not fill it.
    """
    from transformers import AutoModel, AutoModelForCausalLM, AutoModelForSequenceClassification

    use = NEW_HEAD if task_type == "SEQ_CLS" else WORDS if (task_type, kind) == ("CAUSAL_LM", LOGITS) else FOR_VECTORS
    require_whole(base, use, trust_remote_code=trust_remote_code)
    # not `dtype`, which transformers has since 4.56 only; FlagEmbedding itself says torch_dtype
    if task_type == "SEQ_CLS":
        return AutoModelForSequenceClassification.from_pretrained(
            base, torch_dtype=dtype, num_labels=1, trust_remote_code=trust_remote_code, **weight_options()
        )
    loader = AutoModel if task_type == "FEATURE_EXTRACTION" else AutoModelForCausalLM
    return loader.from_pretrained(base, torch_dtype=dtype, trust_remote_code=trust_remote_code, **weight_options())


def attach_adapter(model: Any, folder: Path) -> Any:
    """Return the model with the adapter on top. Raises WorkerError when the two do not fit."""
    from peft import PeftConfig, PeftModel

    config = PeftConfig.from_pretrained(folder)
    if config.task_type == "CAUSAL_LM" and not hasattr(model, "prepare_inputs_for_generation"):
        config.task_type = None  # the base has a head that scores, and PEFT would ask it to generate
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        adapted = PeftModel.from_pretrained(model, folder, config=config)
    for warning in caught:
        if "adapter keys" in str(warning.message):
            raise WorkerError(f"{folder} does not fit its base model: {str(warning.message).splitlines()[0][:300]}")
    return adapted


def write_tokenizer(base: str, adapter: Path, folder: Path, *, trust_remote_code: bool) -> Any:
    """Write the adapter's tokenizer into `folder`, or the base's when it has none, and return it.

    What ms-swift says of the training goes along.
    """
    from transformers import AutoTokenizer

    if has_tokenizer(adapter):
        copy_tokenizer(adapter, folder)
    else:
        AutoTokenizer.from_pretrained(base, trust_remote_code=trust_remote_code).save_pretrained(folder)
    if (adapter / SWIFT_ARGUMENTS).is_file():  # ms-swift's own merge keeps it too: it says how the model is asked
        shutil.copyfile(adapter / SWIFT_ARGUMENTS, folder / SWIFT_ARGUMENTS)
    return AutoTokenizer.from_pretrained(folder, trust_remote_code=trust_remote_code)


def save_merged(adapted: Any, folder: Path) -> None:
    """Write the merged weights. Raises WorkerError when they are not finite."""
    try:
        merged = adapted.merge_and_unload(safe_merge=True)
    except ValueError as error:  # safe_merge found NaN
        raise WorkerError(f"the adapter cannot be merged: {error}") from error
    merged.save_pretrained(folder)
    scan = scan_weights(require_safetensors(folder))
    if scan.problems:
        raise WorkerError(*(f"merged model: {problem}" for problem in scan.problems))


def merge(request: MergeRequest, base: str, config: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Write the merged model and a tokenizer into `folder`; return how it compares with base and adapter."""
    kind, trust = find_kind(request.adapter, config), request.trust_remote_code
    tokenizer = write_tokenizer(base, request.adapter, folder, trust_remote_code=trust)
    task_type = config.get("task_type")
    model = load_base(base, task_type, request.dtype, trust_remote_code=trust, kind=kind).to(request.device)
    adapted = attach_adapter(model, request.adapter).eval()
    before = observe(adapted, tokenizer, kind, request.test_prompt)
    save_merged(adapted, folder)
    del model, adapted
    gc.collect()
    # what is on the disk is what counts
    saved = load_base(str(folder), task_type, "auto", trust_remote_code=trust, kind=kind).to(request.device).eval()
    after = observe(saved, tokenizer, kind, request.test_prompt)
    dtype = str(saved.dtype).removeprefix("torch.")
    result = {"dtype": dtype, **judge(kind, before, after, dtype, request.test_prompt)}
    modules = find_modules(request.adapter, base if kind == VECTORS else None)
    if modules is None:
        return result
    copy_modules(modules, folder)
    if task_type != "FEATURE_EXTRACTION":  # sentence-transformers trains its adapters so, and loads no others
        return result
    del saved
    gc.collect()
    said = compare_vectors(modules, request.adapter, base, folder, dtype, trust_remote_code=trust)
    return {**result, **said, "passed": result["passed"] and said["passed"]} if result["passed"] else result


def main(argv: list[str]) -> int:
    """Write the merged model to `--out`, which appears whole or not at all; print a JSON summary."""
    parser = argparse.ArgumentParser(prog="workers merge", description=__doc__, allow_abbrev=False)
    parser.add_argument("--base", help="a folder or a hub id; what adapter_config.json names by default")
    parser.add_argument("--adapter", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--replace", action="store_true", help="put the new folder in the place of an older one")
    parser.add_argument("--dtype", choices=("auto", *DTYPES), default="auto", help="auto is the base model's own")
    parser.add_argument("--device", default="cpu", help="cpu (the default) or cuda")
    parser.add_argument("--test-prompt", metavar="TEXT", help="try base with adapter and the merged model on it")
    parser.add_argument("--trust-remote-code", action="store_true")
    options = parser.parse_args(argv)
    if not options.replace and os.path.lexists(options.out):
        raise WorkerError(f"{options.out} exists already: choose another or remove it (--replace does)")
    request = MergeRequest(
        options.adapter, options.dtype, options.device, options.test_prompt, options.trust_remote_code
    )
    config = check_adapter(request.adapter)
    base = options.base or find_base(request.adapter, config)
    config = keep_head(base, config, trust_remote_code=request.trust_remote_code)
    with fresh_folder(options.out) as folder:
        result = merge(request, base, config, folder)
        found = {"version": 1, "base": base, "adapter": str(request.adapter.resolve()), "out": str(options.out)}
        print(json.dumps({**found, **result}, ensure_ascii=False), flush=True)  # noqa: T201
        if not result["passed"]:
            raise WorkerError(*explain(result))
    return 0
