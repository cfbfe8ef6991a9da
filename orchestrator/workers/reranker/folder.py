"""What stands around a reranker's weights, so that sentence-transformers gives the scores of its training."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from orchestrator.workers.engines.sentence_transformers import write_cross_encoder
from orchestrator.workers.engines.transformers import load_tokenizer
from orchestrator.workers.eval_files import Pair
from orchestrator.workers.folders import add_sentinel, read_json, set_chat_template, update_settings, write_json
from orchestrator.workers.reranker import formats
from orchestrator.workers.specs import ScoringSpec


def write_format(folder: Path, spec: ScoringSpec, trained: Path) -> dict[str, Any]:
    """Write prompt or formats, lengths and modules; return what scoring.json says of them.

    The prompt of `flag-llm-reranker`, which `write_exact_template` writes, is made of the tokens of the `trained`
    folder's tokenizer.
    """
    trust = spec.trust_remote_code
    if spec.scorer == "cross-encoder":
        update_settings(folder, model_max_length=spec.max_length)
        write_cross_encoder(folder, chat=False)
        return {}
    if spec.scorer == "formatted-head":
        return write_written_format(folder, spec)
    config = read_json(folder / "config.json")
    if config.get("use_cache") is False:  # trainers save it off, and generation is needlessly slow without
        write_json(folder / "config.json", {**config, "use_cache": True})
    if spec.scorer == "flag-llm-reranker":
        tokenizer = load_tokenizer(trained, trust_remote_code=trust)
        length, token = formats.sequence_length(tokenizer, spec), formats.true_token_id(tokenizer, spec)
        update_settings(folder, model_max_length=length, padding_side="left")
        write_cross_encoder(folder, words=(token,))
        return {"max_seq_length": length, "true_token": spec.true_token, "true_token_id": token}
    update_settings(folder, model_max_length=spec.max_length, padding_side="left")
    set_chat_template(folder, formats.write_pair(spec).template)
    tokenizer = load_tokenizer(folder, trust_remote_code=trust)
    if spec.scorer == "qwen3-score-head":
        write_cross_encoder(folder, pad_token_id=tokenizer.pad_token_id)
        return {}
    yes, no = formats.answer_ids(tokenizer, folder.name).values()
    write_cross_encoder(folder, words=(yes, no))
    return {"true_token": "yes", "true_token_id": yes, "false_token": "no", "false_token_id": no}


def write_exact_template(folder: Path, spec: ScoringSpec, trained: Any, pairs: Sequence[Pair]) -> bool:
    """Write the chat template; tell whether it gives exactly the ids of training, or comes near them only."""
    names = ("tokenizer.json", "tokenizer_config.json")
    kept = {name: (folder / name).read_bytes() for name in names if (folder / name).is_file()}
    if add_sentinel(folder, formats.SENTINEL):
        set_chat_template(folder, formats.build_chat_template(trained, spec))
        if renders_same_ids(folder, spec, trained, pairs):
            return True
        for name, content in kept.items():
            (folder / name).write_bytes(content)
    set_chat_template(folder, formats.build_chat_template(trained, spec, sentinel=""))
    return renders_same_ids(folder, spec, trained, pairs)


def renders_same_ids(folder: Path, spec: ScoringSpec, trained: Any, pairs: Sequence[Pair]) -> bool:
    """Tell whether the packaged tokenizer and chat template give the ids of training, for every pair that fits."""
    packaged = load_tokenizer(folder, trust_remote_code=spec.trust_remote_code)
    return all(
        formats.encode_pair(trained, spec, *pair)
        == formats.encode_pair(packaged, spec, *pair)
        == render_ids(packaged, pair)
        for pair in pairs
        if not formats.is_cut(trained, spec, *pair)
    )


def render_ids(tokenizer: Any, pair: Pair) -> list[int]:
    """Return the ids of the pair in the tokenizer's own chat template."""
    messages = [{"role": role, "content": text} for role, text in zip(("query", "document"), pair, strict=True)]
    return list(tokenizer.apply_chat_template(messages, tokenize=True, return_dict=True)["input_ids"])


def write_written_format(folder: Path, spec: ScoringSpec) -> dict[str, Any]:
    """Write the two formats of a decoder's pairs, its padding, lengths and modules; return what scoring.json says.

    The padding is written even when the checkpoint has one: it decides at which token the logit is read.
    """
    pair_format = formats.format_of(spec)
    tokenizer = load_tokenizer(folder, trust_remote_code=spec.trust_remote_code)
    padding = formats.choose_padding(tokenizer, pair_format)
    update_settings(
        folder, model_max_length=spec.max_length, padding_side="right", truncation_side="right", pad_token=padding
    )
    set_chat_template(folder, pair_format.template)
    pad_token_id = tokenizer.convert_tokens_to_ids(padding)
    write_json(folder / "config.json", {**read_json(folder / "config.json"), "pad_token_id": pad_token_id})
    write_cross_encoder(folder, pad_token_id=pad_token_id)
    # the training's format does without the tokens that a tokenizer may put around a text
    return {"adds_special_tokens": bool(tokenizer("a")["input_ids"] != formats.encode_plain(tokenizer, "a"))}
