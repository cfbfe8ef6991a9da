"""Write the README of a reranker that reads Qwen3-Reranker's prompt: how to load and serve it, tool by tool."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

from orchestrator.workers.card_parts import (
    MODEL_PATH,
    RESULTS_MARK,
    build_cross_encoder_snippet,
    build_front,
    code_span,
    example_pairs,
)
from orchestrator.workers.reranker.scoring import NATIVE_PREFIX, NATIVE_SUFFIX

if TYPE_CHECKING:
    from orchestrator.workers.reranker.scoring_spec import ScoringSpec

# what turns the causal language model into a classifier by its words while vLLM loads it
VLLM_OVERRIDES = {
    "architectures": ["Qwen3ForSequenceClassification"],
    "classifier_from_token": ["no", "yes"],
    "is_original_qwen3_reranker": True,
}


@dataclass(frozen=True)
class CardFacts:
    """What the card may say. `difference` is how far sentence-transformers' scores were from swift's."""

    base: str
    hub_base: bool
    spec: ScoringSpec
    difference: float | None

    @property
    def by_words(self) -> bool:
        """Whether the score comes from the words yes and no, and not from a head of one label."""
        return self.spec.scorer == "qwen3-native"


def build_card(facts: CardFacts) -> str:
    """Return the card's text; measured results may be written after `RESULTS_MARK`."""
    kind = "A causal language model" if facts.by_words else "A decoder with a head of one label"
    snippet = build_cross_encoder_snippet(facts.spec.dtype, trust_remote_code=facts.spec.trust_remote_code)
    agreed = "" if facts.difference is None else f" On the probes they agreed to {facts.difference:.2g} in float32."
    sections = [
        build_front(facts.base, hub_base=facts.hub_base),
        "# Reranker",
        (
            f"{kind}, fine-tuned from {code_span(facts.base)} with ms-swift as a reranker in Qwen3-Reranker's prompt. "
            "It gives one number a (query, document) pair; only the order within a query means something. The base "
            "model's licence applies."
        ),
        f"## Use\n\nThe Python snippets give the raw score, as swift does without activation.{agreed}",
        f"### sentence-transformers\n\n```python\n{snippet}```",
        f"### transformers\n\n```python\n{build_transformers_snippet(facts)}```",
        f"### vLLM\n\n{build_vllm_section(facts)}",
        f"## Format\n\n{describe_format(facts)}",
        RESULTS_MARK,
    ]
    return "\n\n".join(sections) + "\n"


def build_transformers_snippet(facts: CardFacts) -> str:
    """Return the code that scores with transformers alone, as Qwen3-Reranker's authors show it."""
    loader = "AutoModelForCausalLM" if facts.by_words else "AutoModelForSequenceClassification"
    remote = ", trust_remote_code=True" if facts.spec.trust_remote_code else ""
    if facts.by_words:
        reading = [
            'yes, no = (tokenizer.convert_tokens_to_ids(word) for word in ("yes", "no"))',
            "with torch.inference_mode():",
            "    logits = model(**inputs, logits_to_keep=1).logits[:, -1]",
            "scores = (logits[:, yes] - logits[:, no]).tolist()  # the sigmoid of it is P(yes) against P(no)",
        ]
    else:
        reading = ["with torch.inference_mode():", "    scores = model(**inputs).logits[:, 0].tolist()"]
    lines = [
        "import torch",
        f"from transformers import {loader}, AutoTokenizer",
        "",
        f'tokenizer = AutoTokenizer.from_pretrained("{MODEL_PATH}"{remote})  # pads on the left',
        f'model = {loader}.from_pretrained("{MODEL_PATH}", torch_dtype="{facts.spec.dtype}"{remote}).eval()',
        f"prefix = {NATIVE_PREFIX!r}",
        f"suffix = {NATIVE_SUFFIX!r}",
        f"instruction = {facts.spec.effective_instruction!r}",
        f"pairs = {example_pairs('(', ')')}",
        'bodies = [f"<Instruct>: {instruction}\\n<Query>: {q}\\n<Document>: {d}" for q, d in pairs]',
        "head, tail = (tokenizer(text, add_special_tokens=False).input_ids for text in (prefix, suffix))",
        f"room = {facts.spec.max_length} - len(head) - len(tail)",
        "ids = [tokenizer(body, add_special_tokens=False).input_ids[:room] for body in bodies]",
        'inputs = tokenizer.pad({"input_ids": [head + one + tail for one in ids]}, return_tensors="pt")',
        *reading,
        "print(scores)",
    ]
    return "\n".join(lines) + "\n"


def build_vllm_section(facts: CardFacts) -> str:
    """Return how to serve the folder; the sigmoid that vLLM puts over the score leaves the order as it is."""
    command = ["vllm", "serve", MODEL_PATH, "--runner", "pooling", "--max-model-len", str(facts.spec.max_length)]
    command += ["--chat-template", f"{MODEL_PATH}/chat_template.jinja"]
    if facts.by_words:
        command += ["--hf_overrides", f"'{json.dumps(VLLM_OVERRIDES)}'"]
    request = {
        "model": MODEL_PATH,
        "query": "What is the capital of France?",
        "documents": ["Paris is the capital and largest city of France."],
    }
    note = (
        'vLLM answers with the sigmoid of the score; `"use_activation": false` in the request asks for the raw one. '
        "The chat template of this folder holds the prompt, so texts are sent as they are; longer ones are refused."
    )
    lines = [
        "```bash",
        " ".join(command),
        "curl http://localhost:8000/rerank -H 'Content-Type: application/json' \\",
        f"  -d '{json.dumps(request)}'",
        "```",
        "",
        note,
    ]
    return "\n".join(lines)


def describe_format(facts: CardFacts) -> str:
    """Return the input format as a list."""
    score = (
        'the logit of "yes" minus the logit of "no" at the last position'
        if facts.by_words
        else "the logit of the one label at the last position"
    )
    prompt = f"{NATIVE_PREFIX}<Instruct>: {{instruction}}\n<Query>: {{query}}\n<Document>: {{document}}{NATIVE_SUFFIX}"
    lines = [
        f"- prompt: {code_span(repr(prompt))}",
        f"- instruction: {code_span(repr(facts.spec.effective_instruction))}",
        f"- score: {score}",
        f"- longest input: {facts.spec.max_length} tokens with the prompt; its closing words stay when a text is cut",
        "- `scoring.json` holds all of this for programs, with scores of four pairs and the hash of every file",
    ]
    return "\n".join(lines)
