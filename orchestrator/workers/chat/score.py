"""Measure a chat model on an eval file: -log p of each reference answer, and its own greedy answers.

The prompt is that of training (see chat_encoding), for the base model as for the tuned one. What is counted are exactly
the tokens that the training puts a loss on: the answer, the token that ends the turn, and what ms-swift adds behind it.
"""

from __future__ import annotations

import argparse
import itertools
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.workers.chat import model as lm
from orchestrator.workers.chat.encoding import ChatFormat, Encoded, load_format, load_own_format
from orchestrator.workers.engines.transformers import load_tokenizer, load_whole
from orchestrator.workers.environment import Progress
from orchestrator.workers.eval_files import ChatRow, Message, parse_messages, read_chat_rows
from orchestrator.workers.failure import WorkerError
from orchestrator.workers.reranker.scoring import choose_device
from orchestrator.workers.score import Scored, require_finite
from orchestrator.workers.specs import ChatSpec, parse_chat_spec


@dataclass(frozen=True)
class Cut:
    """A conversation within `max_length`, and what that took: nothing, "prompt" or "reference"."""

    encoded: Encoded
    taken_from: str | None


@dataclass(frozen=True)
class Loaded:
    """A model with its tokenizer and format, the conversations within `max_length`, and the prompts to answer."""

    model: Any
    tokenizer: Any
    chat: ChatFormat
    cuts: list[Cut]
    prompts: list[list[int]]


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
    for taken in lm.take_batches(encoded, batch_size, vocabulary):
        sums.update(zip(taken, lm.sum_nll(model, [encoded[i] for i in taken], pad), strict=True))
        progress.advance(len(taken))
    require_finite(sums.values(), "rows")
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


@dataclass(frozen=True)
class ChatJob:
    """The conversations of an eval file, in its order."""

    spec: ChatSpec
    rows: list[ChatRow]

    def fits(self, rows: list[dict[str, Any]]) -> bool:
        """Tell whether the lines are those of the conversations."""
        return [line["id"] for line in rows] == [row.id for row in self.rows]

    def load(self, model: str, devices: Sequence[str]) -> Loaded:
        """Return the model, on the first device, and the conversations in the ids that it reads."""
        spec = self.spec
        tokenizer = load_tokenizer(model, trust_remote_code=spec.trust_remote_code)
        chat = load_format(tokenizer, spec)
        cuts = [cut_encoded(chat.encode(row.messages, row.reference), spec.max_length) for row in self.rows]
        prompts = [chat.encode_prompt(row.messages)[-spec.max_length :] for row in self.rows[: spec.generate]]
        language_model = load_whole(
            model, "CAUSAL_LM", spec.dtype, devices[0], trust_remote_code=spec.trust_remote_code
        )
        return Loaded(language_model, tokenizer, chat, cuts, prompts)

    def score(self, loaded: Loaded, kept: Path | None = None) -> Scored:  # noqa: ARG002  all are read anew
        """Return -log p of each reference, and the model's own answers to the first prompts."""
        model, tokenizer, chat, cuts = loaded.model, loaded.tokenizer, loaded.chat, loaded.cuts
        stop_ids, pad = lm.find_stop_ids(model, tokenizer, chat.stop_id), lm.choose_pad(tokenizer)
        progress = Progress(total=len(self.rows) + len(loaded.prompts))
        started = time.monotonic()
        sums = score_rows(model, cuts, pad, self.spec.batch_size, progress)
        scored = time.monotonic()
        answers = lm.answer_all(
            model,
            loaded.prompts,
            pad=pad,
            stop_ids=stop_ids,
            max_new_tokens=self.spec.max_new_tokens,
            batch_size=self.spec.batch_size,
            advance=progress.advance,
        )
        generating_s = time.monotonic() - scored
        texts = [tokenizer.decode(answer.ids, skip_special_tokens=True) for answer in answers]
        rows = [
            {"id": row.id, "nll": nll, "tokens": len(cut.encoded.targets), "generation": text}
            for row, cut, nll, text in itertools.zip_longest(self.rows, cuts, sums, texts)
        ]
        tokens = sum(len(cut.encoded.targets) for cut in cuts)
        facts = {
            "dtype_used": self.spec.dtype,
            "rows": len(rows),
            "tokens": tokens,
            "longest": max(len(cut.encoded.ids) for cut in cuts),
            "max_length": self.spec.max_length,
            "prompts_cut": sum(cut.taken_from == "prompt" for cut in cuts),
            "references_cut": sum(cut.taken_from == "reference" for cut in cuts),
            "loss": sum(sums) / tokens,
            "generations": len(answers),
            "max_new_tokens": self.spec.max_new_tokens,
            "hit_max_new_tokens": sum(not answer.ended for answer in answers),
            "empty_generations": sum(not answer.ids for answer in answers),
            "generated_tokens": sum(len(answer.ids) for answer in answers),
            "generating_s": round(generating_s, 3),
            "scoring_s": round(scored - started, 3),
            **chat.facts,
            "stop_ids": stop_ids,
            "other_prompts_in_own_template": count_other_prompts(tokenizer, self.spec, chat, self.rows),
        }
        return Scored(rows, facts)


def open_job(raw: dict[str, Any], options: argparse.Namespace) -> ChatJob:
    """Return the job. Raises WorkerError for a bad spec or eval file."""
    return ChatJob(parse_chat_spec(raw, str(options.scoring)), read_chat_rows(options.data))


def read_messages(where: str, row: dict[str, Any]) -> list[Message]:
    """Return the conversation of one row, `{"prompt": text}` or `{"messages": […]}`. Raises WorkerError."""
    if isinstance(row.get("prompt"), str):
        return [{"role": "user", "content": row["prompt"]}]
    messages = parse_messages(row.get("messages"))
    if messages is None:
        raise WorkerError(f'{where}: not {{"prompt": TEXT}} or {{"messages": [{{"role", "content"}}, …]}}')
    if messages[-1]["role"] != "user":
        raise WorkerError(f"{where}: its last message is the {messages[-1]['role']}'s, where the user's is wanted")
    return messages


def predict(
    model: Path, raw: dict[str, Any], rows: Sequence[tuple[str, dict[str, Any]]], device: str | None
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Return `{"answer": text}` for each row, greedy, in the folder's own chat template. Raises WorkerError."""
    spec = parse_chat_spec(raw, str(model / "scoring.json"))
    conversations = [read_messages(*row) for row in rows]
    if not conversations:
        return [], {}
    tokenizer = load_tokenizer(str(model), trust_remote_code=spec.trust_remote_code)
    chat = load_own_format(tokenizer, spec.system)
    prompts = [chat.encode_prompt(messages)[-spec.max_length :] for messages in conversations]
    trust = spec.trust_remote_code
    loaded = load_whole(model, "CAUSAL_LM", spec.dtype, choose_device(device), trust_remote_code=trust)
    answers = lm.answer_all(
        loaded,
        prompts,
        pad=lm.choose_pad(tokenizer),
        stop_ids=lm.find_stop_ids(loaded, tokenizer, chat.stop_id),
        max_new_tokens=spec.max_new_tokens,
        batch_size=spec.batch_size,
    )
    return [{"answer": tokenizer.decode(answer.ids, skip_special_tokens=True)} for answer in answers], {}
