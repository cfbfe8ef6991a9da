"""Write the README of a packaged model: how to load it so that it scores as it was measured."""

from __future__ import annotations

from dataclasses import dataclass

from orchestrator.workers.card_parts import (
    MODEL_PATH,
    RESULTS_MARK,
    build_cross_encoder_snippet,
    build_front,
    code_span,
    example_pairs,
)
from orchestrator.workers.reranker.scoring_spec import DEFAULT_PROMPT, ScoringSpec


@dataclass(frozen=True)
class CardFacts:
    """What the card may say. `difference` is how far sentence-transformers' scores were from FlagEmbedding's."""

    base: str
    hub_base: bool
    spec: ScoringSpec
    decoder: bool
    exact_template: bool
    max_seq_length: int
    difference: float | None


def build_card(facts: CardFacts) -> str:
    """Return the card's text; measured results may be written after `RESULTS_MARK`."""
    kind = "A decoder (causal language model)" if facts.decoder else "An encoder (sequence classifier with one label)"
    sections = [
        build_front(facts.base, hub_base=facts.hub_base),
        "# Reranker",
        (
            f"{kind} reranker, fine-tuned from {code_span(facts.base)} with FlagEmbedding. It gives one number a "
            "(query, document) pair; only the order within a query means something. The base model's licence applies."
        ),
        "## Use\n\nBoth ways below give the raw score" + describe_agreement(facts),
        f"### FlagEmbedding\n\n```python\n{build_flagembedding_snippet(facts)}```",
        f"### sentence-transformers\n\n```python\n{build_sentence_transformers_snippet(facts)}```",
        f"## Format\n\n{describe_format(facts)}",
        RESULTS_MARK,
    ]
    return "\n\n".join(sections) + "\n"


def describe_agreement(facts: CardFacts) -> str:
    """Return the end of the sentence that says how far the two libraries agree."""
    if facts.difference is None:
        return "."
    if facts.decoder and not facts.exact_template:
        return (
            f". This tokenizer joins tokens across the parts of the prompt, so sentence-transformers only comes near: "
            f"up to {facts.difference:.2g} away on the probes. FlagEmbedding is the exact one."
        )
    return (
        f"; on probes within the length limits they agreed to {facts.difference:.2g} in float32. Texts beyond the "
        "limits are cut at slightly different places."
    )


def prompt_of(spec: ScoringSpec) -> str:
    """Return the prompt that is really used."""
    return DEFAULT_PROMPT if spec.prompt is None else spec.prompt


def build_flagembedding_snippet(facts: CardFacts) -> str:
    """Return the code that scores with FlagEmbedding as in the measurements."""
    spec = facts.spec
    name = "FlagLLMReranker" if facts.decoder else "FlagReranker"
    arguments = [
        f"query_instruction_for_rerank={spec.query_instruction!r}",
        f"query_instruction_format={spec.query_instruction_format!r}",
        f"passage_instruction_for_rerank={spec.passage_instruction!r}",
        f"passage_instruction_format={spec.passage_instruction_format!r}",
    ]
    if facts.decoder:
        arguments += [f"prompt={prompt_of(spec)!r}"]
    arguments += [f"query_max_length={spec.effective_query_max_length}", f"max_length={spec.max_length}"]
    if spec.dtype == "bfloat16" and facts.decoder:
        arguments += ["use_bf16=True"]
    if spec.dtype == "float16":
        arguments += ["use_fp16=True"]
    if spec.trust_remote_code:
        arguments += ["trust_remote_code=True"]
    lines = [f"from FlagEmbedding import {name}", "", f"reranker = {name}(", f'    "{MODEL_PATH}",']
    lines += [f"    {argument}," for argument in arguments]
    lines += [")", f"scores = reranker.compute_score({example_pairs('[', ']')})", "print(scores)"]
    return "\n".join(lines) + "\n"


def build_sentence_transformers_snippet(facts: CardFacts) -> str:
    """Return the code that scores with sentence-transformers as in the measurements."""
    spec = facts.spec
    before, pairs = [], None
    if not facts.decoder and (spec.query_instruction is not None or spec.passage_instruction is not None):
        before = [f"query, document = {spec.wrap_query('{}')!r}, {spec.wrap_document('{}')!r}"]
        pairs = f"[(query.format(q), document.format(d)) for q, d in {example_pairs('(', ')')}]"
    return build_cross_encoder_snippet(spec.dtype, trust_remote_code=spec.trust_remote_code, before=before, pairs=pairs)


def describe_format(facts: CardFacts) -> str:
    """Return the input format as a list."""
    spec = facts.spec
    lines = [
        f"- query: {code_span(repr(spec.wrap_query('{query}')))}, at most {spec.effective_query_max_length} tokens",
        f"- document: {code_span(repr(spec.wrap_document('{document}')))}, at most {spec.max_length} tokens",
    ]
    if facts.decoder:
        lines += [
            f"- prompt after a line break: {code_span(repr(prompt_of(spec)))}",
            f'- score: the logit of "{spec.true_token}" at the last position',
            f"- longest input: {facts.max_seq_length} tokens; the prompt is kept when the document is cut",
        ]
    else:
        lines += ["- score: the logit of the one label", f"- longest input: {facts.max_seq_length} tokens"]
    lines += ["- `scoring.json` holds all of this for programs, with example scores and the hash of every file"]
    return "\n".join(lines)
