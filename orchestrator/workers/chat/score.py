"""Measure a chat model on an eval file: -log p of each reference answer, and its own greedy answers.

The prompt is that of training (see chat_encoding), for the base model as for the tuned one. What is counted are exactly
the tokens that the training puts a loss on: the answer, the token that ends the turn, and what ms-swift adds behind it.
"""

from __future__ import annotations

import argparse
import math
import time
from dataclasses import dataclass, replace
from typing import Any

from orchestrator.workers.chat.encoding import ChatFormat, Encoded, load_format, load_own_format
from orchestrator.workers.chat.model import (
    Answer,
    answer_all,
    choose_pad,
    find_stop_ids,
    load_chat_model,
    load_chat_tokenizer,
    sum_nll,
    take_batches,
)
from orchestrator.workers.chat.rows import ChatRow, read_chat_rows
from orchestrator.workers.chat.spec import ChatSpec, parse_chat_spec
from orchestrator.workers.failure import WorkerError
from orchestrator.workers.progress import Progress
from orchestrator.workers.score_files import open_scoring


@dataclass(frozen=True)
class Cut:
    """A conversation within `max_length`, and what that took: nothing, "prompt" or "reference"."""

    encoded: Encoded
    taken_from: str | None


def cut_encoded(encoded: Encoded, max_length: int) -> Cut:
    """Cut the prompt from the left; of an answer that is too long alone its beginning stays, and one prompt token."""
    excess = len(encoded.ids) - max_length
    if excess <= 0:
        return Cut(encoded, None)
    start = encoded.targets[0]
    dropped = min(excess, start - 1)
    ids = encoded.ids[dropped:][:max_length]
    targets = [target - dropped for target in encoded.targets if target - dropped < max_length]
    return Cut(Encoded(ids, targets), "prompt" if excess < start else "reference")


def score_rows(model: Any, cuts: list[Cut], pad: int, batch_size: int, progress: Progress) -> list[float]:
    """Return each row's sum of -log p. Raises WorkerError for NaN or infinity."""
    encoded = [cut.encoded for cut in cuts]
    vocabulary = int(model.config.get_text_config().vocab_size)
    sums: dict[int, float] = {}
    for taken in take_batches(encoded, batch_size, vocabulary):
        sums.update(zip(taken, sum_nll(model, [encoded[i] for i in taken], pad), strict=True))
        progress.advance(len(taken))
    bad = sum(not math.isfinite(value) for value in sums.values())
    if bad:
        raise WorkerError(
            f"the model gives NaN or infinity for {bad} of {len(sums)} rows: its weights or its precision are broken"
        )
    return [sums[index] for index in range(len(encoded))]


def count_other_prompts(tokenizer: Any, spec: ChatSpec, chat: ChatFormat, rows: list[ChatRow]) -> int | None:
    """Return for how many rows the model's own chat template gives another prompt; None where it has none."""
    if not tokenizer.chat_template:
        return None
    try:
        own = load_own_format(tokenizer, spec.system)
        return sum(own.encode_prompt(row.messages) != chat.encode_prompt(row.messages) for row in rows)
    except WorkerError:  # it refuses what training takes, such as a system message
        return None


def describe_cuts(spec: ChatSpec, cuts: list[Cut]) -> dict[str, Any]:
    """Return the facts about lengths."""
    return {
        "tokens": sum(len(cut.encoded.targets) for cut in cuts),
        "longest": max(len(cut.encoded.ids) for cut in cuts),
        "max_length": spec.max_length,
        "prompts_cut": sum(cut.taken_from == "prompt" for cut in cuts),
        "references_cut": sum(cut.taken_from == "reference" for cut in cuts),
    }


def describe_answers(spec: ChatSpec, answers: list[Answer], seconds: float) -> dict[str, Any]:
    """Return the facts about the model's own answers."""
    return {
        "generations": len(answers),
        "max_new_tokens": spec.max_new_tokens,
        "hit_max_new_tokens": sum(not answer.ended for answer in answers),
        "empty_generations": sum(not answer.ids for answer in answers),
        "generated_tokens": sum(len(answer.ids) for answer in answers),
        "generating_s": round(seconds, 3),
    }


def build_lines(rows: list[ChatRow], cuts: list[Cut], sums: list[float], texts: list[str]) -> list[dict[str, Any]]:
    """Return the lines of scores.jsonl."""
    return [
        {
            "id": row.id,
            "nll": nll,
            "tokens": len(cut.encoded.targets),
            "generation": texts[index] if index < len(texts) else None,
        }
        for index, (row, cut, nll) in enumerate(zip(rows, cuts, sums, strict=True))
    ]


def run(options: argparse.Namespace, raw: dict[str, Any]) -> int:
    """Write scores.jsonl and scoring.json (last) into `options.out`.

    `options` has model, data, out, device and batch_size (None: the spec's). Raises WorkerError.
    """
    spec = parse_chat_spec(raw, str(getattr(options, "scoring", "the scoring spec")))
    if options.batch_size:
        spec = replace(spec, batch_size=options.batch_size)
    rows = read_chat_rows(options.data)
    scoring = open_scoring(options, raw, spec.batch_size)
    if scoring.restore(lambda kept: [line["id"] for line in kept] == [row.id for row in rows]):
        return 0
    started = time.monotonic()
    tokenizer = load_chat_tokenizer(options.model, trust_remote_code=spec.trust_remote_code)
    chat = load_format(tokenizer, spec)
    cuts = [cut_encoded(chat.encode(row.messages, row.reference), spec.max_length) for row in rows]
    prompts = [chat.encode_prompt(row.messages)[-spec.max_length :] for row in rows[: spec.generate]]
    model = load_chat_model(options.model, spec.dtype, scoring.device, trust_remote_code=spec.trust_remote_code)
    stop_ids, pad = find_stop_ids(model, tokenizer, chat.stop_id), choose_pad(tokenizer)
    loaded = time.monotonic()
    progress = Progress(total=len(rows) + len(prompts))
    sums = score_rows(model, cuts, pad, spec.batch_size, progress)
    scored = time.monotonic()
    answers = answer_all(
        model,
        prompts,
        pad=pad,
        stop_ids=stop_ids,
        max_new_tokens=spec.max_new_tokens,
        batch_size=spec.batch_size,
        advance=progress.advance,
    )
    generated = time.monotonic()
    texts = [tokenizer.decode(answer.ids, skip_special_tokens=True) for answer in answers]
    lengths = describe_cuts(spec, cuts)
    scoring.write(
        build_lines(rows, cuts, sums, texts),
        {
            "dtype_used": spec.dtype,
            "rows": len(rows),
            **lengths,
            "loss": sum(sums) / lengths["tokens"],
            **describe_answers(spec, answers, generated - scored),
            "loading_s": round(loaded - started, 3),
            "scoring_s": round(scored - loaded, 3),
            **chat.facts,
            "stop_ids": stop_ids,
            "other_prompts_in_own_template": count_other_prompts(tokenizer, spec, chat, rows),
        },
    )
    return 0
