"""Write the README of a cross-encoder that sentence-transformers trained: how it is loaded, what it reads."""

from __future__ import annotations

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
from orchestrator.workers.reranker.formatted_head import format_of

if TYPE_CHECKING:
    from orchestrator.workers.reranker.scoring_spec import ScoringSpec


@dataclass(frozen=True)
class CardFacts:
    """What the card may say; `formatted` is a decoder, the other kind an encoder.

    `difference` is how far `CrossEncoder` was from plain transformers on the probes, `flagembedding` how far
    FlagReranker was from `CrossEncoder`; None where that was not tried or differed.
    """

    base: str
    hub_base: bool
    spec: ScoringSpec
    formatted: bool
    difference: float | None
    flagembedding: float | None


def build_card(facts: CardFacts) -> str:
    """Return the card's text; measured results may be written after `RESULTS_MARK`."""
    spec = facts.spec
    kind = (
        "A decoder with a head of one label" if facts.formatted else "An encoder (sequence classifier with one label)"
    )
    agreed = "" if facts.difference is None else f", to {facts.difference:.2g} in float32"
    snippet = build_cross_encoder_snippet(spec.dtype, trust_remote_code=spec.trust_remote_code)
    sections = [
        build_front(facts.base, hub_base=facts.hub_base),
        "# Reranker",
        (
            f"{kind}, fine-tuned from {code_span(facts.base)} with sentence-transformers as a cross-encoder. It gives "
            "one number a (query, document) pair; only the order within a query means something. The base model's "
            "licence applies."
        ),
        (
            "## Use\n\nThe score is the raw logit: no sigmoid is put over it. On the probes it was the one of plain "
            f"transformers{agreed}."
        ),
        f"### sentence-transformers\n\n```python\n{snippet}```",
    ]
    if facts.flagembedding is not None:
        sections.append(
            f"### FlagEmbedding\n\n```python\n{build_flagembedding_snippet(spec)}```\n\n"
            f"On the probes within the length limits it gave the same scores, to {facts.flagembedding:.2g}. It cuts "
            "longer texts at other places, and a query at three quarters of the length."
        )
    return "\n\n".join([*sections, f"## Format\n\n{describe_format(facts)}", RESULTS_MARK]) + "\n"


def build_flagembedding_snippet(spec: ScoringSpec) -> str:
    """Return the code that scores an encoder with FlagEmbedding."""
    arguments = [f'"{MODEL_PATH}"', f"max_length={spec.max_length}"]
    if spec.dtype == "float16":
        arguments += ["use_fp16=True"]
    if spec.trust_remote_code:
        arguments += ["trust_remote_code=True"]
    lines = [
        "from FlagEmbedding import FlagReranker",
        "",
        f"reranker = FlagReranker({', '.join(arguments)})",
        f"scores = reranker.compute_score({example_pairs('[', ']')})",
        "print(scores)",
    ]
    return "\n".join(lines) + "\n"


def describe_format(facts: CardFacts) -> str:
    """Return the input format as a list."""
    spec = facts.spec
    if facts.formatted:
        written = code_span(repr(format_of(spec).render("{query}", "{document}")))
        lines = [
            f"- input: {written}, written by the folder's chat template",
            "- score: the logit of the one label at the last token",
            f"- longest input: {spec.max_length} tokens; what follows the document stays when it is cut",
        ]
    else:
        lines = [
            "- input: query and document, as the tokenizer joins two texts",
            "- score: the logit of the one label",
            f"- longest input: {spec.max_length} tokens; the longer of the two texts is cut first",
        ]
    lines += ["- `scoring.json` holds all of this for programs, with scores of four pairs and the hash of every file"]
    return "\n".join(lines)
