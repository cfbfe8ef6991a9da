"""Rows that other tools write become rows that Orch documents: what `orch data convert --from NAME` does with each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from orchestrator.data.reasons import REASONS, Fault
from orchestrator.data.rows.near_names import NAMES, plain_name
from orchestrator.data.rows.nearest import find_lists, find_passage
from orchestrator.data.rows.shapes import Row, read_history, read_messages
from orchestrator.data.rows.texts import BadRowError, bad_row, quote, read_number
from orchestrator.data.rows.unread import ANSWERS

_PASSAGES = {
    "pos": ("pos", "positive_passages", "positive_ctxs", "positives", "positive"),
    "neg": ("neg", "negative_passages", "hard_negative_ctxs", "negative_ctxs", "negatives", "negative"),
}


def _unfit(why: str) -> BadRowError:
    return bad_row("not-convertible", why)


def _from_sharegpt(row: Row) -> Row:
    """Return {"messages": […]} for {"conversations": [{"from", "value"}, …], "system"?}.

    Other keys of a turn, such as a mark that it is not to be learnt, stay on its message.
    """
    turns = _require(row, "conversations", list)
    if row.get("tools"):
        raise _unfit('the row has "tools", and tool calls cannot be converted')
    named = [turn | {"from": "gpt"} if _is_bot(turn) else turn for turn in turns]
    said = zip(read_messages(named, "conversations").turns, turns, strict=True)
    messages = [
        {"role": role, "content": content} | _others(turn, "from", "role", "value", "content")
        for (role, content), turn in said
    ]
    if not (messages := [*_system_message(row), *messages]):
        raise _unfit('"conversations" is empty')
    return {"messages": messages} | _others(row, "conversations", "system", "tools")


def _is_bot(turn: Any) -> bool:
    return isinstance(turn, dict) and str(turn.get("from")).lower().strip() in {"bing", "bard"}


def _from_alpaca(row: Row) -> Row:
    """Return {"messages": […]} for {"instruction", "input"?, "output", "system"?, "history"?}."""
    asked, answered = _require(row, "instruction", str), _require(row, "output", str)
    more = _require({"input": row.get("input") or ""}, "input", str)
    question = f"{asked}\n{more}" if more.strip() else asked
    turns = [*read_history(row.get("history") or []), ("user", question), ("assistant", answered)]
    messages = [*_system_message(row), *({"role": role, "content": content} for role, content in turns)]
    return {"messages": messages} | _others(row, "instruction", "input", "output", "system", "history")


def _from_swift3(row: Row) -> Row:
    """Return {"query", "pos", "neg"}, or {"sentence1", "sentence2", "score"} where the row has a label.

    Reads {"query", "response", "rejected_response"? , "label"?}, the same with the first two in "messages", and the
    rows of ms-swift 4.
    """
    query, system, positives = _read_swift_texts(row)
    negatives = _texts(row, "rejected_response")
    negatives += [text for key in ("rejected_messages", "negative_messages") for text in _last_messages(row, key)]
    if row.get("history"):
        raise _unfit('the row has a "history": it is a chat, not a pair of texts')
    rest = _others(
        row,
        *("query", "response", "rejected_response", "messages", "rejected_messages", "label", "system", "history"),
        *("positive_messages", "negative_messages"),
    )
    if row.get("label") is None:
        return {"query": query, "pos": positives, "neg": negatives} | ({"prompt": system} if system else {}) | rest
    if len(positives) != 1 or negatives:
        raise _unfit(f'a row with a "label" has 2 texts, and this one {1 + len(positives) + len(negatives)}')
    if system:
        raise _unfit("a labelled pair cannot have a system message")
    return {"sentence1": query, "sentence2": positives[0], "score": row["label"]} | rest


def _read_swift_texts(row: Row) -> tuple[str, str, list[str]]:
    """Return query, system text ("" for none) and positive texts."""
    query, system = row.get("query"), row.get("system") or ""
    positives = [*_texts(row, "response"), *_last_messages(row, "positive_messages")]
    for message in _messages("messages", row.get("messages")):
        if message["role"] == "user" and query is None:
            query = message["content"]
        elif message["role"] == "assistant":
            positives.append(message["content"])
        elif message["role"] == "system" and not system:
            system = message["content"]
        else:
            raise _unfit('"messages" holds more than one question')
    if not isinstance(query, str):
        raise _unfit('there is neither a "query" nor a user message')
    if not positives:
        raise _unfit('there is neither a "response" nor an answer in "messages"')
    return query, system, positives


def _from_lists(row: Row) -> Row:
    """Return {"query", "hits": […]} for {"query", "documents": […], "labels": […]}."""
    query, lists = _require(row, "query", str), find_lists(row)
    if lists is None:
        raise _unfit('there are no lists of one length in "documents" and "labels"')
    documents, labels = lists
    pairs = zip(row[documents], map(read_number, row[labels]), strict=True)
    hits = [{"content": text, "label": label} for text, label in pairs]
    return {"query": query, "hits": hits} | _others(row, "query", documents, labels)


def _from_passages(row: Row) -> Row:
    """Return {"query", "pos", "neg"} for documents that are objects, as of MIRACL and DPR."""
    query = row.get("query", row.get("question"))
    if not isinstance(query, str):
        raise _unfit('there is neither a "query" nor a "question"')
    sides = {side: [text for key in keys for text in _passages(row, key)] for side, keys in _PASSAGES.items()}
    if not sides["pos"]:
        raise _unfit(f"there is none of {', '.join(_PASSAGES['pos'])}")
    return {"query": query, **sides} | _others(row, "query", "question", *_PASSAGES["pos"], *_PASSAGES["neg"])


# By the name of a form: what makes a documented row of its rows, and the keys that a row of it need not have.
FOREIGN_FORMS: dict[str, Callable[[Row], Row]] = {
    "sharegpt": _from_sharegpt,
    "alpaca": _from_alpaca,
    "swift3": _from_swift3,
    "lists": _from_lists,
    "passages": _from_passages,
}
FOREIGN_OPTIONAL = {
    "sharegpt": ("system",),
    "alpaca": ("input", "system", "history"),
    "swift3": ("rejected_response", "system"),
}


def convert_row(form: str, row: Row) -> Row | Fault:
    """Return the row of a form of `FOREIGN_FORMS` as Orch reads it, keys that the form does not know kept."""
    try:
        return FOREIGN_FORMS[form](row)
    except BadRowError as error:
        message = f"this is no {form} row: {error.fault.message}"
        return Fault("not-convertible", message, REASONS["not-convertible"].remedy)


def keep_reasoning(row: Row) -> Row:
    """Return the row with all reasoning that stands beside an answer, in a message or in the row, in front of it."""
    answer = next((key for key in ANSWERS if isinstance(row.get(key), str)), None)
    if answer:
        row = _join_reasoning(row, answer)
    return row | {
        key: list(map(_join_reasoning, row[key]))
        for key in ("messages", "conversations")
        if isinstance(row.get(key), list)
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
    rest = _others(message, key)
    if not isinstance(message[key], str) or not message[key].strip():
        return rest if message[key] in (None, "") else message
    return rest | {content: f"<think>\n{message[key].strip()}\n</think>\n\n{message[content]}"}


def _require(row: Row, key: str, kind: type) -> Any:
    if key not in row:
        raise _unfit(f'the key "{key}" is missing; the row has {", ".join(map(quote, row)) or "no keys"}')
    if not isinstance(row[key], kind):
        raise _unfit(f'"{key}" is not a {"list" if kind is list else "string"}')
    return row[key]


def _others(row: Row, *used: str) -> Row:
    return {key: value for key, value in row.items() if key not in used}


def _system_message(row: Row) -> list[Row]:
    system = _require({"system": row.get("system") or ""}, "system", str)
    return [{"role": "system", "content": system}] if system.strip() else []


def _texts(row: Row, key: str) -> list[str]:
    """Return one text or a list of them as a list."""
    value = row.get(key)
    texts = [] if value is None else [value] if isinstance(value, str) else value
    if not (isinstance(texts, list) and all(isinstance(text, str) for text in texts)):
        raise _unfit(f'"{key}" is neither a string nor a list of strings')
    return list(texts)


def _messages(key: str, value: Any) -> list[dict[str, str]]:
    messages = value or []
    for message in messages if isinstance(messages, list) else [None]:
        texts = (message.get("role"), message.get("content")) if isinstance(message, dict) else (None,)
        if not all(isinstance(text, str) for text in texts):
            raise _unfit(f'"{key}" is not a list of {{"role", "content"}}')
    return list(messages)


def _last_messages(row: Row, key: str) -> list[str]:
    """Return the text of each document: the last message of each conversation."""
    entries = row.get(key) or []
    if not isinstance(entries, list):
        raise _unfit(f'"{key}" is not a list of messages')
    found = [_messages(key, entry if isinstance(entry, list) else [entry]) for entry in entries]
    return [conversation[-1]["content"] for conversation in found if conversation]


def _passages(row: Row, key: str) -> list[str]:
    """Return the texts of documents under a key; one text or object alone is a list of one."""
    value = row.get(key) or []
    value = [value] if isinstance(value, str | dict) else value
    texts = [one if isinstance(one, str) else find_passage(one) for one in value] if isinstance(value, list) else [None]
    if None in texts:
        raise _unfit(f'"{key}" is not a list of objects with a "text"')
    return [text for text in texts if text is not None]
