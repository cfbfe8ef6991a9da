"""Try a merged model against base and adapter: the same numbers on built-in texts, the same answer to a prompt."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from orchestrator.workers.chat.greedy_comparison import describe_divergence, find_divergence
from orchestrator.workers.chat.model import Answer, answer_greedily, choose_pad, find_stop_ids
from orchestrator.workers.reranker.probes import AWKWARD, EXAMPLES
from orchestrator.workers.verification_checks import MERGE_TOLERANCE, compare

TEXTS = tuple(f"{query}\n{document}" for query, document in (*EXAMPLES, *AWKWARD[:3]))
# of a vocabulary of 150 000, these many logits tell two models apart as well
MAX_NUMBERS = 512
ANSWER_TOKENS = 32
SHOWN_NUMBERS = 8

SCORES, VECTORS, LOGITS = "score", "embedding", "generation"


@dataclass(frozen=True)
class Observed:
    """What a model makes of the built-in texts (numbers one after the other) and of the test prompt, if there is one.

    `trial` is the prompt's score (one number), its vector, or nothing beside an `answer`.
    """

    numbers: list[float]
    trial: list[float]
    answer: Answer | None = None
    text: str | None = None
    stop_ids: tuple[int, ...] = ()


def measure(model: Any, tokenizer: Any, kind: str, text: str) -> list[float]:
    """Return a text's score, its last token's vector, or some logits of its last position."""
    import torch

    encoded = tokenizer(text, return_tensors="pt", truncation=True, max_length=512).to(model.device)
    inputs = {"input_ids": encoded["input_ids"], "attention_mask": encoded["attention_mask"]}
    with torch.inference_mode():
        if kind == VECTORS:
            found = model(**inputs, output_hidden_states=True).hidden_states[-1][0, -1]
        elif kind == SCORES:
            found = model(**inputs).logits[0]
        else:
            found = model(**inputs, use_cache=False).logits[0, -1]
            found = found[:: max(1, len(found) // MAX_NUMBERS)]
    return [float(value) for value in found.float()]


def render_prompt(tokenizer: Any, prompt: str) -> list[int]:
    """Return the ids of a prompt, as a user's message where there is a chat template."""
    if tokenizer.chat_template:
        prompt = tokenizer.apply_chat_template(
            [{"role": "user", "content": prompt}], tokenize=False, add_generation_prompt=True, enable_thinking=False
        )
        return list(tokenizer(prompt, add_special_tokens=False)["input_ids"])
    return list(tokenizer(prompt)["input_ids"])


def observe(model: Any, tokenizer: Any, kind: str, prompt: str | None) -> Observed:
    """Return what a model makes of the texts and the prompt."""
    numbers = [value for text in TEXTS for value in measure(model, tokenizer, kind, text)]
    if prompt is None:
        return Observed(numbers, [])
    if kind != LOGITS:
        return Observed(numbers, measure(model, tokenizer, kind, prompt))
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    stop_ids, settings = find_stop_ids(inner, tokenizer, None), inner.generation_config
    answer = answer_greedily(
        inner,
        [render_prompt(tokenizer, prompt)],
        pad=choose_pad(tokenizer),
        stop_ids=stop_ids,
        max_new_tokens=ANSWER_TOKENS,
        top=True,
    )[0]
    inner.generation_config = settings  # it is saved with the model
    text = tokenizer.decode(answer.ids, skip_special_tokens=True)
    return Observed(numbers, [], answer, text, tuple(stop_ids))


def describe_trial(kind: str, observed: Observed) -> Any:
    """Return what the prompt gave, for people to look at."""
    if kind == LOGITS:
        return observed.text
    if kind == SCORES:
        return observed.trial[0]
    norm = sum(value * value for value in observed.trial) ** 0.5
    return {"norm": norm, "first": [value / norm for value in observed.trial[:SHOWN_NUMBERS]] if norm else None}


def judge(kind: str, adapted: Observed, merged: Observed, dtype: str, prompt: str | None) -> dict[str, Any]:
    """Return the comparison: `passed`, the largest difference and the allowed one, and both models' answers."""
    share = MERGE_TOLERANCE.get(dtype, max(MERGE_TOLERANCE.values()))
    passed, numbers = compare(merged.numbers, adapted.numbers, share)
    tolerance = numbers["tolerance"] or 0.0
    result: dict[str, Any] = {"kind": kind, "passed": passed, "texts": len(TEXTS)}
    result |= {key: numbers[key] for key in ("max_difference", "tolerance")}
    if prompt is None:
        return result
    result["test"] = {
        "prompt": prompt,
        "adapter": describe_trial(kind, adapted),
        "merged": describe_trial(kind, merged),
    }
    if adapted.answer is not None and merged.answer is not None:
        divergence = find_divergence(adapted.answer, merged.answer, list(adapted.stop_ids))
        result["test"] |= describe_divergence(divergence, tolerance)
        same = divergence is None or divergence.is_tie(tolerance)
    else:
        same = all(abs(one - two) <= tolerance for one, two in zip(adapted.trial, merged.trial, strict=True))
        result["test"]["same"] = same
    return result | {"passed": passed and same}


def explain(result: dict[str, Any]) -> list[str]:
    """Return one line a thing that differs; none for a merge that passed."""
    if result["passed"]:
        return []
    problems = []
    largest, allowed = result["max_difference"], result["tolerance"]
    if allowed is None:
        problems.append("the merged model gives as many numbers as another vocabulary has: its size was changed")
    elif largest is None or largest > allowed:
        problems.append(
            f"the merged model gives other numbers than base and adapter: up to {largest} apart, allowed {allowed}"
        )
    test = result.get("test")
    if test and not test["same"] and not test.get("tie"):
        problems.append(
            f"the test prompt gives {test['merged']!r} merged, and {test['adapter']!r} from base and adapter"
        )
    return problems
