"""Every shape of rows that is read, one entry of SHAPES each: its keys, and how a row of it becomes canonical fields.

`find_shape` says which shape a row has by its keys, `read_fields` reads it; each field keeps the name that the row
itself gives it, for messages.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from orchestrator.data.reading.readers import open_source
from orchestrator.data.reasons import Fault, problem_of
from orchestrator.data.rows.loss_marks import MARK_KEYS, find_row_mark, read_mark
from orchestrator.data.rows.near_names import explain_missing_in, plain_name
from orchestrator.data.rows.records import KINDS, Kind
from orchestrator.data.rows.texts import build_fault, is_finite_number, name_type, quote
from orchestrator.errors import Problem, Where


@dataclass(frozen=True)
class Shape:
    """Rows with every key of `needs` and `given` and none of `lacks`; for these two, null, "" and [] are no values."""

    name: str
    kind: Kind
    needs: tuple[str, ...]
    lacks: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()
    given: tuple[str, ...] = ()

    @property
    def without_negatives(self) -> bool:
        """Whether rows of this shape have none: those of swift without the key for them."""
        return self.name in {"swift3", "swift4"} and not self.given


_SWIFT_LISTS = ("positive_messages", "negative_messages")

# The first that fits is the row's, labelled shapes last unless these are wanted. Among them are all that ms-swift 3
# and 4 and FlagEmbedding document.
SHAPES = (
    Shape("ranking", "group", ("query", "pos"), (), ("neg", "pos_scores", "neg_scores", "prompt")),
    Shape("swift4", "group", ("messages", "positive_messages"), (), ("label",), ("negative_messages",)),
    Shape("swift4", "group", ("messages", "positive_messages"), ("label",), ("negative_messages", "label")),
    Shape("swift3", "group", ("query", "response"), (), ("label", "system"), ("rejected_response",)),
    Shape("swift3", "group", ("query", "response"), ("label",), ("rejected_response", "label", "system")),
    Shape("sentences", "pair", ("sentence1", "sentence2", "score")),
    Shape("swift4", "pair", ("messages", "positive_messages", "label"), ("negative_messages",), ("negative_messages",)),
    Shape("swift3", "pair", ("query", "response", "label"), ("rejected_response",), ("rejected_response", "system")),
    Shape("messages", "chat", ("messages",), _SWIFT_LISTS, ("system",)),
    Shape("conversations", "chat", ("conversations",), (), ("system",)),
    Shape("instruction", "chat", ("instruction", "output"), (), ("input", "system", "history")),
    Shape("response", "chat", ("query", "response"), ("label", "rejected_response"), ("system", "history")),
    Shape("pointwise", "labelled", ("query", "content", "label"), (), ("score",)),
    Shape("hits", "labelled", ("query", "hits")),
    Shape("ranking", "labelled", ("query", "pos"), (), ("neg", "pos_scores", "neg_scores", "prompt")),
)  # fmt: skip

_BY_KIND = {
    kind: (
        tuple(s for s in SHAPES if s.kind == kind),
        tuple(s for s in SHAPES if s.kind not in {kind, "labelled"}),
        tuple(s for s in SHAPES if s.kind == "labelled" != kind),
    )
    for kind in KINDS
}
EXAMPLES: dict[Kind, str] = {
    "group": 'a row is {"query": "…", "pos": ["…"], "neg": ["…", "…"]}',
    "pair": 'a row is {"sentence1": "…", "sentence2": "…", "score": 0.8}',
    "labelled": 'a row is {"query": "…", "content": "…", "label": 1}',
    "chat": 'a row is {"messages": [{"role": "user", "content": "…"}, {"role": "assistant", "content": "…"}]}',
}
# Keys without which a row is still one, in every form that has them.
OPTIONAL_KEYS = frozenset({"neg", "rejected_response", "negative_messages", "prompt", "system", "history", "input"})
_NUMBERED = re.compile(r"(?:hard_)?(?:negatives?|negs?|rejected(?:_responses?)?)(?:_docs?|_passages?)?_?(\d{1,4})")
_LIST_NAMES = {
    ("text", "text", "number"): ("sentence1", "sentence2", "score"),
    ("text", "text"): ("query", "response"),
    ("text", "text", "text"): ("query", "response", "rejected_response"),
    ("text", "text", "list"): ("query", "response", "rejected_response"),
    ("text", "list", "list"): ("query", "pos", "neg"),
}
_PAIR_COLUMNS = {"sentences": "query=sentence1 content=sentence2 label=score", "swift3": "content=response"}
_ABSENT: tuple[Any, ...] = (None, "", [])


def find_shape(row: Mapping[str, Any], wanted: Kind) -> Shape | None:
    """Return a row's shape: one of the wanted kind where the keys allow it, else any, else None."""
    for shapes in _BY_KIND[wanted]:
        for is_there in (_has_value, _has_key):
            for shape in shapes:
                needed = all(is_there(row, key) for key in shape.needs)
                if (
                    needed
                    and all(_has_value(row, key) for key in shape.given)
                    and not any(_has_value(row, key) for key in shape.lacks)
                ):
                    return shape
    return None


