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


@dataclass(frozen=True)
class ChatModel:
    """A causal language model and its tokenizer; `stop_id` ends a turn of the format that it is asked in."""

    model: Any
    tokenizer: Any
    stop_id: int | None = None

    @property
    def stop_ids(self) -> list[int]:
        """Every id that ends an answer: the format's, the model's own, the tokenizer's."""
        own = self.model.generation_config.eos_token_id
        found = [self.stop_id, *(own if isinstance(own, list) else [own]), self.tokenizer.eos_token_id]
        return list(dict.fromkeys(one for one in found if one is not None))

    @property
    def pad_id(self) -> int:
        """An id to fill short rows with; the mask hides it."""
        pad = self.tokenizer.pad_token_id
        return pad if pad is not None else (self.tokenizer.eos_token_id or 0)

    def pad_left(self, rows: Sequence[list[int]]) -> dict[str, Any]:
        """Return ids and mask [rows, columns]; every row ends at the last column."""
        import torch

        width, device = max(map(len, rows)), self.model.device
        ids = torch.tensor([[self.pad_id] * (width - len(row)) + row for row in rows], device=device)
        mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows], device=device)
        return {"input_ids": ids, "attention_mask": mask}

    def compute_last_logits(self, rows: Sequence[list[int]], keep: int = 1) -> Any:
        """Return the logits of the last `keep` columns, rows x keep x vocabulary, in the model's dtype."""
        import torch

        inputs, known = self.pad_left(rows), inspect.signature(self.model.forward).parameters
        if "position_ids" in known:  # each row's count from its own first id
            inputs["position_ids"] = (inputs["attention_mask"].cumsum(-1) - 1).clamp(min=0)
        more = {"logits_to_keep": keep} if "logits_to_keep" in known else {}
        with torch.inference_mode():
            return self.model(**inputs, **more, use_cache=False).logits[:, -keep:]

    def sum_nll(self, batch: Sequence[Encoded]) -> list[float]:
        """Return, for each row, the sum of -log p of its target tokens, each given all ids before it."""
        import torch
        from torch.nn.functional import cross_entropy

        # the logits at a position speak of the next one
        keep = max(len(row.ids) - row.targets[0] for row in batch) + 1
        logits = self.compute_last_logits([row.ids for row in batch], keep)
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

    def answer(
        self,
        prompts: Sequence[list[int]],
        max_new_tokens: int,
        batch_size: int = 1,
        *,
        top: bool = False,
        advance: Callable[[int], None] = lambda _: None,
    ) -> list[Answer]:
        """Return the most probable continuation of each prompt, in order, token by token; with its `top` if asked.

        Prompts of similar length are run together, the longest first; `advance` is told how many are done.
        """
        import torch
        from transformers import GenerationConfig

        stop_ids, kept = self.stop_ids, self.model.generation_config
        # the model's own sampling settings and penalties would be filled in where this one says nothing
        self.model.generation_config = settings = GenerationConfig(
            do_sample=False,
            num_beams=1,
            max_new_tokens=max_new_tokens,
            eos_token_id=stop_ids,
            pad_token_id=self.pad_id,
            return_dict_in_generate=True,
            output_logits=top,
        )
        order = sorted(range(len(prompts)), key=lambda place: -len(prompts[place]))
        answers: dict[int, Answer] = {}
        for start in range(0, len(order), batch_size):
            taken = order[start : start + batch_size]
            inputs = self.pad_left([prompts[place] for place in taken])
            with torch.inference_mode():
                output = self.model.generate(**inputs, generation_config=settings)
            written = output.sequences[:, inputs["input_ids"].shape[1] :].tolist()
            for row, (place, ids) in enumerate(zip(taken, written, strict=True)):
                end = next((position for position, one in enumerate(ids) if one in stop_ids), len(ids))
                # the token that ended it counts: two models may differ in whether to stop
                largest = [step[row].float().topk(TOP) for step in output.logits[: end + 1]] if top else []
                tops = (dict(zip(one.indices.tolist(), one.values.tolist(), strict=True)) for one in largest)
                answers[place] = Answer(ids[:end], end < len(ids), tuple(tops))
            advance(len(taken))
        self.model.generation_config = kept  # it is saved with the model
        return [answers[place] for place in range(len(prompts))]


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


