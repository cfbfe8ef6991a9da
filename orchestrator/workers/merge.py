"""Fold a LoRA adapter into its base model and save the result as a whole folder; compare such a folder with both."""

from __future__ import annotations

import argparse
import gc
import json
import shutil
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.workers import folders
from orchestrator.workers import merge_trial as trial
from orchestrator.workers.engines.sentence_transformers import PREFIX, WEIGHTS
from orchestrator.workers.engines.transformers import load_tokenizer, load_whole, name_head
from orchestrator.workers.failure import WorkerError
from orchestrator.workers.specs import DTYPES
from orchestrator.workers.weights import read_tensors, require_safetensors, require_sound
from orchestrator.workers.whole_weights import NEW_HEAD, require_whole

SWIFT_ARGUMENTS = "args.json"


@dataclass(frozen=True)
class Merge:
    """An adapter and its base, what its model gives (`kind`), and how both are loaded and tried.

    `task_type` is the class of model that the adapter was trained on, in PEFT's words.
    """

    base: str
    adapter: Path
    task_type: str | None
    kind: str
    device: str
    prompt: str | None
    trust_remote_code: bool

    def load(self, model: str | Path, dtype: str) -> Any:
        """Return the base, or what was merged, in that class."""
        options = {"trust_remote_code": self.trust_remote_code, "vectors": self.kind == trial.VECTORS}
        return load_whole(model, self.task_type, dtype, self.device, **options)

    def load_adapted(self, dtype: str) -> Any:
        """Return the base with the adapter on top. Raises WorkerError for weights that neither of the two has."""
        if self.task_type == "SEQ_CLS":
            new = require_whole(self.base, NEW_HEAD, trust_remote_code=self.trust_remote_code).new
            if lost := sorted(set(new) - read_whole_weights(self.adapter).keys()):
                raise WorkerError(
                    f"{self.adapter} was trained with a head that it does not hold ({', '.join(lost[:2])}), and "
                    f"{self.base} has none: the merged model would score by a random one. Train it again with the head "
                    "in modules_to_save; backend: sentence-transformers does so"
                )
        return attach_adapter(self.load(self.base, dtype), self.adapter).eval()

    def observe(self, folder: Path, tokenizer: Any) -> tuple[trial.Observed, str]:
        """Return what the merged model in a folder makes of texts and prompt, and how precisely it was saved."""
        saved = self.load(folder, "auto")
        found = trial.observe(saved, tokenizer, self.kind, self.prompt)
        used = str(saved.dtype).removeprefix("torch.")
        del saved
        gc.collect()
        return found, used


def open_merge(options: argparse.Namespace) -> Merge:
    """Return what the options ask for. Raises WorkerError for an adapter or a base that cannot be used."""
    adapter, trust = options.adapter, options.trust_remote_code
    config = check_adapter(adapter)
    base = options.base or str(config.get("base_model_name_or_path") or "")
    if not base:
        raise WorkerError(f"{adapter}/adapter_config.json names no base model: give it with --base")
    if not options.base and Path(base).is_absolute() and not Path(base).is_dir():
        raise WorkerError(f"{adapter} was trained from {base}, which is not there: give the base model with --base")
    # what says CAUSAL_LM, or nothing, fits a base with a trained head too: as a causal model it would lose it
    says_words = config.get("task_type") in {None, "CAUSAL_LM"}
    if says_words and name_head(base, trust_remote_code=trust, labels=None) == "pretrained":
        config = {**config, "task_type": "SEQ_CLS"}
    kind, task_type = find_kind(adapter, config), config.get("task_type")
    return Merge(base, adapter, task_type, kind, options.device, options.test_prompt, trust)


def check_adapter(folder: Path) -> dict[str, Any]:
    """Return the adapter's config. Raises WorkerError for one that is missing, damaged, or was never trained."""
    config_file = folder / "adapter_config.json"
    if not config_file.is_file():
        raise WorkerError(f"{folder} holds no adapter_config.json: it is not a LoRA adapter")
    files = [path for path in require_safetensors(folder) if path.name == WEIGHTS]
    if not files:
        raise WorkerError(f"{folder} holds no {WEIGHTS}: the adapter was not saved")
    require_sound(files, str(files[0]))
    # LoRA starts with B at zero, and only training moves it
    moved = [bool(tensor.any()) for name, tensor in read_tensors(files) if ".lora_B." in name or "embedding_B" in name]
    if not moved:
        raise WorkerError(f"{files[0]} holds no LoRA weights: nothing to merge")
    if not any(moved):
        raise WorkerError(f"{files[0]}: every lora_B is zero: nothing was trained, merging would give the base")
    return folders.read_object(config_file, "the adapter's config")


def read_whole_weights(adapter: Path) -> dict[str, Any]:
    """Return what an adapter holds beside LoRA: whole weights, by their names in the model."""
    tensors = read_tensors([adapter / WEIGHTS])
    return {name.removeprefix(PREFIX): tensor for name, tensor in tensors if ".lora_" not in name}


