"""Rows that other tools write, as rows that Orch documents: those that every verb rewrites, and those of `--from`.

shapes.py lists what is rewritten; `orch data convert --from NAME` also takes rows that only a person can tell.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from orchestrator.data.rows.messages import read_history, read_messages
from orchestrator.data.rows.texts import (
    NAMES,
    BadRowError,
    bad_row,
    is_blank,
    is_finite_number,
    is_metadata,
    is_number_like,
    plain_name,
    quote,
    read_number,
)

Row = dict[str, Any]
_PASSAGES = {
    "pos": ("pos", "positive_passages", "positive_ctxs", "positives", "positive"),
    "neg": ("neg", "negative_passages", "hard_negative_ctxs", "negative_ctxs", "negatives", "negative"),
}
_SIDE_OF = {key: side for side, keys in _PASSAGES.items() for key in keys}
_PASSAGE_TEXTS = ("text", "content", "passage", "contents", "body", "passage_text")
_QUERIES = ("query", "question")


# Documents that are objects


def find_passage(value: Any) -> str | None:
    """Return the text of a document that is an object, its title in front; None where it has none."""
    if not isinstance(value, dict) or "role" in value or "from" in value:  # a message is no document
        return None
    text = next((value[key] for key in _PASSAGE_TEXTS if isinstance(value.get(key), str)), None)
    title = value.get("title")
    return f"{title}\n{text}" if text is not None and isinstance(title, str) and title.strip() else text


def _as_objects(value: Any) -> Any:
    """Return an object of lists of one length, as the datasets library keeps lists of objects, as such a list."""
    if not isinstance(value, dict) or not value or not all(isinstance(part, list) for part in value.values()):
        return value
    if len(set(map(len, value.values()))) > 1:
        return value
    return [dict(zip(value, parts, strict=True)) for parts in zip(*value.values(), strict=True)]


def holds_passages(row: Row) -> bool:
    """Whether a row has positives or negatives that are objects with a text each."""
    if _SIDE_OF.keys().isdisjoint(row):  # as most rows
        return False
    found = (
        _as_objects(row[key]) for key in _SIDE_OF.keys() & row.keys() if type(row[key]) in {list, dict} and row[key]
    )
    return any(find_passage(value[0] if isinstance(value, list) and value else value) is not None for value in found)


def rewrite_passages(row: Row) -> Row:
    """Return {"query", "pos", "neg"} for documents that are objects, as of Tevatron, MIRACL and DPR, or texts.

    A `score` of theirs is the teacher's, but for DPR's, which are a search engine's. Further texts of the objects stay
    under names such as `positive_passages[].summary`, to be asked about. Raises BadRowError.
    """
    query = next((row[key] for key in _QUERIES if isinstance(row.get(key), str)), None)
    if query is None:
        hint = "name the column of the queries: data.columns: {query: NAME} (--map query=NAME)"
        raise bad_row("missing-key", 'there is neither a "query" nor a "question"', hint)
    made: Row = {"query": query, "pos": [], "neg": []}
    scores: dict[str, list[Any]] = {"pos": [], "neg": []}
    further: dict[str, list[Any]] = {}
    for key, side in _SIDE_OF.items():
        value = _as_objects(row.get(key))
        entries = [] if value in (None, "") else [value] if isinstance(value, str | dict) else value
        for place, entry in enumerate(entries if isinstance(entries, list) else [None]):
            text = entry if isinstance(entry, str) else find_passage(entry)
            if text is None:
                hint = 'a document is a text, or {"title": "…", "text": "…"}'
                raise bad_row("wrong-type", f'"{key}"[{place}] is not a list of objects with a "text"', hint)
            made[side].append(text)
            named = entry if isinstance(entry, dict) else {}
            scores[side].append(None if key.endswith("_ctxs") else named.get("score"))
            read = next((name for name in _PASSAGE_TEXTS if isinstance(named.get(name), str)), "")
            for inner, more in _others(named, read, "title").items():
                if isinstance(more, str) and not is_blank(more) and not is_metadata(inner):
                    further.setdefault(f"{key}[].{inner}", []).append(more)
    if not made["pos"]:
        raise bad_row("no-positive", f"there is none of {', '.join(_PASSAGES['pos'])}")
    made |= _read_scores(scores, row)
    return made | _others(row, *_QUERIES, *_SIDE_OF) | further


def _read_scores(scores: dict[str, list[Any]], row: Row) -> Row:
    """Return the scores of both sides, where their documents have such; an empty side has none of its own."""
    made: Row = {}
    for side, found in scores.items():
        given = [score is not None for score in found]
        if any(given) and f"{side}_scores" not in row:
            if not all(given):
                message = f'a document in "{side}" has no "score", and others of the row have one'
                raise bad_row("scores-length", message, "give one score a document, or none")
            made[f"{side}_scores"] = found
    return made | ({"neg_scores": []} if "pos_scores" in made and not scores["neg"] else {})


# A query's documents with a label each


def holds_judged(row: Row) -> bool:
    """Whether a row has documents with a label or score each, as objects, or labels in a second list."""
    if key := _find_judged(row):
        first = _as_objects(row[key])[0]
        return any(plain_name(name) in {*NAMES.labels, "score"} for name in first)
    lists = find_lists(row)
    if lists is None or plain_name(lists[1]) not in NAMES.labels:
        return False
    return all(map(is_finite_number, row[lists[1]]))


def _find_judged(row: Row) -> str | None:
    """Return the key of a row's documents, where these are a list of objects with a text."""
    for key in row:
        entries = _as_objects(row[key]) if plain_name(key) in NAMES.documents_list else None
        if isinstance(entries, list) and entries and all(find_passage(entry) is not None for entry in entries):
            return key
    return None


