"""Run a causal language model over token ids: log probabilities of tokens, greedy answers, and where two part."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from orchestrator.workers.chat.encoding import Encoded

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
