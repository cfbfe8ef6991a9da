"""Make a saved tokenizer fit to ship: no truncation or padding left over from training, and the sentinel split."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from orchestrator.workers.folders import read_object, write_json, write_text

FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "vocab.txt",
    "tokenizer.model",
    "sentencepiece.bpe.model",
    "spiece.model",
    "chat_template.jinja",
)
# This class reads tokenizer.json as it is, while transformers 5 rebuilds a Qwen2Tokenizer's pre-tokenizer from its code
VERBATIM_CLASS = "PreTrainedTokenizerFast"
# what one loading leaves in the next save, and nothing that belongs to a model
LEFTOVERS = ("backend", "is_local", "local_files_only", "chat_template", "max_length", "stride", "truncation_strategy")


def has_tokenizer(folder: Path) -> bool:
    """Tell whether the folder holds a tokenizer."""
    return any((folder / name).is_file() for name in ("tokenizer.json", "tokenizer.model", "vocab.txt", "vocab.json"))


def copy_tokenizer(source: Path, target: Path) -> None:
    """Copy the tokenizer's files; truncation and padding, which a trainer leaves in tokenizer.json, become null."""
    for name in FILES:
        if (source / name).is_file():
            shutil.copyfile(source / name, target / name)
    core = read_json(target / "tokenizer.json")
    if core.get("truncation") is not None or core.get("padding") is not None:
        write_json(target / "tokenizer.json", {**core, "truncation": None, "padding": None})


def read_json(path: Path) -> dict[str, Any]:
    """Return the JSON object in the file, or an empty one when there is no file. Raises WorkerError."""
    return read_object(path, "the file") if path.is_file() else {}


def update_settings(folder: Path, **settings: Any) -> None:
    """Set keys of tokenizer_config.json and drop what an earlier loading left in it."""
    path = folder / "tokenizer_config.json"
    kept = {key: value for key, value in read_json(path).items() if key not in LEFTOVERS}
    write_json(path, {**kept, **settings})


def add_sentinel(folder: Path, sentinel: str) -> bool:
    """Make tokenizer.json split at `sentinel` and drop it; tell whether it has a pre-tokenizer to stand before.

    Texts without the sentinel keep their ids.
    """
    path = folder / "tokenizer.json"
    core = read_json(path)
    inner = core.get("pre_tokenizer")
    if inner is None:
        return False
    steps = inner["pretokenizers"] if inner["type"] == "Sequence" else [inner]
    split = {"type": "Split", "pattern": {"String": sentinel}, "behavior": "Removed", "invert": False}
    write_json(path, {**core, "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, *steps]}})
    update_settings(folder, tokenizer_class=VERBATIM_CLASS)
    return True


def set_chat_template(folder: Path, template: str) -> None:
    """Write chat_template.jinja, the only chat template of the folder."""
    write_text(folder / "chat_template.jinja", template)