def find_kind(adapter: Path, config: dict[str, Any]) -> str:
    """Return what the adapter's model gives: a score, an embedding, or text."""
    if config.get("task_type") == "SEQ_CLS":
        return trial.SCORES
    # ms-swift says it in its own file only
    trained_as = folders.read_json(adapter / SWIFT_ARGUMENTS).get("task_type")
    is_vector = trained_as == "embedding" or config.get("task_type") == "FEATURE_EXTRACTION"
    return trial.VECTORS if is_vector else trial.LOGITS


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


def write_tokenizer(merge: Merge, folder: Path) -> Any:
    """Write the adapter's tokenizer into `folder`, or the base's when it has none, and return it.

    What ms-swift says of the training goes along.
    """
    trust = merge.trust_remote_code
    if folders.has_tokenizer(merge.adapter):
        folders.copy_tokenizer(merge.adapter, folder)
    else:
        load_tokenizer(merge.base, trust_remote_code=trust).save_pretrained(folder)
    if (merge.adapter / SWIFT_ARGUMENTS).is_file():  # ms-swift's own merge keeps it too: it says how the model is asked
        shutil.copyfile(merge.adapter / SWIFT_ARGUMENTS, folder / SWIFT_ARGUMENTS)
    return load_tokenizer(folder, trust_remote_code=trust)


def merge_into(merge: Merge, dtype: str, folder: Path) -> dict[str, Any]:
    """Write the merged model and a tokenizer into `folder`; return how it compares with base and adapter.

    Raises WorkerError when the merged weights are not finite.
    """
    tokenizer = write_tokenizer(merge, folder)
    adapted = merge.load_adapted(dtype)
    before = trial.observe(adapted, tokenizer, merge.kind, merge.prompt)
    try:
        adapted.merge_and_unload(safe_merge=True).save_pretrained(folder)
    except ValueError as error:  # safe_merge found NaN
        raise WorkerError(f"the adapter cannot be merged: {error}") from error
    require_sound(require_safetensors(folder), "merged model")
    del adapted
    gc.collect()
    # what is on the disk is what counts
    after, used = merge.observe(folder, tokenizer)
    result = {"dtype": used, **trial.judge(merge.kind, before, after, used, merge.prompt)}
    modules = trial.find_modules(merge.adapter, merge.base if merge.kind == trial.VECTORS else None)
    if modules is None:
        return result
    trial.copy_modules(modules, folder)
    # sentence-transformers trains its adapters so, and loads no others
    if merge.task_type != "FEATURE_EXTRACTION" or not result["passed"]:
        return result
    adapted, trust = merge.load_adapted(used), merge.trust_remote_code
    return {**result, **trial.compare_vectors(folder, adapted, used, trust_remote_code=trust)}


def compare_merged(merge: Merge, merged: Path) -> dict[str, Any]:
    """Return how the merged folder compares; both models are loaded in the precision that it was saved in."""
    require_sound(require_safetensors(merged), "merged model")
    tokenizer = load_tokenizer(merged, trust_remote_code=merge.trust_remote_code)
    after, used = merge.observe(merged, tokenizer)
    before = trial.observe(merge.load_adapted(used), tokenizer, merge.kind, merge.prompt)
    return {"dtype": used, **trial.judge(merge.kind, before, after, used, merge.prompt)}


def finish(merge: Merge, out: Path, result: dict[str, Any]) -> None:
    """Print the comparison as JSON. Raises WorkerError when the two differ."""
    found = {"version": 1, "base": merge.base, "adapter": str(merge.adapter.resolve()), "out": str(out)}
    print(json.dumps({**found, **result}, ensure_ascii=False), flush=True)  # noqa: T201
    if not result["passed"]:
        raise WorkerError(*trial.explain(result))


def build_parser(name: str, description: str) -> argparse.ArgumentParser:
    """Return the parser of what both workers take."""
    parser = argparse.ArgumentParser(prog=f"workers {name}", description=description, allow_abbrev=False)
    parser.add_argument("--base", help="a folder or a hub id; what adapter_config.json names by default")
    parser.add_argument("--adapter", type=Path, required=True)
    parser.add_argument("--test-prompt", metavar="TEXT", help="try base with adapter and the merged model on it")
    parser.add_argument("--trust-remote-code", action="store_true")
    return parser


def main(argv: list[str]) -> int:
    """Write the merged model to `--out`, which appears whole or not at all; print a JSON summary."""
    parser = build_parser("merge", "Fold a LoRA adapter into its base model and save the result as a whole folder.")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--replace", action="store_true", help="put the new folder in the place of an older one")
    parser.add_argument("--dtype", choices=("auto", *DTYPES), default="auto", help="auto is the base model's own")
    parser.add_argument("--device", default="cpu", help="cpu (the default) or cuda")
    options = parser.parse_args(argv)
    folders.refuse_existing(options.out, replace=options.replace)
    merge = open_merge(options)
    with folders.fresh_folder(options.out) as folder:
        finish(merge, options.out, merge_into(merge, options.dtype, folder))
    return 0


def verify(argv: list[str]) -> int:
    """Print how `--merged` compares with base and adapter. Raises WorkerError when it differs."""
    parser = build_parser("verify_merge", "Compare a merged folder with its base and adapter: numbers, and an answer.")
    parser.add_argument("--merged", type=Path, required=True)
    parser.set_defaults(device="cpu")
    options = parser.parse_args(argv)
    merge = open_merge(options)
    finish(merge, options.merged, compare_merged(merge, options.merged))
    return 0
