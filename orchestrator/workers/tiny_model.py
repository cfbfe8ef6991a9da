"""Build a tiny, seeded, random model of a real architecture, whose tokenizer is trained on the run's own texts.

The tokenizers follow the rules of real ones: Qwen's byte-level BPE, and BERT's word pieces.
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.workers.embedding.folder import append_end_token
from orchestrator.workers.failure import WorkerError
from orchestrator.workers.folders import fresh_folder, read_object, update_settings, write_json
from orchestrator.workers.reranker.formats import NATIVE_PREFIX, NATIVE_SUFFIX
from orchestrator.workers.specs import DEFAULT_INSTRUCTION, DEFAULT_PROMPT

MAX_CHARS = 4000
MAX_VOCABULARY = 2000
MAX_TEXTS = 20_000
MAX_POSITIONS = 4096
# https://huggingface.co/Qwen/Qwen3-Reranker-0.6B/blob/main/tokenizer.json: the pre-tokenizer of Qwen2 and Qwen3
QWEN_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN_SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
QWEN_MARKS = ("<think>", "</think>")
ANSWERS = ("yes", "no", "Yes", "No")
QWEN_ROLES = {"eos": "<|im_end|>", "pad": "<|endoftext|>"}
BERT_ROLES = ("pad", "unk", "cls", "sep", "mask")
# the tokens that every prompt costs stay few
PROMPTS = (
    DEFAULT_PROMPT,
    NATIVE_PREFIX,
    f"<Instruct>: {DEFAULT_INSTRUCTION}\n<Query>: ",
    "\n<Document>: ",
    NATIVE_SUFFIX,
)
QWEN_CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
# https://huggingface.co/Qwen/Qwen3-0.6B/blob/main/tokenizer_config.json without tools: earlier answers lose their
# thoughts, the last one always has a think block, and enable_thinking=False opens the answer with an empty one
QWEN3_TEMPLATE = Path(__file__).resolve().parent / "chat" / "templates" / "qwen3.jinja"


@dataclass(frozen=True)
class Family:
    """A kind of tiny model: its model types with settings of their own, its tokenizer, and what is added to that.

    `roles` are the tokenizer's tokens that the config names.
    """

    types: dict[str, dict[str, Any]]
    loader: str
    save_tokenizer: Callable[[list[str], Path], Any]
    settings: dict[str, Any]
    roles: tuple[str, ...] = ("eos_token_id", "pad_token_id")
    finish: Callable[[Path], object] | None = None


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


def save_qwen_tokenizer(texts: list[str], folder: Path) -> Any:
    """Train a byte-level BPE with Qwen's rules, save it as a Qwen2Tokenizer, and return it as it loads again."""
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    core = Tokenizer(models.BPE())
    core.normalizer = normalizers.NFC()
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(QWEN_SPLIT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=MAX_VOCABULARY - len(QWEN_SPECIAL) - len(QWEN_MARKS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    # each answer must be one token, as in Qwen's vocabulary: more frequent than any other pair of bytes
    core.train_from_iterator([*ANSWERS * MAX_TEXTS, *PROMPTS * 4, *texts], trainer=trainer)
    core.add_special_tokens([AddedToken(token, special=True) for token in QWEN_SPECIAL])
    core.add_tokens([AddedToken(token, special=False, normalized=False) for token in QWEN_MARKS])
    saved = PreTrainedTokenizerFast(
        tokenizer_object=core,
        **{f"{role}_token": token for role, token in QWEN_ROLES.items()},
        padding_side="left",
        model_max_length=MAX_POSITIONS,
    )
    saved.chat_template = QWEN_CHAT_TEMPLATE
    saved.save_pretrained(folder)
    # FlagEmbedding 1.3 asks for the slow tokenizer, which reads vocab.json and merges.txt; real folders have all three
    core.model.save(str(folder))
    name_tokenizer_class(folder, "Qwen2Tokenizer")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    if split := [word for word in (*ANSWERS, *QWEN_MARKS) if len(tokenizer(word)["input_ids"]) != 1]:
        raise WorkerError(f"the tiny tokenizer splits {split}, which must be single tokens")
    return tokenizer


def save_bert_tokenizer(texts: list[str], folder: Path) -> Any:
    """Make a WordPiece vocabulary with BERT's rules, save it as a BertTokenizer, and return it as it loads again."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    normalizer, splitter = normalizers.BertNormalizer(lowercase=True), pre_tokenizers.BertPreTokenizer()
    words: Counter[str] = Counter()
    for text in texts:
        words.update(word for word, _ in splitter.pre_tokenize_str(normalizer.normalize_str(text)))
    # special tokens, every character as a beginning and as a continuation, and the most frequent words; the library's
    # WordPieceTrainer numbers continuations in the order of a hash map, another one in every process
    characters = sorted({character for word in words for character in word})
    frequent = sorted(words, key=lambda word: (-words[word], word))
    special = [f"[{role.upper()}]" for role in BERT_ROLES]
    tokens = dict.fromkeys([*special, *characters, *(f"##{one}" for one in characters), *frequent])
    vocabulary = {token: index for index, token in enumerate(list(tokens)[:MAX_VOCABULARY])}
    core = Tokenizer(models.WordPiece(vocab=vocabulary, unk_token="[UNK]"))  # noqa: S106  a token of text
    core.normalizer = normalizer
    core.pre_tokenizer = splitter
    core.decoder = decoders.WordPiece()
    ids = {token: core.token_to_id(token) for token in ("[CLS]", "[SEP]")}
    core.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=list(ids.items())
    )
    saved = PreTrainedTokenizerFast(
        tokenizer_object=core, **{f"{role}_token": f"[{role.upper()}]" for role in BERT_ROLES}, model_max_length=512
    )
    saved.save_pretrained(folder)
    name_tokenizer_class(folder, "BertTokenizer")
    return AutoTokenizer.from_pretrained(folder)


def name_tokenizer_class(folder: Path, name: str) -> None:
    """Say in tokenizer_config.json that the tokenizer is of the class that real models of the family name."""
    path = folder / "tokenizer_config.json"
    settings = read_object(path, "the tokenizer's settings")
    settings.pop("backend", None)
    write_json(path, {**settings, "tokenizer_class": name})


def add_m3_heads(folder: Path) -> None:
    """Write bge-m3's heads as FlagEmbedding saves them, and name an end token, of which its sparse weights are 0."""
    import torch

    path = folder / "tokenizer_config.json"
    write_json(path, {**read_object(path, "the tokenizer's settings"), "bos_token": "[CLS]", "eos_token": "[SEP]"})
    torch.manual_seed(0)
    width = _SIZES["hidden_size"]
    for name, size in (("colbert_linear.pt", width), ("sparse_linear.pt", 1)):
        head = torch.nn.Linear(width, size)
        if size == 1:
            torch.nn.init.ones_(head.bias)  # a random weight is negative half the time, and counts as 0 then
        torch.save(head.state_dict(), folder / name)


_SIZES: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    # with the usual 0.02 a random model's scores are all but equal; with 0.2 they depend on what attention reads
    "initializer_range": 0.2,
}
_DECODER = {
    **_SIZES,
    "num_key_value_heads": 2,
    "max_position_embeddings": MAX_POSITIONS,
    "tie_word_embeddings": True,
    "bos_token_id": None,
}
_QWEN3: dict[str, dict[str, Any]] = {"qwen3": {"head_dim": 8}}
# `m3` is the encoder with bge-m3's heads,
# `embedding` and `chat` are the decoder with the end token, or the chat template, of Qwen3-Embedding and Qwen3
# ids of BERT_ROLES; a ModernBERT has no token types
_MODERNBERT = {"bos_token_id": 2, "cls_token_id": 2, "eos_token_id": 3, "sep_token_id": 3}
_ENCODER = ("AutoModel", save_bert_tokenizer, {**_SIZES, "max_position_embeddings": 512}, ("pad_token_id",))
_CAUSAL = ("AutoModelForCausalLM", save_qwen_tokenizer, _DECODER)
FAMILIES = {
    "decoder": Family({**_QWEN3, "qwen2": {}}, *_CAUSAL),
    "encoder": Family({"bert": {}, "modernbert": _MODERNBERT}, *_ENCODER),
    "m3": Family({"bert": {}}, *_ENCODER, finish=add_m3_heads),
    "embedding": Family(_QWEN3, *_CAUSAL, finish=append_end_token),
    "chat": Family(
        _QWEN3, *_CAUSAL, finish=lambda folder: shutil.copyfile(QWEN3_TEMPLATE, folder / "chat_template.jinja")
    ),
}


def build_tiny_model(like: str, model_type: str | None, texts: list[str], folder: Path, seed: int) -> None:
    """Write tokenizer and weights into `folder`; no `model_type` is the first of `like`. Raises WorkerError."""
    family = FAMILIES[like]
    kind = model_type or next(iter(family.types))
    if kind not in family.types:
        raise WorkerError(f"no tiny {like} of model type {kind!r}: known are {', '.join(family.types)}")
    import torch
    import transformers

    tokenizer = family.save_tokenizer(texts, folder)
    if family.finish:
        family.finish(folder)
    ids = {"vocab_size": len(tokenizer), **{role: getattr(tokenizer, role) for role in family.roles}}
    if kind == "modernbert":
        update_settings(folder, model_input_names=["input_ids", "attention_mask"])
    config = transformers.AutoConfig.for_model(kind, **family.settings, **family.types[kind], **ids)
    torch.manual_seed(seed)
    getattr(transformers, family.loader).from_config(config).save_pretrained(folder)


def main(argv: list[str]) -> int:
    """Write a tiny model to `--out`."""
    parser = argparse.ArgumentParser(prog="workers tiny_model", description=__doc__, allow_abbrev=False)
    parser.add_argument("--like", choices=sorted(FAMILIES), required=True)
    parser.add_argument("--model-type", help="qwen3 (or qwen2 for a decoder), bert or modernbert for an encoder")
    parser.add_argument(
        "--texts", type=Path, nargs="+", required=True, help="JSONL files; every string in them is read"
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=42)
    options = parser.parse_args(argv)
    texts = read_texts(options.texts)
    with fresh_folder(options.out) as folder:
        build_tiny_model(options.like, options.model_type, texts, folder, options.seed)
    return 0
