"""Load a model folder's config and tokenizer, encode a text, and print what was found as one line of JSON.

PyTorch takes most of the time that transformers needs to start, and neither config nor tokenizer needs it: with
`--without-torch` transformers is told that it is not installed. Code that a folder brings along may need it.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
from pathlib import Path
from typing import Any

from orchestrator.workers.failure import WorkerError

PROBES = ("Orch reads this.", "这是另一句话。", "12 + 34")


def load_config(folder: Path, *, trust_remote_code: bool) -> Any:
    """Return the folder's config. Raises WorkerError with the library's own reason in one line."""
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(folder, trust_remote_code=trust_remote_code)
    except Exception as error:
        raise WorkerError(f"{folder}: its config does not load: {first_line(error)}") from error


def load_tokenizer(folder: Path, *, trust_remote_code: bool) -> Any:
    """Return the folder's tokenizer. Raises WorkerError with the library's own reason in one line."""
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(folder, trust_remote_code=trust_remote_code)
    except Exception as error:
        raise WorkerError(f"{folder}: its tokenizer does not load: {first_line(error)}") from error


def encode_probes(folder: Path, tokenizer: Any) -> list[list[int]]:
    """Return the tokens of each probe. Raises WorkerError when different texts become the same, or none."""
    try:
        encoded = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in PROBES]
    except Exception as error:
        raise WorkerError(f"{folder}: its tokenizer cannot encode a text: {first_line(error)}") from error
    # without its files BERT's tokenizer has five tokens and turns every word into [UNK], and Qwen's has only token 0
    if not all(encoded) or len({token for tokens in encoded for token in tokens}) <= len(PROBES):
        raise WorkerError(f"{folder}: its tokenizer has {len(tokenizer)} tokens, and turns every word into one of them")
    return encoded


def inspect(folder: Path, *, trust_remote_code: bool) -> dict[str, Any]:
    """Return what the folder's config and tokenizer are. Raises WorkerError when one of them does not load."""
    config = load_config(folder, trust_remote_code=trust_remote_code)
    tokenizer = load_tokenizer(folder, trust_remote_code=trust_remote_code)
    encoded = encode_probes(folder, tokenizer)
    return {
        "config": type(config).__name__,
        "model_type": config.model_type,
        "tokenizer": type(tokenizer).__name__,
        "vocabulary": len(tokenizer),
        "highest_id": max(max(tokens) for tokens in encoded),
    }


def first_line(error: Exception) -> str:
    """Return the first line of a library's message, and its type where it has none."""
    lines = str(error).strip().splitlines()
    return lines[0][:300] if lines else type(error).__name__


def hide_torch() -> None:
    """Make transformers find no PyTorch: `importlib.util.find_spec` returns None for a module that is None."""
    sys.modules["torch"] = None  # type: ignore[assignment]


def main(argv: list[str]) -> int:
    """Print what `--model` is."""
    parser = argparse.ArgumentParser(prog="workers inspect_model", description=__doc__, allow_abbrev=False)
    parser.add_argument("--model", type=Path, required=True, help="a folder")
    parser.add_argument("--trust-remote-code", action="store_true", help="run Python code that the folder brings along")
    parser.add_argument("--without-torch", action="store_true", help="start faster; for folders without code")
    options = parser.parse_args(argv)
    os.environ["HF_HUB_OFFLINE"] = "1"  # a folder's files are all there is to look at
    if options.without_torch:
        hide_torch()
    with contextlib.redirect_stdout(sys.stderr):  # libraries print while they load
        found = inspect(options.model, trust_remote_code=options.trust_remote_code)
    sys.stdout.write(json.dumps(found, ensure_ascii=False) + "\n")
    return 0
