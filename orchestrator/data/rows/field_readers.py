"""A row of a known shape becomes its canonical fields, each with the name that the row itself gives it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from orchestrator.data.reasons import Fault
from orchestrator.data.rows.formats import Shape
from orchestrator.data.rows.loss_marks import MARK_KEYS, find_row_mark, read_mark
from orchestrator.data.rows.near_names import explain_missing_in
from orchestrator.data.rows.texts import build_fault, name_type, quote

# However written: OpenAI's newer models call the system developer, Gemini calls the assistant model.
_SYSTEM = ("system", "developer", "系统")
_USER = ("user", "human", "用户")
_ASSISTANT = ("assistant", "gpt", "bot", "model", "chatgpt", "助手")
ROLES = dict.fromkeys(_SYSTEM, "system") | dict.fromkeys(_USER, "user") | dict.fromkeys(_ASSISTANT, "assistant")
_TOOL_ROLES = frozenset({
    *("tool", "function", "tool_call", "tool_response", "function_call", "function_response"),
    *("observation", "observations", "developer_tool"),
})  # fmt: skip
_MEDIA_KEYS = ("images", "image", "videos", "video", "audios", "audio", "objects", "tools")
_MESSAGE_KEYS = frozenset({"role", "from", "content", "value"}) | MARK_KEYS
_HIT_KEYS = frozenset({"content", "label", "score"})
_HIT = '{"content": "…", "label": 1}'
_LABEL_HINT = "with negatives the row is a ranking group and needs no label; without them a label makes it a pair"


@dataclass(frozen=True)
class Fields:
    """Canonical fields by canonical name, and how the row itself calls them.

    A group has query, pos, neg, pos_scores, neg_scores and prompt as in FlagEmbedding's rows; a pair text1, text2 and
    score; a labelled row query and the lists documents, labels and scores, or else the fields of a group; a chat
    messages as (role, content) and, of each, in names what to call it and in learnt what its marks say. `names` of this
    object holds what the row calls a field, where that differs; a field in `single` is one text there, not a list.
    """

    values: dict[str, Any]
    names: Mapping[str, str] = field(default_factory=dict)
    single: frozenset[str] = frozenset()
    unknown_keys: tuple[str, ...] = ()

    def name(self, key: str, place: int | None = None) -> str:
        """Return how messages name a field, such as `"neg"[2]`."""
        shown = f'"{self.names.get(key, key)}"'
        return shown if place is None or key in self.single else f"{shown}[{place}]"


@dataclass(frozen=True)
class Messages:
    """The (role, content) of each message, whether it is learnt (None: it has no mark), and keys that nothing reads."""

    turns: list[tuple[str, str]]
    learnt: list[bool | None]
    unknown: tuple[str, ...]


def read_fields(row: dict[str, Any], shape: Shape) -> Fields | Fault:
    """Return the fields of a row of that shape, unchecked but for what keeps them from being found."""
    if shape.name != "ranking" and (media := next((key for key in _MEDIA_KEYS if row.get(key)), None)):
        return build_fault("not-text", f"the row has {quote(media)}")
    found = _READERS[shape.kind, shape.name](row)
    if isinstance(found, Fault):
        return found
    known = {*shape.needs, *shape.given, *shape.optional}
    unknown = (*(key for key in row if key not in known and key != SAMPLE_KEY), *found.unknown_keys)
    return Fields(found.values, found.names, found.single, unknown)


SAMPLE_KEY = "sample"  # true in the rows that `orch data sample` writes


def _read_ranking(row: dict[str, Any]) -> Fields:
    return Fields(
        {key: row[key] for key in ("query", "pos", "neg", "pos_scores", "neg_scores", "prompt") if key in row}
    )


def _read_swift3_group(row: dict[str, Any]) -> Fields | Fault:
    rejected = row.get("rejected_response")
    if rejected in (None, ""):
        rejected = []
    if rejected and (fault := _check_label(row)):
        return fault
    single = {"pos"} if isinstance(rejected, list) else {"pos", "neg"}
    negatives = rejected if isinstance(rejected, list) else [rejected]
    values = {"query": row["query"], "pos": [row["response"]], "neg": negatives, "prompt": row.get("system") or None}
    names = {"pos": "response", "neg": "rejected_response", "prompt": "system"}
    return Fields(values, names, frozenset(single))


def _check_label(row: dict[str, Any]) -> Fault | None:
    """Return the fault of a label beside negatives that says anything else than that the positives are such."""
    label = row.get("label")
    if label is None or label in ("", "1", "1.0") or (not isinstance(label, str | bool) and label == 1):
        return None
    return build_fault("label-and-negatives", f'the row has negatives and "label" {quote(str(label))}', _LABEL_HINT)


def _read_swift4_group(row: dict[str, Any]) -> Fields | Fault:
    anchor = _read_anchor(row["messages"])
    if isinstance(anchor, Fault):
        return anchor
    lists: dict[str, list[str]] = {}
    for key, name in (("pos", "positive_messages"), ("neg", "negative_messages")):
        texts = _read_documents(row.get(name), name)
        if isinstance(texts, Fault):
            return texts
        lists[key] = texts
    if lists["neg"] and (fault := _check_label(row)):
        return fault
    names = {"query": "messages", "pos": "positive_messages", "neg": "negative_messages", "prompt": "messages"}
    return Fields({"query": anchor[0], "prompt": anchor[1], **lists}, names, unknown_keys=anchor[2])


def _read_swift4_pair(row: dict[str, Any]) -> Fields | Fault:
    anchor = _read_anchor(row["messages"])
    if isinstance(anchor, Fault):
        return anchor
    texts = _read_documents(row["positive_messages"], "positive_messages")
    if isinstance(texts, Fault):
        return texts
    if len(texts) != 1:
        message = f'"positive_messages" holds {len(texts)} texts, and the label is that of one'
        return build_fault("several-positives" if texts else "no-positive", message, "write one row a text")
    names = {"text1": "messages", "text2": "positive_messages", "score": "label", "prompt": "messages"}
    values = {"text1": anchor[0], "text2": texts[0], "score": row["label"], "prompt": anchor[1]}
    return Fields(values, names, unknown_keys=anchor[2])


def _read_swift3_pair(row: dict[str, Any]) -> Fields:
    names = {"text1": "query", "text2": "response", "score": "label", "prompt": "system"}
    values = {"text1": row["query"], "text2": row["response"], "score": row["label"]}
    return Fields(values | {"prompt": row.get("system") or None}, names)


def _read_sentences(row: dict[str, Any]) -> Fields:
    names = {"text1": "sentence1", "text2": "sentence2"}
    return Fields({"text1": row["sentence1"], "text2": row["sentence2"], "score": row["score"]}, names)


def _read_anchor(messages: Any) -> tuple[str, str | None, tuple[str, ...]] | Fault:
    """Return the anchor's text, its system message or None, and keys that nothing reads."""
    if isinstance(messages, str):
        return messages, None, ()
    found = read_messages(messages, "messages")
    if isinstance(found, Fault):
        return found
    if fault := _refuse_mask(found, "messages"):
        return fault
    turns, unknown = found.turns, found.unknown
    roles = [role for role, _ in turns]
    if roles not in (["user"], ["system", "user"]):
        message = f'"messages" holds {", ".join(roles) or "nothing"}, and a query is one user message'
        return build_fault("broken-turns", message, "keep one user message, with a system message before it or none")
    return turns[-1][1], turns[0][1] if len(turns) > 1 else None, unknown