def rewrite_judged(row: Row) -> Row:
    """Return {"query", "hits": […]} for documents with labels; further keys of an object stay in its hit."""
    key = _find_judged(row)
    if key is None:
        return _from_lists(row)
    hits = []
    for entry in _as_objects(row[key]):
        text_key = next(name for name in _PASSAGE_TEXTS if isinstance(entry.get(name), str))
        label = next((name for name in entry if plain_name(name) in NAMES.labels), None)
        named = {} if label is None else {"label": entry[label]}
        hits.append({"content": find_passage(entry)} | named | _others(entry, text_key, "title", label or ""))
    return {"query": row["query"], "hits": hits} | _others(row, "query", key)


def find_lists(row: Any) -> tuple[str, str] | None:
    """Return the keys of a row's documents and of their labels, where these are two lists of one length."""
    if not isinstance(row.get("query", ""), str):
        return None
    plain = {plain_name(key): key for key in row}

    def find(names: tuple[str, ...], suits_one: Callable[[Any], bool]) -> str | None:
        lists = (key for name in names if (key := plain.get(name)) and isinstance(row[key], list) and row[key])
        return next((key for key in lists if all(map(suits_one, row[key]))), None)

    documents = find(NAMES.documents_list, lambda one: isinstance(one, str))
    labels = find(NAMES.labels_list, is_number_like)
    if documents is None or labels is None or len(row[documents]) != len(row[labels]):
        return None
    return documents, labels


def _from_lists(row: Row) -> Row:
    """Return {"query", "hits": […]} for {"query", "documents": […], "labels": […]}."""
    query, lists = _require(row, "query", str), find_lists(row)
    if lists is None:
        raise _unfit('there are no lists of one length in "documents" and "labels"')
    documents, labels = lists
    pairs = zip(row[documents], map(read_number, row[labels]), strict=True)
    hits = [{"content": text, "label": label} for text, label in pairs]
    return {"query": query, "hits": hits} | _others(row, "query", documents, labels)


# What `--from` reads besides


def _unfit(why: str) -> BadRowError:
    return bad_row("not-convertible", why)


