"""Keys that look like the one that a row lacks: what to rename."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING, Any

from orchestrator.data.rows.texts import LONGEST_QUOTE, build_fault, quote

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from orchestrator.data.reasons import Fault

_NEGATIVES = (  # names of negatives
    *("negative", "negatives", "negs", "neg_doc", "neg_docs", "neg_passage", "neg_passages", "negative_doc"),
    *("negative_docs", "negative_documents", "negative_passages", "negative_messages", "hard_negative"),
    *("hard_negatives", "hard_neg", "hard_negs", "rejected", "rejected_response", "rejected_responses"),
    *(
        "negative_ctxs",
        "hard_negative_ctxs",
        "rejected_answer",
        "rejected_answers",
        "rejected_messages",
        "distractor",
        "distractors",
        "neg",
    ),
)
_NEAR_NAMES = {
    "query": ("question", "queries", "q", "anchor", "query_text", "search_query", "sentence1", "input"),
    "pos": (
        *(
            "positive",
            "positives",
            "pos_doc",
            "pos_docs",
            "positive_docs",
            "positive_documents",
            "positive_passages",
            "positive_ctxs",
        ),
        *("positive_messages", "answer", "answers", "chosen", "docs", "documents", "passages", "relevant"),
    ),
    "neg": _NEGATIVES,
    "response": (
        *("answer", "output", "completion", "reply", "positive", "pos", "pos_doc", "chosen", "document", "passage"),
        "target",
    ),
    "label": ("score", "similarity", "similarity_score", "labels", "relevance", "target", "grade", "rating"),
    "sentence1": ("text1", "text_a", "sentence_a", "sentence_1", "text_1", "premise", "anchor", "s1", "question1"),
    "sentence2": ("text2", "text_b", "sentence_b", "sentence_2", "text_2", "hypothesis", "positive", "s2", "question2"),
    "score": ("label", "similarity_score", "similarity", "scores", "labels", "gold_score", "relatedness_score"),
    "content": (
        *("document", "documents", "text", "passage", "doc", "contents", "body", "paragraph", "response", "answer"),
        "sentence2",
    ),
    "messages": ("conversation", "dialog", "dialogue", "chat", "turns", "message"),
    "conversations": ("conversation", "dialog", "dialogue", "turns"),
    "instruction": ("prompt", "question", "task", "input"),
    "output": ("response", "answer", "completion", "target"),
    "positive_messages": ("positive", "positives", "pos", "positive_message"),
}


# What may have been meant by a key that a row need not have.
_OPTIONAL_NAMES = {
    "neg": _NEGATIVES,
    "rejected_response": _NEGATIVES,
    "negative_messages": _NEGATIVES,
    "input": ("inputs", "context", "contexts", "background", "passage", "document", "knowledge", "evidence", "article"),
    "system": ("system_prompt", "system_message", "system_msg", "sys_prompt", "sysprompt", "sys", "systems", "persona"),
    "history": ("histories", "chat_history", "conversation_history", "dialog_history", "dialogue_history"),
    "prompt": ("system", "system_prompt", "system_message", "query_instruction", "query_prompt", "prompts"),
}
_CLOSE = 0.85
_LIKE = 0.7  # of a key that must be there: one that may be meant is worth more


def plain_name(name: str) -> str:
    """Return a key's name without what makes no difference to people: case, hyphens, blanks."""
    return name.lower().strip().replace("-", "_").replace(" ", "_")


def find_optional(name: str, optional: Iterable[str]) -> str | None:
    """Return the one of `optional` that may have been meant by the key `name`, or None."""
    plain = plain_name(name)
    known = [key for key in optional if key in _OPTIONAL_NAMES]
    for key in known:
        if plain in _OPTIONAL_NAMES[key] or plain == key:
            return key
    close = difflib.get_close_matches(plain, known, n=1, cutoff=_CLOSE) if len(plain) < LONGEST_QUOTE else []
    return close[0] if close else None


def find_near_name(key: str, row: Iterable[str], known: Iterable[str] = ()) -> str | None:
    """Return the key of a row that may have been meant by `key`, none of `known`, or None."""
    taken = set(known)
    candidates = [name for name in row if name not in taken]
    plain = {plain_name(name): name for name in reversed(candidates)}
    for wanted in (key, *_NEAR_NAMES.get(key, ())):
        if wanted in plain:
            return plain[wanted]
    names = [name for name in list(plain)[:50] if len(name) < LONGEST_QUOTE]
    close = difflib.get_close_matches(key, names, n=1, cutoff=_LIKE)
    return plain[close[0]] if close else None


def explain_missing_in(name: str, key: str, value: Mapping[str, Any], hint: str) -> Fault:
    """Return the fault of an object `name` inside a row that lacks `key`; `hint` where no near name is there."""
    near = find_near_name(key, value)
    if near is None:
        return build_fault("missing-key", f'{name} has no "{key}"', hint)
    message = f'{name} has no "{key}", and it has {quote(near)}'
    return build_fault("missing-key", message, f'rename {quote(near)} to "{key}"')