def _read_documents(value: Any, name: str) -> list[str] | Fault:
    """Return the texts of a list whose elements are lists of one message, bare messages or plain texts."""
    if value is None or value == "":
        return []
    if not isinstance(value, list):
        return build_fault("wrong-type", f'"{name}" is {name_type(value)}, not a list', f'write "{name}": [[…], …]')
    texts: list[str] = []
    for place, item in enumerate(value):
        if isinstance(item, str):
            texts.append(item)
            continue
        found = read_messages(item if isinstance(item, list) else [item], f"{name}[{place}]")
        if isinstance(found, Fault):
            return found
        if fault := _refuse_mask(found, name):
            return fault
        if len(found.turns) != 1:
            message = f'"{name}"[{place}] holds {len(found.turns)} messages, and a document is one'
            return build_fault("broken-turns", message, "write one message a document")
        texts.append(found.turns[0][1])
    return texts


def _refuse_mask(found: Messages, name: str) -> Fault | None:
    """Return the fault of a text that is not to be learnt where no trainer has a mask: in a query or document."""
    if False not in found.learnt:
        return None
    message = f'"{name}" holds a message that is marked as not to be learnt, and only conversations have such'
    return build_fault("loss-mark", message, "remove the mark, or the row")


def read_messages(value: Any, name: str) -> Messages | Fault:
    """Return the messages of swift's or ShareGPT's form, or the fault of the first that is none."""
    if not isinstance(value, list):
        message = f'"{name}" is {name_type(value)}, not a list of messages'
        return build_fault("wrong-type", message, 'write [{"role": "user", "content": "…"}, …]')
    found: list[tuple[str, str]] = []
    learnt: list[bool | None] = []
    unknown: dict[str, None] = {}
    for place, item in enumerate(value):
        shown = f'"{name}"[{place}]'
        turn = _read_message(item, shown)
        if isinstance(turn, Fault):
            return turn
        mark = read_mark(item, turn[0], shown)
        if isinstance(mark, Fault):
            return mark
        found.append(turn)
        learnt.append(mark)
        unknown |= {f"messages[].{key}": None for key in item if key not in _MESSAGE_KEYS and item[key] is not None}
    return Messages(found, learnt, tuple(unknown))


