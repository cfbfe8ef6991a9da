"""Prove that a packaged chat model is the one that was trained: same logits, same answer, in float32, one at a time."""

from __future__ import annotations

import gc
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.workers.chat.checks import check_answer, check_copied, check_tied
from orchestrator.workers.chat.model import (
    Answer,
    answer_greedily,
    choose_pad,
    compute_last_logits,
    find_stop_ids,
)
from orchestrator.workers.environment import weight_options
from orchestrator.workers.failure import WorkerError
from orchestrator.workers.merge import attach_adapter, load_base
from orchestrator.workers.verification_checks import (
    COMPUTE_TOLERANCE,
    MERGE_TOLERANCE,
    Check,
    as_number,
    check_changed_scores,
    check_changed_weights,
    check_complete,
    check_finite,
    check_merge_keeps_training,
    check_not_constant,
    check_same,
    check_weights,
    measure_scale,
)
from orchestrator.workers.weights import WeightScan, hash_parameters

if TYPE_CHECKING:
    from orchestrator.workers.kinds import Request

LONGEST_PROBE_TOKENS = 1024
# logits of a probe that are held against each other: at the last position, every n-th of the vocabulary
MAX_NUMBERS = 512
ANSWER_TOKENS = 48


@dataclass(frozen=True)
class Questions:
    """What every model is asked: ids of the probes, and the prompts that it answers greedily, the test prompt first.

    Every `step`-th logit of a vocabulary is looked at: of the same ids in models of different vocabularies.
    """

    probes: list[list[int]]
    prompts: list[list[int]]
    pad: int
    stop_id: int | None
    step: int = 1


@dataclass(frozen=True)
class Seen:
    """What one model made of the questions."""

    numbers: list[float]
    answers: list[Answer]
    hashes: dict[str, str]
    stop_ids: list[int]
    missing: tuple[str, ...] = ()


def ask(model: Any, tokenizer: Any, questions: Questions, *, missing: tuple[str, ...] = (), hashed: bool) -> Seen:
    """Return what the model makes of the questions; it is asked one at a time, without padding.

    Raises WorkerError for a model that has no embedding of one of their tokens.
    """
    rows = model.get_input_embeddings().weight.shape[0]
    highest = max(max(ids) for ids in (*questions.probes, *questions.prompts))
    if highest >= rows:
        raise WorkerError(
            f"{getattr(model.config, 'name_or_path', '') or 'the model'} has {rows} tokens, and the tokenizer gives a "
            f"probe token {highest}: the vocabulary was enlarged in training, so the two cannot be compared"
        )
    stop_ids = find_stop_ids(model, tokenizer, questions.stop_id)
    numbers: list[float] = []
    for ids in questions.probes:
        logits = compute_last_logits(model, [ids[:LONGEST_PROBE_TOKENS]], questions.pad, 1)[0, -1].float()
        numbers += logits[:: questions.step].tolist()
    answers = [
        answer_greedily(model, [prompt], pad=questions.pad, stop_ids=stop_ids, max_new_tokens=ANSWER_TOKENS, top=True)[
            0
        ]
        for prompt in questions.prompts
    ]
    return Seen(numbers, answers, hash_parameters(model) if hashed else {}, stop_ids, missing)


def ask_base(request: Request, tokenizer: Any, questions: Questions, *, trust: bool) -> tuple[Seen, Seen | None]:
    """Return what the base makes of the questions, and the base with the adapter, where there is one."""
    model = load_base(request.base, "CAUSAL_LM", "float32", trust_remote_code=trust).to(request.device).eval()
    base = ask(model, tokenizer, questions, hashed=True)
    adapted = None
    if request.adapter is not None:
        model = attach_adapter(model, request.adapter).eval()
        adapted = ask(model.get_base_model(), tokenizer, questions, hashed=False)
    del model
    release()
    return base, adapted