def _from_sharegpt(row: Row) -> Row:
    """Return {"messages": […]} for {"conversations": [{"from", "value"}, …], "system"?}.

    Other keys of a turn, such as a mark that it is not to be learnt, stay on its message.
    """
    turns = _require(row, "conversations", list)
    if row.get("tools"):
        raise _unfit('the row has "tools", and tool calls cannot be converted')
    bots = ({"bing", "bard"} & {str(one.get("from")).lower().strip()} if isinstance(one, dict) else () for one in turns)
    named = [turn | {"from": "gpt"} if is_bot else turn for turn, is_bot in zip(turns, bots, strict=True)]
    said = zip(read_messages(named, "conversations").turns, turns, strict=True)
    messages = [
        {"role": role, "content": content} | _others(turn, "from", "role", "value", "content")
        for (role, content), turn in said
    ]
    if not (messages := [*_system_message(row), *messages]):
        raise _unfit('"conversations" is empty')
    return {"messages": messages} | _others(row, "conversations", "system", "tools")


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
    rows of ms-swift 4. A document is the last message of its list.
    """
    turns = read_messages(row["messages"], "messages").turns if row.get("messages") else []
    said = {role: [text for one, text in turns if one == role] for role in ("system", "user", "assistant")}
    queries = [*([row["query"]] if row.get("query") is not None else []), *said["user"]]
    if len(queries) != 1 or not isinstance(queries[0], str):
        raise _unfit("there are several questions" if queries else 'there is neither a "query" nor a user message')
    positives = [*_texts(row, "response"), *said["assistant"], *_texts(row, "positive_messages")]
    keys = ("rejected_response", "rejected_messages", "negative_messages")
    negatives = [text for key in keys for text in _texts(row, key)]
    if not positives:
        raise _unfit('there is neither a "response" nor an answer in "messages"')
    if row.get("history"):
        raise _unfit('the row has a "history": it is a chat, not a pair of texts')
    system = row.get("system") or next(iter(said["system"]), "")
    rest = _others(row, "query", "response", "messages", "positive_messages", "label", "system", "history", *keys)
    if row.get("label") is None:
        prompt = {"prompt": system} if system else {}
        return {"query": queries[0], "pos": positives, "neg": negatives} | prompt | rest
    if len(positives) != 1 or negatives:
        raise _unfit(f'a row with a "label" has 2 texts, and this one {1 + len(positives) + len(negatives)}')
    if system:
        raise _unfit("a labelled pair cannot have a system message")
    return {"sentence1": queries[0], "sentence2": positives[0], "score": row["label"]} | rest


def _texts(row: Row, key: str) -> list[str]:
    """Return one text, or a list of texts, messages or lists of messages, as a list of texts."""
    value = [] if row.get(key) in (None, "") else row[key]
    entries = [value] if isinstance(value, str) else value
    if not isinstance(entries, list):
        raise _unfit(f'"{key}" is neither a string nor a list')
    named = [[one] if isinstance(one, dict) else one for one in entries if one != []]
    return [one if isinstance(one, str) else read_messages(one, key).turns[-1][1] for one in named]


# By the name of a form: what makes a documented row of its rows, and the keys that a row of it need not have.
FOREIGN_FORMS: dict[str, Callable[[Row], Row]] = {
    "sharegpt": _from_sharegpt,
    "alpaca": _from_alpaca,
    "swift3": _from_swift3,
    "lists": _from_lists,
    "passages": rewrite_passages,
}
FOREIGN_OPTIONAL = {
    "sharegpt": ("system",),
    "alpaca": ("input", "system", "history"),
    "swift3": ("rejected_response", "system"),
}


def convert_row(form: str, row: Row) -> Row:
    """Return the row of a form of `FOREIGN_FORMS` as Orch reads it, keys that the form does not know kept.

    Raises BadRowError.
    """
    try:
        return FOREIGN_FORMS[form](row)
    except BadRowError as error:
        raise bad_row("not-convertible", f"this is no {form} row: {error.fault.message}") from error


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