def _read_message(item: Any, name: str) -> tuple[str, str] | Fault:
    if not isinstance(item, dict):
        return build_fault(
            "wrong-type", f"{name} is {name_type(item)}, not a message", 'write {"role": …, "content": …}'
        )
    role_key = "role" if "role" in item else "from"
    content_key = "content" if "content" in item else "value"
    if role_key not in item or item.get(role_key) is None:
        return build_fault("missing-key", f'{name} has no "role"', 'write {"role": "user", "content": "…"}')
    role = item[role_key]
    if not isinstance(role, str):
        return build_fault("wrong-type", f"the role of {name} is {name_type(role)}, not a string", "write one string")
    plain = role.lower().strip()
    if plain.replace("-", "_") in _TOOL_ROLES or item.get("tool_calls") or item.get("function_call"):
        return build_fault("not-text", f"{name} is a tool message")
    if plain not in ROLES:
        known = ", ".join(ROLES)
        return build_fault("unknown-role", f"{name} is from {quote(role)}", f"the known names are {known}")
    if content_key not in item:
        return build_fault("missing-key", f'{name} has no "content"', 'write {"role": "user", "content": "…"}')
    content = _read_content(item[content_key], name)
    return content if isinstance(content, Fault) else (ROLES[plain], content)


def _read_content(content: Any, name: str) -> str | Fault:
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        message = f"the content of {name} is {name_type(content)}, not a string"
        return build_fault("wrong-type", message, "write one string")
    parts: list[str] = []
    for part in content:
        if not isinstance(part, dict) or part.get("type") != "text" or not isinstance(part.get("text"), str):
            what = quote(str(part.get("type"))) if isinstance(part, dict) else name_type(part)
            return build_fault("not-text", f"the content of {name} has a part that is no text: {what}")
        parts.append(part["text"])
    return "".join(parts)


def _read_chat(key: str) -> Callable[[dict[str, Any]], Fields | Fault]:
    def read(row: dict[str, Any]) -> Fields | Fault:
        found = read_messages(row[key], key)
        if isinstance(found, Fault):
            return found
        return _build_chat(row, found, [f'"{key}"[{place}]' for place in range(len(found.turns))])

    return read


def _build_chat(row: dict[str, Any], messages: Messages, names: list[str]) -> Fields | Fault:
    """Put the row's `system`, where it has one, in front; `names` says how messages name each turn."""
    if fault := find_row_mark(row):
        return fault
    turns, learnt = messages.turns, messages.learnt
    system = row.get("system")
    if system is not None and not isinstance(system, str):
        return build_fault("wrong-type", f'"system" is {name_type(system)}, not a string', "write one string")
    if system and turns and turns[0][0] == "system" and turns[0][1] != system:
        return build_fault("broken-turns", 'the row has a "system" and another system message', "keep one of them")
    if system and not (turns and turns[0][0] == "system"):
        turns, names, learnt = [("system", system), *turns], ['"system"', *names], [None, *learnt]
    return Fields({"messages": turns, "names": names, "learnt": learnt}, unknown_keys=messages.unknown)


