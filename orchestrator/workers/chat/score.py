"""Run a chat model: log probabilities of tokens, greedy answers and where two part; and measure it on an eval file.

Measured are -log p of each reference answer, and the model's own greedy answers.

The prompt is that of training (see chat_encoding), for the base model as for the tuned one. What is counted are exactly
the tokens that the training puts a loss on: the answer, the token that ends the turn, and what ms-swift adds behind it.
"""

from __future__ import annotations

import argparse
import inspect
import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.workers.chat.encoding import ChatFormat, Encoded, load_format, load_own_format
from orchestrator.workers.engines.transformers import load_tokenizer, load_whole
from orchestrator.workers.environment import Progress
from orchestrator.workers.eval_files import ChatRow, Message, parse_messages, read_chat_rows
from orchestrator.workers.failure import WorkerError
from orchestrator.workers.reranker.scoring import choose_device
from orchestrator.workers.score import Scored, require_finite
from orchestrator.workers.specs import ChatSpec, parse_chat_spec

# numbers that one batch may hold as logits: 1 GiB in float32
MAX_LOGITS = 2**28
# positions whose logits are turned to float32 at a time
CHUNK = 256
TOP = 5


@dataclass(frozen=True)
class Answer:
    """Greedy tokens without the one that ended them; `ended` is False where only the length did.

    `top` holds, for each token, the `TOP` largest logits by token id, where they were asked for.
    """

    ids: list[int]
    ended: bool
    top: tuple[dict[int, float], ...] = ()


def pad_left(model: Any, rows: Sequence[list[int]], pad: int) -> dict[str, Any]:
    """Return the model's inputs; every row ends at the last column, and its positions count from its own first id."""
    import torch

    width = max(map(len, rows))
    ids = torch.tensor([[pad] * (width - len(row)) + row for row in rows], device=model.device)
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows], device=model.device)
    inputs = {"input_ids": ids, "attention_mask": mask}
    if "position_ids" in inspect.signature(model.forward).parameters:
        inputs["position_ids"] = (mask.cumsum(-1) - 1).clamp(min=0)
    return inputs


def compute_last_logits(model: Any, rows: Sequence[list[int]], pad: int, keep: int) -> Any:
    """Return the logits of the last `keep` columns, rows x keep x vocabulary, in the model's dtype."""
    import torch

    inputs = pad_left(model, rows, pad)
    if "logits_to_keep" in inspect.signature(model.forward).parameters:
        inputs["logits_to_keep"] = keep
    with torch.inference_mode():
        return model(**inputs, use_cache=False).logits[:, -keep:]


def sum_nll(model: Any, batch: Sequence[Encoded], pad: int) -> list[float]:
    """Return, for each row, the sum of -log p of its target tokens, each given all ids before it."""
    import torch
    from torch.nn.functional import cross_entropy

    # the logits at a position speak of the next one
    keep = max(len(row.ids) - row.targets[0] for row in batch) + 1
    logits = compute_last_logits(model, [row.ids for row in batch], pad, keep)
    sums = []
    for index, row in enumerate(batch):
        columns = torch.tensor([keep - len(row.ids) + target - 1 for target in row.targets], device=logits.device)
        wanted = torch.tensor([row.ids[target] for target in row.targets], device=logits.device)
        total = 0.0
        for start in range(0, len(wanted), CHUNK):
            part = logits[index, columns[start : start + CHUNK]].float()
            total += float(cross_entropy(part, wanted[start : start + CHUNK], reduction="sum"))
        sums.append(total)
    return sums


def take_batches(batch: Sequence[Encoded], batch_size: int, vocabulary: int) -> Iterator[list[int]]:
    """Yield positions of rows of similar length, the longest first, with at most `MAX_LOGITS` logits (or one row)."""
    order = sorted(range(len(batch)), key=lambda index: -len(batch[index].ids))
    taken: list[int] = []
    longest = 0
    for index in order:
        scored = len(batch[index].ids) - batch[index].targets[0] + 1
        too_many = (len(taken) + 1) * max(longest, scored) * vocabulary > MAX_LOGITS
        if taken and (len(taken) == batch_size or too_many):
            yield taken
            taken, longest = [], 0
        taken.append(index)
        longest = max(longest, scored)
    if taken:
        yield taken


def find_stop_ids(model: Any, tokenizer: Any, stop_id: int | None) -> list[int]:
    """Return every id that ends an answer: the format's, the model's own, the tokenizer's."""
    own = model.generation_config.eos_token_id
    found = [stop_id, *(own if isinstance(own, list) else [own]), tokenizer.eos_token_id]
    return list(dict.fromkeys(one for one in found if one is not None))


