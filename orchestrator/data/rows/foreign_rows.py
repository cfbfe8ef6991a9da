"""Rows that other tools write become rows that Orch documents: ShareGPT, Alpaca, and ms-swift before version 4."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from orchestrator.data.reasons import REASONS, Fault
from orchestrator.data.rows.near_names import NAMES, plain_name
from orchestrator.data.rows.nearest import find_lists, find_passage
from orchestrator.data.rows.shapes import ROLES
from orchestrator.data.rows.texts import quote, read_number
from orchestrator.data.rows.unread import ANSWERS

Row = dict[str, Any]
_PASSAGES = {
    "pos": ("pos", "positive_passages", "positive_ctxs", "positives", "positive"),
    "neg": ("neg", "negative_passages", "hard_negative_ctxs", "negative_ctxs", "negatives", "negative"),
}
_CHATS = ("messages", "conversations")

_SHAREGPT_ROLES = {**ROLES, **dict.fromkeys(("bing", "bard"), "assistant")}


class UnfitRowError(Exception):
    """A row is not of the form that was named; the text says why."""


def from_sharegpt(row: Row) -> Row:
    """Return {"messages": […]} for {"conversations": [{"from", "value"}, …], "system"?}. Raises UnfitRowError.

    Other keys of a turn, such as a mark that it is not to be learnt, stay on its message.
    """
    turns = _require(row, "conversations", list)
    if row.get("tools"):
        raise UnfitRowError('the row has "tools", and tool calls cannot be converted')
    messages = _system_message(row)
    for place, turn in enumerate(turns):
        name = f'"conversations"[{place}]'
        if not isinstance(turn, dict):
            raise UnfitRowError(f"{name} is not an object")
        said_by, text = turn.get("from", turn.get("role")), turn.get("value", turn.get("content"))
        role = _SHAREGPT_ROLES.get(said_by.lower().strip()) if isinstance(said_by, str) else None
        if role is None:
            known = ", ".join(_SHAREGPT_ROLES)
            raise UnfitRowError(f'{name} has "from": {quote(str(said_by))}, and what can be converted is {known}')
        if not isinstance(text, str):
            raise UnfitRowError(f'{name} has no text in "value"')
        messages.append({"role": role, "content": text} | _others(turn, "from", "role", "value", "content"))
    if not messages:
        raise UnfitRowError('"conversations" is empty')
    return {"messages": messages} | _others(row, "conversations", "system", "tools")


def from_alpaca(row: Row) -> Row:
    """Return {"messages": […]} for {"instruction", "input"?, "output", "system"?, "history"?}. Raises UnfitRowError."""
    asked, answered = _require(row, "instruction", str), _require(row, "output", str)
    messages = _system_message(row)
    history = row.get("history") or []
    for turn in history if isinstance(history, list) else [None]:
        if not (isinstance(turn, list) and len(turn) == 2 and all(isinstance(text, str) for text in turn)):  # noqa: PLR2004
            raise UnfitRowError('"history" is not a list of [question, answer]')
        messages += _exchange(*turn)
    more = row.get("input") or ""
    if not isinstance(more, str):
        raise UnfitRowError('"input" is not a string')
    messages += _exchange(f"{asked}\n{more}" if more.strip() else asked, answered)
    return {"messages": messages} | _others(row, "instruction", "input", "output", "system", "history")


def from_swift3(row: Row) -> Row:
    """Return {"query", "pos", "neg"}, or {"sentence1", "sentence2", "score"} where the row has a label.

    Reads {"query", "response", "rejected_response"? , "label"?}, the same with the first two in "messages", and the
    rows of ms-swift 4. Raises UnfitRowError.
    """
    query, system, positives = _read_swift_texts(row)
    negatives = [
        *_texts("rejected_response", row.get("rejected_response")),
        *_answers("rejected_messages", row.get("rejected_messages")),
        *_answers("negative_messages", row.get("negative_messages")),
    ]
    rest = _others(
        row,
        *("query", "response", "rejected_response", "messages", "rejected_messages", "label", "system", "history"),
        *("positive_messages", "negative_messages"),
    )
    if row.get("history"):
        raise UnfitRowError('the row has a "history": it is a chat, not a pair of texts')
    if row.get("label") is None:
        prompt = {"prompt": system} if system else {}
        return {"query": query, "pos": positives, "neg": negatives} | prompt | rest
    if len(positives) != 1 or negatives:
        raise UnfitRowError(f'a row with a "label" has 2 texts, and this one {1 + len(positives) + len(negatives)}')
    if system:
        raise UnfitRowError("a labelled pair cannot have a system message")
    return {"sentence1": query, "sentence2": positives[0], "score": row["label"]} | rest


def keep_reasoning(row: Row) -> Row:
    """Return the row with all reasoning that stands beside an answer, in a message or in the row, in front of it."""
    answer = next((key for key in ANSWERS if isinstance(row.get(key), str)), None)
    if answer:
        row = _join_reasoning(row, answer)
    return {
        key: [_join_reasoning(one) for one in value] if key in _CHATS and isinstance(value, list) else value
        for key, value in row.items()
    }


def _join_reasoning(message: Any, content: str | None = None) -> Any:
    """Return a message, or a row, with one text for reasoning and answer, as Qwen3's and DeepSeek-R1's answers have it.

    The answer stands under `content`, None: under "content" or "value".
    """
    thoughts = [key for key in message if plain_name(key) in NAMES.reasoning] if isinstance(message, dict) else []
    if len(thoughts) > 1:
        thoughts = [key for key in thoughts if message[key] not in (None, "")]
    content = content or ("content" if thoughts and "content" in message else "value")
    if len(thoughts) != 1 or not isinstance(message.get(content), str):
        return message
    [key] = thoughts
    rest = {name: value for name, value in message.items() if name != key}
    if not isinstance(message[key], str) or not message[key].strip():
        return rest if message[key] in (None, "") else message
    return rest | {content: f"<think>\n{message[key].strip()}\n</think>\n\n{message[content]}"}


def from_lists(row: Row) -> Row:
    """Return {"query", "hits": […]} for {"query", "documents": […], "labels": […]}. Raises UnfitRowError."""
    query, lists = _require(row, "query", str), find_lists(row)
    if lists is None:
        raise UnfitRowError('there are no lists of one length in "documents" and "labels"')
    documents, labels = lists
    pairs = zip(row[documents], map(read_number, row[labels]), strict=True)
    hits = [{"content": text, "label": label} for text, label in pairs]
    return {"query": query, "hits": hits} | _others(row, "query", documents, labels)


def from_passages(row: Row) -> Row:
    """Return {"query", "pos", "neg"} for documents that are objects, as of MIRACL and DPR. Raises UnfitRowError."""
    query = row.get("query", row.get("question"))
    if not isinstance(query, str):
        raise UnfitRowError('there is neither a "query" nor a "question"')
    sides: dict[str, list[str]] = {}
    used = {"query", "question"}
    for side, keys in _PASSAGES.items():
        there = [key for key in keys if row.get(key)]
        used.update(keys)
        sides[side] = [text for key in there for text in _passages(key, row[key])]
    if not sides["pos"]:
        raise UnfitRowError(f"there is none of {', '.join(_PASSAGES['pos'])}")
    return {"query": query, **sides} | _others(row, *used)


def _passages(key: str, value: Any) -> list[str]:
    """Return the texts of documents; one text or object alone is a list of one."""
    value = [value] if isinstance(value, str | dict) else value
    texts = [one if isinstance(one, str) else find_passage(one) for one in value] if isinstance(value, list) else [None]
    found = [text for text in texts if text is not None]
    if len(found) < len(texts):
        raise UnfitRowError(f'"{key}" is not a list of objects with a "text"')
    return found


FOREIGN_FORMS: dict[str, Callable[[Row], Row]] = {
    "sharegpt": from_sharegpt,
    "alpaca": from_alpaca,
    "swift3": from_swift3,
    "lists": from_lists,
    "passages": from_passages,
}

# What a row of each form need not have.
FOREIGN_OPTIONAL = {
    "sharegpt": ("system",),
    "alpaca": ("input", "system", "history"),
    "swift3": ("rejected_response", "system"),
}


def convert_row(form: str, row: Row) -> Row | Fault:
    """Return the row of a form of `FOREIGN_FORMS` as Orch reads it, keys that the form does not know kept."""
    try:
        return FOREIGN_FORMS[form](row)
    except UnfitRowError as error:
        return Fault("not-convertible", f"this is no {form} row: {error}", REASONS["not-convertible"].remedy)


def _read_swift_texts(row: Row) -> tuple[str, str, list[str]]:
    """Return query, system text ("" for none) and positive texts."""
    system = row.get("system") or ""
    positives = [*_texts("response", row.get("response")), *_answers("positive_messages", row.get("positive_messages"))]
    query = row.get("query")
    for message in _messages("messages", row.get("messages")):
        if message["role"] == "user" and query is None:
            query = message["content"]
        elif message["role"] == "assistant":
            positives.append(message["content"])
        elif message["role"] == "system" and not system:
            system = message["content"]
        else:
            raise UnfitRowError('"messages" holds more than one question')
    if not isinstance(query, str):
        raise UnfitRowError('there is neither a "query" nor a user message')
    if not positives:
        raise UnfitRowError('there is neither a "response" nor an answer in "messages"')
    return query, system, positives


def _require(row: Row, key: str, kind: type) -> Any:
    if key not in row:
        raise UnfitRowError(f'the key "{key}" is missing; the row has {", ".join(map(quote, row)) or "no keys"}')
    if not isinstance(row[key], kind):
        raise UnfitRowError(f'"{key}" is not a {"list" if kind is list else "string"}')
    return row[key]


def _others(row: Row, *used: str) -> Row:
    return {key: value for key, value in row.items() if key not in used}


def _exchange(asked: str, answered: str) -> list[Row]:
    return [{"role": "user", "content": asked}, {"role": "assistant", "content": answered}]


def _system_message(row: Row) -> list[Row]:
    system = row.get("system")
    if system is not None and not isinstance(system, str):
        raise UnfitRowError('"system" is not a string')
    return [{"role": "system", "content": system}] if system and system.strip() else []


def _texts(key: str, value: Any) -> list[str]:
    """Return one text or a list of them as a list."""
    texts = [] if value is None else [value] if isinstance(value, str) else value
    if not (isinstance(texts, list) and all(isinstance(text, str) for text in texts)):
        raise UnfitRowError(f'"{key}" is neither a string nor a list of strings')
    return texts


def _messages(key: str, value: Any) -> list[dict[str, str]]:
    messages = value or []
    for message in messages if isinstance(messages, list) else [None]:
        texts = (message.get("role"), message.get("content")) if isinstance(message, dict) else (None,)
        if not all(isinstance(text, str) for text in texts):
            raise UnfitRowError(f'"{key}" is not a list of {{"role", "content"}}')
    return list(messages)


def _answers(key: str, value: Any) -> list[str]:
    """Return the text of each document: the last message of each conversation."""
    found = []
    entries = value or []
    if not isinstance(entries, list):
        raise UnfitRowError(f'"{key}" is not a list of messages')
    for entry in entries:
        conversation = _messages(key, entry if isinstance(entry, list) else [entry])
        if conversation:
            found.append(conversation[-1]["content"])
    return found