def _has_value(row: Mapping[str, Any], key: str) -> bool:
    return key in row and row[key] not in _ABSENT


def _has_key(row: Mapping[str, Any], key: str) -> bool:
    return key in row


def rename_columns(row: dict[str, Any], columns: Mapping[str, str]) -> dict[str, Any] | Fault:
    """Return the row with its keys renamed, `columns` being {new: old}; the other keys stay as they are.

    A column that a row may lack under its new name, it may lack under its old one. Numbered negatives become a list.
    """
    if not columns:
        return fold_numbered(row)
    columns = {new: old for new, old in columns.items() if old in row or new not in OPTIONAL_KEYS}
    for new, old in columns.items():
        if old not in row:
            there = ", ".join(quote(key) for key in list(row)[:20]) or "no keys"
            return build_fault("missing-column", f'{quote(old)}, to be read as "{new}", is missing: there are {there}')
    taken = set(columns.values()) | set(columns)
    kept = {key: value for key, value in row.items() if key not in taken}
    return fold_numbered({new: row[old] for new, old in columns.items()} | kept)


def explain_unseen(columns: Collection[str]) -> list[Problem]:
    """Return that columns which are to be renamed are in no row at all."""
    if not columns:
        return []
    names = ", ".join(quote(name) for name in sorted(columns))
    return [problem_of("unknown-column", f"no row has {names}", hint="correct data.columns (--map NEW=OLD)")]


def fold_numbered(row: dict[str, Any]) -> dict[str, Any]:
    """Return the row with the texts of `negative_1`, `negative_2`, … as the list of negatives that its form has."""
    if not any(key[-1:].isdigit() for key in row):
        return row
    found = {key: match for key in row if (match := _NUMBERED.fullmatch(plain_name(key)))}
    target = "neg" if "pos" in row else "rejected_response" if "response" in row else None
    given = [row[key] for key in found]
    if (
        target is None
        or not found
        or _has_value(row, target)
        or not all(isinstance(text, str | None) for text in given)
    ):
        return row
    ordered = sorted(found, key=lambda key: int(found[key][1] or 0))
    texts = [row[key] for key in ordered if row[key]]
    return {key: value for key, value in row.items() if key not in found} | {target: texts}


def sniff_shape(path: Path, columns: Mapping[str, str] | None = None, wanted: Kind = "group") -> Shape | None:
    """Return the shape of a file's first row, or None where it has none or cannot be read. Reads one row."""
    row = sniff_row(path, columns)
    return None if row is None else find_shape(row, wanted)


def sniff_row(path: Path, columns: Mapping[str, str] | None = None) -> dict[str, Any] | None:
    """Return a file's first row, its columns renamed, or None where it cannot be read. Never raises."""
    try:
        rows = open_source(path).rows()
        row = next(rows, None)
        rows.close()  # type: ignore[attr-defined]
    except Exception:  # noqa: BLE001 - whatever is wrong with the file is for the prepare stage to say
        return None
    if row is None or row.fault or not isinstance(row.value, dict):
        return None
    value = rename_columns(row.value, columns or {})
    return None if isinstance(value, Fault) else value


def sniff_kind(path: Path, columns: Mapping[str, str] | None = None) -> Kind | None:
    """Return the kind of a file's first row; a query and its response alone are a group. Never raises."""
    shape = sniff_shape(path, columns)
    return shape.kind if shape else None


def explain_other_kind(shape: Shape, wanted: Kind) -> Fault:
    """Return the fault of a good-looking row that is not of the wanted kind."""
    keys = ", ".join((*shape.needs, *shape.given))
    message = f"this is a {shape.kind} row ({keys}), and {wanted} rows are wanted"
    if shape.kind == "group" and wanted == "pair":
        return build_fault("other-kind", message, 'add "label", or choose a loss that takes rows without one')
    if wanted == "labelled" and shape.kind == "pair" and shape.name in _PAIR_COLUMNS:
        hint = f"rename the columns: data.columns, or --map, with {_PAIR_COLUMNS[shape.name]}"
        return build_fault("other-kind", message, hint)
    if shape.kind == "labelled" and wanted == "group":
        hint = "orch data convert FILE --to ranking --relevant-from LABEL; or say backend: sentence-transformers"
        return build_fault("other-kind", message, hint)
    return build_fault("other-kind", message, f"{EXAMPLES[wanted]}; or choose the task and loss for {shape.kind} rows")


