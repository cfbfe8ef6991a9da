"""Whether a model's folder has a tokenizer that is whole and no larger than the model.

ms-swift trains every text as token 0 where there is none, and ends with exit code 0.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.errors import Problem
from orchestrator.machine.files import read_once
from orchestrator.machine.json_files import load_json
from orchestrator.machine.weights import describe_damage, is_lfs_pointer

# Each alone is a whole vocabulary: of tokenizers, of BERT, of sentencepiece, of tiktoken, of Mistral.
_VOCABULARIES = (
    "tokenizer.json", "vocab.txt", "spiece.model", "sentencepiece.bpe.model", "sentencepiece.model", "tokenizer.model",
    "spm.model", "bpe.codes", "tekken.json",
)  # fmt: skip
_PAIRED = ("vocab.json", "merges.txt")


@dataclass(frozen=True)
class Tokens:
    """What a tokenizer.json says of its tokens: the highest id plus one, None where it has no list; those added."""

    size: int | None
    added: tuple[tuple[int, str], ...]


def find_tokenizer_problems(folder: Path, *, rows: int | None) -> Iterator[Problem]:
    """Yield what is missing or damaged; `rows` are those of the model's token embeddings, where they are known."""
    there = [name for name in (*_VOCABULARIES, *_PAIRED) if (folder / name).is_file()]
    there += sorted(path.name for path in folder.glob("*.tiktoken"))
    if not there and not _brings_tokenizer_code(folder):
        message = f"{folder} has no tokenizer: no tokenizer.json, vocab.txt, vocab.json or sentencepiece model"
        yield Problem(message, "copy the tokenizer's files from the model that it was made from")
    lonely = [name for name in _PAIRED if name in there]
    if len(lonely) == 1 and there == lonely:
        absent = next(name for name in _PAIRED if name not in lonely)
        yield Problem(f"{folder / absent} is not there, and {lonely[0]} is no tokenizer without it", "copy it too")
    for name in there:
        if name != "tokenizer.json" and is_lfs_pointer(folder / name):
            yield describe_damage(folder / name, "")
    if "tokenizer.json" in there:
        yield from _check_tokenizer_json(folder / "tokenizer.json", rows)


def find_token_beyond(folder: Path, rows: int) -> str | None:
    """Return a token that was added to the tokenizer and has no row in the model; None where there is none."""
    tokens = _read_tokens(folder / "tokenizer.json")
    return next((content for number, content in tokens.added if number >= rows), None) if tokens else None


def _check_tokenizer_json(path: Path, rows: int | None) -> Iterator[Problem]:
    tokens = _read_tokens(path)
    if tokens is None:
        yield describe_damage(path, "it is no tokenizer in JSON")
        return
    if tokens.size == 0:
        yield Problem(f"{path} has an empty vocabulary", "copy it from the model that it was made from")
    if tokens.size is not None and rows is not None and tokens.size > rows:
        message = f"{path} has {tokens.size} tokens, and the model has embeddings for {rows}: it is another model's"
        yield Problem(message, "copy the tokenizer's files from the model that it was made from")


@read_once  # it takes a second for 150,000 tokens
def _read_tokens(path: Path) -> Tokens | None:
    """Return what a tokenizer.json says of its tokens; None where it is none."""
    tokenizer = _load(path)
    if tokenizer is None or not isinstance(tokenizer.get("model"), dict):
        return None
    added = tokenizer.get("added_tokens")
    named = [token for token in added if isinstance(token, dict)] if isinstance(added, list) else []
    return Tokens(
        _count_vocabulary(tokenizer["model"].get("vocab")),
        tuple((token["id"], str(token.get("content"))) for token in named if isinstance(token.get("id"), int)),
    )


def _count_vocabulary(vocabulary: Any) -> int | None:
    """Return one more than the highest id: BPE and WordPiece map tokens to ids, Unigram lists them."""
    if isinstance(vocabulary, list):
        return len(vocabulary)
    if not isinstance(vocabulary, dict):
        return None
    return max((number for number in vocabulary.values() if isinstance(number, int)), default=-1) + 1


def _brings_tokenizer_code(folder: Path) -> bool:
    """Tell whether the tokenizer is a Python class of the folder, which knows its own files."""
    config = _load(folder / "tokenizer_config.json")
    return bool(config and config.get("auto_map"))


def _load(path: Path) -> dict[str, Any] | None:
    try:
        value = load_json(path, constants=True)
    except (OSError, ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None
