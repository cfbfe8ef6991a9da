"""The token ids that FlagEmbedding's decoder reranker makes of a pair, and a chat template that makes the same ones.

FlagEmbedding (training and FlagLLMReranker alike) tokenizes query, separator, document, separator and prompt apart and
joins the ids. A chat template is tokenized as one string, where a byte-level BPE joins a document's last "." with the
separator's line break. A sentinel character, at which the packaged tokenizer splits and which it drops, parts them.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from orchestrator.workers.reranker.scoring_spec import DEFAULT_PROMPT, ScoringSpec

SEPARATOR = "\n"
SENTINEL = "\ue0f1"  # private use: no text has a reason to hold it, and one that does only loses it
TEXT_SLOT = "\ue0f2"


def has_bos(tokenizer: Any) -> bool:
    """Tell whether FlagEmbedding puts a beginning-of-sequence token in front."""
    return tokenizer.bos_token_id is not None and tokenizer.bos_token_id != tokenizer.pad_token_id


def encode_plain(tokenizer: Any, text: str, max_length: int | None = None) -> list[int]:
    """Return the ids of one text without special tokens, cut to `max_length` tokens on the right."""
    ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    return ids if max_length is None else ids[:max_length]


def encode_tail(tokenizer: Any, spec: ScoringSpec) -> list[int]:
    """Return the ids that follow the document: separator and prompt."""
    prompt = DEFAULT_PROMPT if spec.prompt is None else spec.prompt
    return encode_plain(tokenizer, SEPARATOR) + encode_plain(tokenizer, prompt)


def encode_pair(tokenizer: Any, spec: ScoringSpec, query: str, document: str) -> list[int]:
    """Return the ids of one pair, cut as FlagLLMReranker cuts: query, document, then the document once more."""
    head = encode_plain(tokenizer, spec.wrap_query(query), spec.effective_query_max_length)
    if has_bos(tokenizer):
        head = [tokenizer.bos_token_id, *head]
    body = encode_plain(tokenizer, SEPARATOR) + encode_plain(tokenizer, spec.wrap_document(document), spec.max_length)
    tail = encode_tail(tokenizer, spec)
    excess = len(head) + len(body) - (spec.max_length + len(tail))
    if 0 < excess < len(body):
        body = body[:-excess]
    return head + body + tail


def is_cut(tokenizer: Any, spec: ScoringSpec, query: str, document: str) -> bool:
    """Tell whether the spec's lengths take tokens from this pair."""
    uncut = (
        int(has_bos(tokenizer))
        + len(encode_plain(tokenizer, spec.wrap_query(query)))
        + len(encode_plain(tokenizer, SEPARATOR))
        + len(encode_plain(tokenizer, spec.wrap_document(document)))
        + len(encode_tail(tokenizer, spec))
    )
    return uncut != len(encode_pair(tokenizer, spec, query, document))


def sequence_length(tokenizer: Any, spec: ScoringSpec) -> int:
    """Return the most tokens that FlagLLMReranker feeds for one pair whose query is not longer than allowed."""
    return spec.max_length + 2 * len(encode_tail(tokenizer, spec))


def true_token_id(tokenizer: Any, spec: ScoringSpec) -> int:
    """Return the id whose logit is the score: the first token of "Yes", as FlagLLMReranker takes it."""
    return encode_plain(tokenizer, spec.true_token)[0]


def quote_jinja(text: str) -> str:
    """Return `text` as a Jinja string literal, in which no brace or quote of it means anything."""
    # not ensure_ascii: Jinja would decode JSON's surrogate pairs one by one; the sentinel is spelt out to be seen
    return json.dumps(text, ensure_ascii=False).replace(SENTINEL, f"\\u{ord(SENTINEL):04x}")


def render_parts(parts: Sequence[str], expression: str) -> str:
    """Return a Jinja output of literals with `expression` between each two of them."""
    return "{{ " + f" ~ {expression} ~ ".join(quote_jinja(part) for part in parts) + " }}"


def build_chat_template(tokenizer: Any, spec: ScoringSpec, sentinel: str = SENTINEL) -> str:
    """Return the chat template over a `query` and a `document` message, the roles that CrossEncoder gives a pair.

    With `sentinel` empty the parts are not kept apart.
    """
    prompt = DEFAULT_PROMPT if spec.prompt is None else spec.prompt
    query = spec.wrap_query(TEXT_SLOT).split(TEXT_SLOT)
    document = spec.wrap_document(TEXT_SLOT).split(TEXT_SLOT)
    between = sentinel + SEPARATOR + sentinel
    if has_bos(tokenizer):
        query[0] = tokenizer.bos_token + sentinel + query[0]
    query[-1] += between
    document[-1] += between + prompt
    role = "(messages | selectattr('role', 'equalto', '{}') | first).content"
    return render_parts(query, role.format("query")) + render_parts(document, role.format("document"))
