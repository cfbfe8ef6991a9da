"""Look at a model folder, and print what was found as one line of JSON: its config and tokenizer, or its tensors.

PyTorch takes most of the time that transformers needs to start, and neither config nor tokenizer needs it: with
`--without-torch` transformers is told that it is not installed. Code that a folder brings along may need it.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from orchestrator.workers.failure import WorkerError, first_line
from orchestrator.workers.whole_weights import USES, judge_weights

PROBES = ("Orch reads this.", "这是另一句话。", "12 + 34")


def load_part(part: str, folder: Path, *, trust_remote_code: bool) -> Any:
    """Return the folder's config or tokenizer. Raises WorkerError with the library's own reason in one line."""
    import transformers

    try:
        if part == "config":
            return transformers.AutoConfig.from_pretrained(folder, trust_remote_code=trust_remote_code)
        return transformers.AutoTokenizer.from_pretrained(folder, trust_remote_code=trust_remote_code)
    except Exception as error:
        raise WorkerError(f"{folder}: its {part} does not load: {first_line(error)}") from error


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
    config = load_part("config", folder, trust_remote_code=trust_remote_code)
    tokenizer = load_part("tokenizer", folder, trust_remote_code=trust_remote_code)
    encoded = encode_probes(folder, tokenizer)
    return {
        "config": type(config).__name__,
        "model_type": config.model_type,
        "tokenizer": type(tokenizer).__name__,
        "vocabulary": len(tokenizer),
        "highest_id": max(max(tokens) for tokens in encoded),
    }


def main(argv: list[str]) -> int:
    """Print what config and tokenizer of `--model` are."""
    parser = build_parser("inspect_model", "Load a model folder's config and tokenizer, and encode a text.")
    parser.add_argument("--without-torch", action="store_true", help="start faster; for folders without code")
    options = parser.parse_args(argv)
    if options.without_torch:
        sys.modules["torch"] = None  # type: ignore[assignment]  # find_spec returns None for a module that is None
    return print_found(lambda: inspect(options.model, trust_remote_code=options.trust_remote_code))


def inspect_tensors(argv: list[str]) -> int:
    """Print what of `--model` does not fit the classes that it is wanted for."""
    parser = build_parser("inspect_tensors", "Hold a model's files against the classes that it is wanted for.")
    parser.add_argument("--use", choices=USES, nargs="+", required=True, help="what the model is wanted for")
    options = parser.parse_args(argv)

    def judge() -> dict[str, Any]:
        trust = options.trust_remote_code
        verdicts = [judge_weights(options.model, use, trust_remote_code=trust) for use in options.use]
        return {"verdicts": [asdict(verdict) for verdict in verdicts]}

    return print_found(judge)


def build_parser(name: str, description: str) -> argparse.ArgumentParser:
    """Return the parser of what both workers take."""
    parser = argparse.ArgumentParser(prog=f"workers {name}", description=description, allow_abbrev=False)
    parser.add_argument("--model", type=Path, required=True, help="a folder")
    parser.add_argument("--trust-remote-code", action="store_true", help="run Python code that the folder brings along")
    return parser


def print_found(find: Callable[[], dict[str, Any]]) -> int:
    """Print what is found, as one line of JSON."""
    os.environ["HF_HUB_OFFLINE"] = "1"  # a folder's files are all there is to look at
    with contextlib.redirect_stdout(sys.stderr):  # libraries print while they load
        found = find()
    sys.stdout.write(json.dumps(found, ensure_ascii=False) + "\n")
    return 0
