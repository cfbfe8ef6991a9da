"""Build a tiny, seeded, random model of a real architecture, whose tokenizer is trained on the run's own texts."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from orchestrator.workers.embedding.end_token import append_end_token
from orchestrator.workers.failure import WorkerError
from orchestrator.workers.folders import fresh_folder
from orchestrator.workers.tiny_tokenizers import (
    ANSWERS,
    MAX_POSITIONS,
    MAX_TEXTS,
    QWEN3_CHAT_TEMPLATE,
    QWEN_MARKS,
    save_bert_tokenizer,
    save_qwen_tokenizer,
    use_chat_template,
)

MAX_CHARS = 4000
# With the usual 0.02 a random model's scores are all but equal; with 0.2 they depend on what attention reads
INITIALIZER_RANGE = 0.2
# `embedding` and `chat` are the decoder with the end token, or the chat template, of Qwen3-Embedding and Qwen3
FAMILIES = {"decoder": ("qwen3", "qwen2"), "encoder": ("bert",), "embedding": ("qwen3",), "chat": ("qwen3",)}


def read_strings(value: Any) -> Iterator[str]:
    """Yield every string inside a parsed JSON value, keys left out."""
    if isinstance(value, str):
        yield value[:MAX_CHARS]
    elif isinstance(value, dict):
        for item in value.values():
            yield from read_strings(item)
    elif isinstance(value, list):
        for item in value:
            yield from read_strings(item)


def read_texts(paths: list[Path]) -> list[str]:
    """Return the strings of the JSONL files, at most `MAX_TEXTS`. Raises WorkerError for a file without any."""
    texts: list[str] = []
    for path in paths:
        with path.open(encoding="utf-8-sig") as stream:
            for line in stream:
                if line.strip() and len(texts) < MAX_TEXTS:
                    texts.extend(read_strings(json.loads(line)))
    if not texts:
        raise WorkerError(f"no text in {', '.join(map(str, paths))}: a tokenizer cannot be trained on nothing")
    return texts[:MAX_TEXTS]


def build_decoder(model_type: str, tokenizer: Any) -> Any:
    """Return a random causal language model of two layers, hidden size 32, tied embeddings."""
    from transformers import AutoConfig, AutoModelForCausalLM

    settings = {
        "vocab_size": len(tokenizer),
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": MAX_POSITIONS,
        "tie_word_embeddings": True,
        "initializer_range": INITIALIZER_RANGE,
        "bos_token_id": None,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    if model_type == "qwen3":
        settings["head_dim"] = 8
    return AutoModelForCausalLM.from_config(AutoConfig.for_model(model_type, **settings))


def build_encoder(tokenizer: Any) -> Any:
    """Return a random BERT of two layers, hidden size 32, without a head."""
    from transformers import BertConfig, BertModel

    settings = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=512,
        initializer_range=INITIALIZER_RANGE,
        pad_token_id=tokenizer.pad_token_id,
    )
    return BertModel(settings)


def build_tiny_model(like: str, model_type: str, texts: list[str], folder: Path, seed: int) -> None:
    """Write tokenizer and weights into `folder`. Raises WorkerError for an unknown family."""
    if model_type not in FAMILIES[like]:
        raise WorkerError(f"no tiny {like} of model type {model_type!r}: known are {', '.join(FAMILIES[like])}")
    import torch

    decoder = like != "encoder"
    tokenizer = save_qwen_tokenizer(texts, folder) if decoder else save_bert_tokenizer(texts, folder)
    if decoder:
        split = [word for word in (*ANSWERS, *QWEN_MARKS) if len(tokenizer(word)["input_ids"]) != 1]
        if split:
            raise WorkerError(f"the tiny tokenizer splits {split}, which must be single tokens")
    if like == "embedding":
        append_end_token(folder)
    if like == "chat":
        use_chat_template(folder, QWEN3_CHAT_TEMPLATE)
    torch.manual_seed(seed)
    model = build_decoder(model_type, tokenizer) if decoder else build_encoder(tokenizer)
    model.save_pretrained(folder)


def main(argv: list[str]) -> int:
    """Write a tiny model to `--out`."""
    parser = argparse.ArgumentParser(prog="workers tiny_model", description=__doc__, allow_abbrev=False)
    parser.add_argument("--like", choices=sorted(FAMILIES), required=True)
    parser.add_argument("--model-type", help="qwen3 (or qwen2 for a decoder), bert for an encoder")
    parser.add_argument(
        "--texts", type=Path, nargs="+", required=True, help="JSONL files; every string in them is read"
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=42)
    options = parser.parse_args(argv)
    texts = read_texts(options.texts)
    with fresh_folder(options.out) as folder:
        build_tiny_model(options.like, options.model_type or FAMILIES[options.like][0], texts, folder, options.seed)
    return 0
