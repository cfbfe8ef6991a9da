"""The end token that a last-token embedding is read from: does a tokenizer append it, and how to make it do so."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from orchestrator.workers.failure import WorkerError
from orchestrator.workers.folders import write_json
from orchestrator.workers.tokenizer_files import read_json

# what Qwen3-Embedding ends every text with, and swift's template qwen3_emb
END_TOKEN = "<|endoftext|>"  # noqa: S105  a token of text


def build_end_processor(index: int) -> Any:
    """Return the post-processor of https://huggingface.co/Qwen/Qwen3-Embedding-0.6B/blob/main/tokenizer.json.

    A post-processor, because every library that reads tokenizer.json then appends the token, once, and because
    truncation leaves room for what a post-processor adds: a text that is cut keeps its end token.
    """
    from tokenizers import processors

    return processors.Sequence(
        [
            processors.ByteLevel(add_prefix_space=False, trim_offsets=False, use_regex=False),
            processors.TemplateProcessing(
                single=f"$A {END_TOKEN}",
                pair=f"$A {END_TOKEN} $B:1 {END_TOKEN}:1",
                special_tokens=[(END_TOKEN, index)],
            ),
        ]
    )


def require_end_token(tokenizer: Any, origin: str) -> int:
    """Return the end token's id. Raises WorkerError for a tokenizer without it."""
    index = tokenizer.get_vocab().get(END_TOKEN)
    if index is None:
        raise WorkerError(f"{origin}: its tokenizer has no token {END_TOKEN}, which last-token pooling reads")
    return int(index)


def appends_end_token(tokenizer: Any, origin: str) -> bool:
    """Tell whether the loaded tokenizer ends a text with the end token, exactly once; False when it adds nothing.

    Raises WorkerError for one that puts other tokens around a text: last-token pooling would read one of those.
    """
    plain, whole = (list(tokenizer("a", add_special_tokens=add)["input_ids"]) for add in (False, True))
    if whole == [*plain, require_end_token(tokenizer, origin)]:
        return True
    if whole == plain:
        return False
    added = tokenizer.decode(whole)
    raise WorkerError(f"{origin}: its tokenizer makes {added!r} of 'a'; a text ends with one {END_TOKEN} and no more")


def ensure_end_token(tokenizer: Any, origin: str) -> None:
    """Make the loaded tokenizer append the end token unless it does. Raises WorkerError where it cannot."""
    if not appends_end_token(tokenizer, origin):
        tokenizer.backend_tokenizer.post_processor = build_end_processor(require_end_token(tokenizer, origin))


def append_end_token(folder: Path, *, trust_remote_code: bool = False) -> None:
    """Make the folder's tokenizer append the end token unless it does; nothing else in tokenizer.json changes.

    Raises WorkerError for a folder without tokenizer.json or a tokenizer that cannot.
    """
    from tokenizers import Tokenizer
    from transformers import AutoTokenizer

    path = folder / "tokenizer.json"
    if not path.is_file():
        raise WorkerError(f"{folder} holds no tokenizer.json: its tokenizer cannot be made to append {END_TOKEN}")
    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=trust_remote_code)
    if appends_end_token(tokenizer, str(folder)):
        return
    core = Tokenizer.from_file(str(path))
    core.post_processor = build_end_processor(require_end_token(tokenizer, str(folder)))
    write_json(path, {**read_json(path), "post_processor": json.loads(core.to_str())["post_processor"]})