def cut_encoded(encoded: Encoded, max_length: int) -> Encoded:
    """Cut the prompt from the left; of an answer that is too long alone its beginning stays, and one prompt token."""
    excess = len(encoded.ids) - max_length
    if excess <= 0:
        return encoded
    start = encoded.targets[0]
    dropped = min(excess, start - 1)
    ids = encoded.ids[dropped:][:max_length]
    targets = [target - dropped for target in encoded.targets if target - dropped < max_length]
    return Encoded(ids, targets, "prompt" if excess < start else "reference")


# a model with its format, the conversations within `max_length`, and the prompts to answer
Loaded = tuple[ChatModel, ChatFormat, list[Encoded], list[list[int]]]


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
        encoded = [cut_encoded(chat.encode(row.messages, row.reference), spec.max_length) for row in self.rows]
        prompts = [chat.encode_prompt(row.messages)[-spec.max_length :] for row in self.rows[: spec.generate]]
        loaded = load_whole(model, "CAUSAL_LM", spec.dtype, devices[0], trust_remote_code=spec.trust_remote_code)
        return ChatModel(loaded, tokenizer, chat.stop_id), chat, encoded, prompts

    def score(self, loaded: Loaded, kept: Path | None = None) -> Scored:  # noqa: ARG002  all are read anew
        """Return -log p of each reference, and the model's own answers to the first prompts.

        Raises WorkerError for NaN or infinity.
        """
        (model, chat, encoded, prompts), spec = loaded, self.spec
        tokenizer, stop_ids = model.tokenizer, model.stop_ids
        progress = Progress(total=len(self.rows) + len(prompts))
        started = time.monotonic()
        nll = dict.fromkeys(range(len(encoded)), 0.0)
        for taken in take_batches(encoded, spec.batch_size, int(model.model.config.get_text_config().vocab_size)):
            nll.update(zip(taken, model.sum_nll([encoded[place] for place in taken]), strict=True))
            progress.advance(len(taken))
        sums = list(nll.values())
        require_finite(sums, "rows")
        scored = time.monotonic()
        answers = model.answer(prompts, spec.max_new_tokens, spec.batch_size, advance=progress.advance)
        generating_s = time.monotonic() - scored
        texts = [tokenizer.decode(answer.ids, skip_special_tokens=True) for answer in answers]
        rows = [
            {"id": row.id, "nll": total, "tokens": len(one.targets), "generation": text}
            for row, one, total, text in itertools.zip_longest(self.rows, encoded, sums, texts)
        ]
        tokens = sum(len(one.targets) for one in encoded)
        facts = {
            "dtype_used": spec.dtype,
            "rows": len(rows),
            "tokens": tokens,
            "longest": max(len(one.ids) for one in encoded),
            "max_length": spec.max_length,
            "prompts_cut": sum(one.taken_from == "prompt" for one in encoded),
            "references_cut": sum(one.taken_from == "reference" for one in encoded),
            "loss": sum(sums) / tokens,
            "generations": len(answers),
            "max_new_tokens": spec.max_new_tokens,
            "hit_max_new_tokens": sum(not answer.ended for answer in answers),
            "empty_generations": sum(not answer.ids for answer in answers),
            "generated_tokens": sum(len(answer.ids) for answer in answers),
            "generating_s": round(generating_s, 3),
            "scoring_s": round(scored - started, 3),
            **chat.facts,
            "stop_ids": stop_ids,
            "other_prompts_in_own_template": count_other_prompts(tokenizer, spec, chat, self.rows),
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
    answers = ChatModel(loaded, tokenizer, chat.stop_id).answer(prompts, spec.max_new_tokens, spec.batch_size)
    return [{"answer": tokenizer.decode(answer.ids, skip_special_tokens=True)} for answer in answers], {}