def _read_turns(user_keys: tuple[str, ...], answer_key: str) -> Callable[[dict[str, Any]], Fields | Fault]:
    """Return a reader of rows with one question and answer, and earlier ones in `history`."""

    def read(row: dict[str, Any]) -> Fields | Fault:
        for key in (*user_keys, answer_key):
            if not isinstance(row.get(key, ""), str) and not (key == "input" and row[key] is None):
                return build_fault("wrong-type", f'"{key}" is {name_type(row[key])}, not a string', "write one string")
        history = _read_history(row.get("history"))
        if isinstance(history, Fault):
            return history
        question = "\n".join(row[key] for key in user_keys if row.get(key))
        turns = [*history, ("user", question), ("assistant", row[answer_key])]
        names = [f'"history"[{place // 2}]' for place in range(len(history))]
        found = Messages(turns, [None] * len(turns), ())
        return _build_chat(row, found, [*names, f'"{user_keys[0]}"', f'"{answer_key}"'])

    return read


def _read_history(value: Any) -> list[tuple[str, str]] | Fault:
    turns: list[tuple[str, str]] = []
    if value is None or value == "":
        return turns
    wrong = build_fault("wrong-type", '"history" is not a list of pairs', 'write [["question", "answer"], …]')
    if not isinstance(value, list):
        return wrong
    for pair in value:
        if not (isinstance(pair, list) and len(pair) == 2 and all(isinstance(text, str) for text in pair)):  # noqa: PLR2004 - question and answer
            return wrong
        turns += [("user", pair[0]), ("assistant", pair[1])]
    return turns


def _read_pointwise(row: dict[str, Any]) -> Fields:
    values = {"query": row["query"], "documents": [row["content"]], "labels": [row["label"]]}
    return Fields(values | {"scores": [row.get("score")]})


def _read_hits(row: dict[str, Any]) -> Fields | Fault:
    hits = row["hits"]
    if not isinstance(hits, list):
        return build_fault("wrong-type", f'"hits" is {name_type(hits)}, not a list', f'write "hits": [{_HIT}, …]')
    if not hits:
        return build_fault("no-documents", '"hits" is an empty list')
    unknown: dict[str, None] = {}
    for place, hit in enumerate(hits):
        if not isinstance(hit, dict):
            return build_fault("wrong-type", f'"hits"[{place}] is {name_type(hit)}, not an object', f"write {_HIT}")
        for key in ("content", "label"):
            if key not in hit:
                return explain_missing_in(f'"hits"[{place}]', key, hit, f"write {_HIT}")
        unknown |= {f"hits[].{key}": None for key in hit if key not in _HIT_KEYS}
    values = {"query": row["query"], "documents": [hit["content"] for hit in hits]}
    values |= {"labels": [hit["label"] for hit in hits], "scores": [hit.get("score") for hit in hits]}
    return Fields(values, {"documents": "hits"}, unknown_keys=tuple(unknown))


_READERS: dict[tuple[str, str], Callable[[dict[str, Any]], Fields | Fault]] = {
    ("group", "ranking"): _read_ranking,
    ("group", "swift3"): _read_swift3_group,
    ("group", "swift4"): _read_swift4_group,
    ("pair", "sentences"): _read_sentences,
    ("pair", "swift3"): _read_swift3_pair,
    ("pair", "swift4"): _read_swift4_pair,
    ("labelled", "pointwise"): _read_pointwise,
    ("labelled", "hits"): _read_hits,
    ("labelled", "ranking"): _read_ranking,
    ("chat", "messages"): _read_chat("messages"),
    ("chat", "conversations"): _read_chat("conversations"),
    ("chat", "instruction"): _read_turns(("instruction", "input"), "output"),
    ("chat", "response"): _read_turns(("query",), "response"),
}