def answer_greedily(
    model: Any, prompts: Sequence[list[int]], *, pad: int, stop_ids: list[int], max_new_tokens: int, top: bool = False
) -> list[Answer]:
    """Return the most probable continuation of each prompt, one batch, token by token."""
    import torch
    from transformers import GenerationConfig

    # the model's own sampling settings and penalties would be filled in where this one says nothing
    settings = GenerationConfig(
        do_sample=False,
        num_beams=1,
        max_new_tokens=max_new_tokens,
        eos_token_id=stop_ids,
        pad_token_id=pad,
        return_dict_in_generate=True,
        output_logits=top,
    )
    model.generation_config = settings
    inputs = pad_left(model, prompts, pad)
    inputs.pop("position_ids", None)
    with torch.inference_mode():
        output = model.generate(**inputs, generation_config=settings)
    answers = []
    for index, ids in enumerate(output.sequences[:, inputs["input_ids"].shape[1] :].tolist()):
        end = next((position for position, one in enumerate(ids) if one in stop_ids), len(ids))
        largest: tuple[dict[int, float], ...] = ()
        if top:  # the token that ended it counts: two models may differ in whether to stop
            largest = tuple(find_top(step[index]) for step in output.logits[: end + 1])
        answers.append(Answer(ids[:end], end < len(ids), largest))
    return answers


def find_top(logits: Any) -> dict[int, float]:
    """Return the largest logits by token id, the largest first."""
    found = logits.float().topk(TOP)
    return dict(zip(found.indices.tolist(), found.values.tolist(), strict=True))


def answer_all(
    model: Any,
    prompts: Sequence[list[int]],
    *,
    pad: int,
    stop_ids: list[int],
    max_new_tokens: int,
    batch_size: int,
    advance: Callable[[int], None] | None = None,
) -> list[Answer]:
    """Return an answer to each prompt, in order; prompts of similar length are run together, the longest first."""
    order = sorted(range(len(prompts)), key=lambda index: -len(prompts[index]))
    answers: dict[int, Answer] = {}
    for start in range(0, len(order), batch_size):
        taken = order[start : start + batch_size]
        found = answer_greedily(
            model, [prompts[i] for i in taken], pad=pad, stop_ids=stop_ids, max_new_tokens=max_new_tokens
        )
        answers.update(zip(taken, found, strict=True))
        if advance is not None:
            advance(len(taken))
    return [answers[index] for index in range(len(prompts))]


def choose_pad(tokenizer: Any) -> int:
    """Return an id to fill short rows with; the mask hides it."""
    return tokenizer.pad_token_id if tokenizer.pad_token_id is not None else (tokenizer.eos_token_id or 0)


def compare_answers(
    answer: Answer, other: Answer, stop_ids: Sequence[int], tolerance: float
) -> tuple[bool, dict[str, Any]]:
    """Return whether two answers agree, up to a tie that rounding may turn, and the facts for a report.

    `answer` needs its top logits. Its two tokens tie where they are no farther apart than `tolerance`, by which logits
    differ; `margin` is None where it does not rank the other's token among its best.
    """
    # an answer that ended has one more token, any of those that end it
    first, second = ([*one.ids, *([-1] if one.ended else [])] for one in (answer, other))
    if first == second:
        return True, {"same": True}
    shorter, margin = min(len(first), len(second)), None
    position = next((place for place in range(shorter) if first[place] != second[place]), shorter)
    if position < shorter:
        largest, wanted = answer.top[position], second[position]
        rivals = [largest[token] for token in (stop_ids if wanted == -1 else [wanted]) if token in largest]
        margin = max(largest.values()) - max(rivals) if rivals else None
    tie = margin is not None and margin <= tolerance
    return tie, {"same": False, "first_difference": position, "margin": margin, "tie": tie}


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
    for taken in take_batches(encoded, batch_size, vocabulary):
        sums.update(zip(taken, sum_nll(model, [encoded[i] for i in taken], pad), strict=True))
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
        stop_ids, pad = find_stop_ids(model, tokenizer, chat.stop_id), choose_pad(tokenizer)
        progress = Progress(total=len(self.rows) + len(loaded.prompts))
        started = time.monotonic()
        sums = score_rows(model, cuts, pad, self.spec.batch_size, progress)
        scored = time.monotonic()
        answers = answer_all(
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
    answers = answer_all(
        loaded,
        prompts,
        pad=choose_pad(tokenizer),
        stop_ids=find_stop_ids(loaded, tokenizer, chat.stop_id),
        max_new_tokens=spec.max_new_tokens,
        batch_size=spec.batch_size,
    )
    return [{"answer": tokenizer.decode(answer.ids, skip_special_tokens=True)} for answer in answers], {}