def explain_no_object(value: Any, wanted: Kind) -> Fault:
    """Return the fault of a row that is no JSON object, with the command that makes objects of lists."""
    if isinstance(value, list) and (names := _name_values(value)):
        message = f"the row is a list of {len(value)} values, not a JSON object"
        hint = f"name its values: orch data convert FILE --names {','.join(names)} -o NEW.jsonl"
        return build_fault("not-an-object", message, hint)
    return build_fault("not-an-object", f"the row is {name_type(value)}, not a JSON object", EXAMPLES[wanted])


def _name_values(value: list[Any]) -> tuple[str, ...]:
    """Return the likely names of a row's values, by their types; () where there are none to name."""
    if value and all(isinstance(one, dict) for one in value):
        return ("messages",)
    types = tuple(map(_classify, value))
    return _LIST_NAMES.get(types, tuple(f"NAME{number}" for number in range(1, len(value) + 1)))


def _classify(value: Any) -> str:
    if isinstance(value, str):
        return "text"
    return "list" if isinstance(value, list) else "number" if is_finite_number(value) else ""


def parse_columns(pairs: Iterable[str]) -> dict[str, str]:
    """Return {new: old} of texts NEW=OLD. Raises ValueError with the text that is none."""
    columns: dict[str, str] = {}
    for text in pairs:
        new, sign, old = text.partition("=")
        if not (new and sign and old) or new in columns or old in columns.values():
            raise ValueError(text)
        columns[new] = old
    return columns


def require_kind(name: str) -> Kind:
    """Return `name` as a kind. Raises ValueError for any other text."""
    for kind in KINDS:
        if kind == name:
            return kind
    raise ValueError(name)


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


_SIDES = ("pos", "neg")
_ASK = (
    "if the scores are labels, say data.scores_as_labels: true (--scores-as-labels); "
    "if they are a teacher's, false (--no-scores-as-labels)"
)


def read_scores_as_labels(row: dict[str, Any], low: float, high: float) -> dict[str, Any] | Fault:
    """Return a ranking row with scores as a row of hits whose labels are its scores; any other row as it is.

    Negatives without scores have the lowest label, as in RAG-Retrieval's rows of `pos`, `neg` and `pos_scores`.
    """
    if row.get("pos_scores") is None and row.get("neg_scores") is None:
        return row
    hits: list[dict[str, Any]] = []
    for side in _SIDES:
        texts, labels = row.get(side) or [], row.get(f"{side}_scores")
        if side == "neg" and labels is None and isinstance(texts, list):
            labels = [low] * len(texts)
        if not isinstance(texts, list) or not isinstance(labels, list) or len(texts) != len(labels):
            message = f'"{side}_scores" is to be the labels of "{side}", and does not hold one for each text'
            return build_fault("scores-length", message, "give one label a document, in the same order")
        for place, label in enumerate(labels):
            name = f'"{side}_scores"[{place}]'
            if not is_finite_number(label):
                return build_fault("label-not-a-number", f"{name} is not a finite number")
            if not low <= label <= high:
                return build_fault("label-out-of-range", f"{name} is {label:.12g}, outside {low:g} to {high:g}")
        hits += [{"content": text, "label": label} for text, label in zip(texts, labels, strict=True)]
    rest = {key: value for key, value in row.items() if key not in {"pos", "neg", "pos_scores", "neg_scores"}}
    return {"query": rest.pop("query", None), "hits": hits, **rest}


class LabelSources:
    """What the rows of one side know of their documents' labels: real labels, sides, or scores beside the sides."""

    def __init__(self) -> None:
        self._labelled = self._has_negatives = False
        self._scored: tuple[str, int] | None = None

    def note(self, row: Mapping[str, Any], path: str, line: int) -> None:
        """Look at one row, with its keys in canonical names."""
        if "pos" not in row:
            self._labelled = True
            return
        self._has_negatives |= bool(row.get("neg"))
        if self._scored is None and row.get("pos_scores") is not None:
            self._scored = (path, line)

    def problem(self, *, ranged: bool, needs_negatives: bool = True) -> list[Problem]:
        """Return that nobody has said whether scores are labels, where only they could be such.

        `ranged`: a range of labels was given; `needs_negatives`: rows of positives alone have nothing to tell apart.
        """
        if self._labelled or self._scored is None:
            return []
        if ranged:
            why = "a range of labels was given, and no row has a label"
        elif needs_negatives and not self._has_negatives:
            why = "every document is a positive"
        else:
            return []
        path, line = self._scored
        message = f'{why}, but rows have "pos_scores": nothing says whether these are labels'
        return [problem_of("scores-or-labels", message, hint=_ASK, where=Where(path, line))]