def ask_packaged(folder: Path, tokenizer: Any, questions: Questions, device: str, *, trust: bool) -> tuple[Seen, bool]:
    """Return what the packaged model makes of the questions, and whether input and output embeddings are one."""
    from transformers import AutoModelForCausalLM

    model, info = AutoModelForCausalLM.from_pretrained(
        folder, torch_dtype="float32", output_loading_info=True, trust_remote_code=trust, **weight_options()
    )
    model = model.to(device).eval()
    lacking = {*map(str, info.get("missing_keys", ())), *(str(key[0]) for key in info.get("mismatched_keys", ()))}
    seen = ask(model, tokenizer, questions, missing=tuple(sorted(lacking)), hashed=True)
    output = model.get_output_embeddings()
    tied = output is not None and output.weight is model.get_input_embeddings().weight
    del model, output
    release()
    return seen, tied


def release() -> None:
    """Give back the memory of models that went out of scope."""
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def build_checks(
    request: Request, folder: Path, scan: WeightScan, seen: dict[str, Seen], *, tied: tuple[bool, bool], count: int
) -> list[Check]:
    """Return every check of weights, logits and answers of `count` probes.

    `tied` is what the config says, and what was loaded.
    """
    base, packaged = seen["base"], seen["packaged"]
    checks = [
        check_weights(scan),
        check_copied(request.model, folder),
        check_complete(packaged.missing),
        check_tied(folder, wanted=tied[0], tied=tied[1]),
        check_finite({name: one.numbers for name, one in seen.items()}),
        check_changed_weights(base.hashes, packaged.hashes),
        check_changed_scores(*share_vocabulary(count, base.numbers, packaged.numbers)),
        check_not_constant(packaged.numbers),
    ]
    adapted = seen.get("adapter")
    if adapted is not None:
        share = max((MERGE_TOLERANCE.get(dtype, 5e-2) for dtype in scan.dtypes), default=COMPUTE_TOLERANCE)
        checks.append(check_same("merged", "the merged model", packaged.numbers, adapted.numbers, share))
        checks.append(
            check_merge_keeps_training(*share_vocabulary(count, base.numbers, adapted.numbers, packaged.numbers))
        )
        tolerance = share * measure_scale(adapted.numbers)
        checks.append(check_answer(adapted.answers[0], packaged.answers[0], packaged.stop_ids, tolerance))
    return checks


def describe_probes(seen: dict[str, Seen], heads: Sequence[tuple[str, str]], count: int) -> list[dict[str, Any]]:
    """Return, for each probe, where it comes from and how far the packaged model is from the others."""
    names = list(seen)
    shared = dict(zip(names, share_vocabulary(count, *(seen[name].numbers for name in names)), strict=True))
    packaged = shared["packaged"]
    width = len(packaged) // count
    lines = []
    for index, (origin, prompt) in enumerate(heads):
        part = slice(index * width, (index + 1) * width)
        distances = {
            f"from_{name}": as_number(
                max(abs(one - other) for one, other in zip(values[part], packaged[part], strict=True))
            )
            for name, values in shared.items()
            if name != "packaged"
        }
        lines.append({"origin": origin, "prompt": prompt[:80], **distances})
    return lines


def share_vocabulary(count: int, *numbers: list[float]) -> list[list[float]]:
    """Return the numbers of `count` probes for the tokens that every model has: training may add some."""
    widths = [len(found) // count for found in numbers]
    width = min(widths)
    return [
        [value for index in range(count) for value in found[index * own : index * own + width]]
        for found, own in zip(numbers, widths, strict=True)
    ]


def build_questions(trained: Any, tokenizer: Any, probes: Sequence[Any], prompts: Sequence[Any]) -> Questions:
    """Return the ids of the probes with their answers and of the prompts, as training encodes them."""
    return Questions(
        probes=[trained.encode(probe.messages, probe.answer).ids for probe in probes],
        prompts=[trained.encode_prompt(messages) for messages in prompts],
        pad=choose_pad(tokenizer),
        stop_id=trained.stop_id,
        step=max(1, len(tokenizer) // MAX_NUMBERS),
    )
