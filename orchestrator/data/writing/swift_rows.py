"""Canonical records become the rows that ms-swift 4 reads; all rows of a file have the same keys."""

from __future__ import annotations

from typing import Any

from orchestrator.data.rows.groups import RankingGroup
from orchestrator.data.rows.records import Chat, Record, ScoredPair
from orchestrator.data.writing.row_options import RowOptions

Messages = list[dict[str, str]]


def build_anchor(query: str, instruction: str | None) -> str:
    """Return a query as embedding models read it, no blank after "Query:" (Qwen3-Embedding's own form).

    A system message would not do: swift's template puts a blank between it and the query.
    """
    return query if instruction is None else f"Instruct: {instruction}\nQuery:{query}"


def build_embedding_row(record: Record, options: RowOptions) -> dict[str, Any]:
    """Return a row for `task_type embedding`: anchor and positive, with negatives (groups) or a label (pairs).

    With infonce pairs have no label: that loss takes rows apart by their labels.
    """
    if isinstance(record, ScoredPair):
        row = {
            "messages": _say("user", build_anchor(record.text1, options.instruction)),
            "positive_messages": [_say("user", record.text2)],
        }
        return row if options.loss == "infonce" else row | {"label": record.score}
    if not isinstance(record, RankingGroup):
        raise TypeError(record)
    return {
        "messages": _say("user", build_anchor(record.query, options.instruction)),
        "positive_messages": [_say("user", text) for text in record.positives],
        "negative_messages": [_say("user", text) for text in record.negatives],
    }


def build_reranker_row(record: Record, options: RowOptions) -> dict[str, Any]:
    """Return a row for `task_type reranker` or `generative_reranker`; its own prompt stands in for the instruction."""
    if not isinstance(record, RankingGroup):
        raise TypeError(record)
    instruction = options.instruction if record.prompt is None else record.prompt
    system = [] if instruction is None else _say("system", instruction)
    return {
        "messages": system + _say("user", record.query),
        "positive_messages": [_say("assistant", text) for text in record.positives],
        "negative_messages": [_say("assistant", text) for text in record.negatives],
    }


def build_chat_row(record: Record, options: RowOptions) -> dict[str, Any]:  # noqa: ARG001 - the writers' signature
    """Return a row for `swift sft`; `loss` is ms-swift's own key, on messages of which the data says it."""
    if not isinstance(record, Chat):
        raise TypeError(record)
    messages: list[dict[str, Any]] = []
    for turn in record.messages:
        [message] = _say(turn.role, turn.content)
        messages.append(message if turn.learnt is None else message | {"loss": turn.learnt})
    return {"messages": messages}


def _say(role: str, content: str) -> Messages:
    return [{"role": role, "content": content}]
