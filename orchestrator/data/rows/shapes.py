"""The registry of the shapes of rows: each is one entry, and every verb that reads rows reads it by that entry.

To add a shape, `register` a Shape: by which keys it is known (`needs`, `lacks`, `optional`, `given`), which of its
columns hold lists in a text table (`lists`), and how a row of it becomes canonical. There are two ways for the last:

- `read(row)` returns the row's `Fields`: canonical values, each with the name that the row itself gives it, so that
  messages speak of the user's own keys. Shapes that are documented have one. prepare, check, split and evaluate use the
  fields; convert with --to, score and mine a canonical row that is made of them (judged.py).
- `rewrite(row)` returns a row of a shape that is read, the keys that the shape does not know kept. `normalise` does it
  for every verb before anything else looks at the row.

The way of a row: `normalise` (columns renamed, numbered negatives folded, foreign shapes rewritten), `find_shape` (by
its keys, one of the wanted kind first), `read_fields`, and then checks.py makes a record of the fields. A row that
cannot be used raises BadRowError anywhere on that way; `normalise` returns its fault.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

from orchestrator.data.reasons import Fault
from orchestrator.data.rows.loss_marks import MARK_KEYS, read_mark, require_no_row_mark
from orchestrator.data.rows.near_names import explain_missing_in, plain_name
from orchestrator.data.rows.records import KINDS, Kind
from orchestrator.data.rows.texts import BadRowError, bad_row, build_fault, is_finite_number, name_type, quote

Row = dict[str, Any]
SAMPLE_KEY = "sample"  # true in the rows that `orch data sample` writes
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
_HIT = 'write {"content": "…", "label": 1}'
_MESSAGE = 'write {"role": "user", "content": "…"}'
_ONE_STRING = "write one string"
_ABSENT: tuple[Any, ...] = (None, "", [])
EXAMPLES: dict[Kind, str] = {
    "group": 'a row is {"query": "…", "pos": ["…"], "neg": ["…", "…"]}',
    "pair": 'a row is {"sentence1": "…", "sentence2": "…", "score": 0.8}',
    "labelled": 'a row is {"query": "…", "content": "…", "label": 1}',
    "chat": 'a row is {"messages": [{"role": "user", "content": "…"}, {"role": "assistant", "content": "…"}]}',
}
# Keys without which a row is still one, in every form that has them.
OPTIONAL_KEYS = frozenset({"neg", "rejected_response", "negative_messages", "prompt", "system", "history", "input"})


@dataclass(frozen=True)
class Fields:
    """Canonical fields by canonical name, and how the row itself calls them.

    A group has query, pos, neg, pos_scores, neg_scores and prompt as in FlagEmbedding's rows; a pair text1, text2 and
    score; a labelled row query and the lists documents, labels and scores (which may be missing), or else the fields of
    a group; a chat messages as (role, content) and, of each, in names what to call it and in learnt what its marks say.
    `names` of this object holds what the row calls a field, where that differs, `hits[].label` for a key of the objects
    of a list; a field in `single` is one value there, not a list.
    """

    values: Row
    names: Mapping[str, str] = field(default_factory=dict)
    single: frozenset[str] = frozenset()
    unknown_keys: tuple[str, ...] = ()

    def name(self, key: str, place: int | None = None) -> str:
        """Return how messages name a field, such as `"neg"[2]`."""
        outer, _, inner = self.names.get(key, key).partition("[].")
        if place is None or key in self.single:
            return f'"{outer}"'
        return f'"{outer}"[{place}]' + (f".{inner}" if inner else "")


@dataclass(frozen=True)
class Shape:
    """Rows with every key of `needs` and `given` and none of `lacks`; for these two, null, "" and [] are no values.

    `read` or `rewrite` says what a row of it means; both raise BadRowError. `fits` tells rows apart that their keys do
    not. `lists` are the columns whose cells may be JSON lists.
    """

    name: str
    kind: Kind
    needs: tuple[str, ...]
    read: Callable[[Row], Fields] | None = None
    lacks: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()
    given: tuple[str, ...] = ()
    lists: tuple[str, ...] = ()
    rewrite: Callable[[Row], Row] | None = None
    fits: Callable[[Row], bool] | None = None

    @property
    def without_negatives(self) -> bool:
        """Whether rows of this shape have none: those of swift without the key for them."""
        return self.name in {"swift3", "swift4"} and not self.given

    def matches(self, row: Mapping[str, Any], is_there: Callable[[Mapping[str, Any], str], bool]) -> bool:
        """Whether a row has the keys of this shape; `is_there` says what counts as having one that it needs."""
        for key in self.needs:
            if not is_there(row, key):
                return False
        return all(_has_value(row, key) for key in self.given) and not any(_has_value(row, key) for key in self.lacks)


def _has_value(row: Mapping[str, Any], key: str) -> bool:
    return key in row and row[key] not in _ABSENT


def _has_key(row: Mapping[str, Any], key: str) -> bool:
    return key in row


def register(shape: Shape) -> None:
    """Add a shape to those that are read; it comes after the others of its kind."""
    SHAPES.append(shape)
    forget_order()


def forget_order() -> None:
    """Look at SHAPES anew, after a change of it."""
    _in_order.cache_clear()
    list_columns.cache_clear()


@cache
def _in_order(wanted: Kind) -> tuple[tuple[Shape, ...], ...]:
    """Return the shapes that are read: of the wanted kind first, labelled ones last unless these are wanted."""
    found = [shape for shape in SHAPES if shape.read]
    return (
        tuple(shape for shape in found if shape.kind == wanted),
        tuple(shape for shape in found if shape.kind not in {wanted, "labelled"}),
        tuple(shape for shape in found if shape.kind == "labelled" != wanted),
    )


@cache
def list_columns() -> frozenset[str]:
    """Return the columns whose cells may be JSON lists; in any other, "[1, 2]" is a text, such as a model's answer."""
    return frozenset(column for shape in SHAPES for column in shape.lists)


def find_shape(row: Mapping[str, Any], wanted: Kind) -> Shape | None:
    """Return a row's shape: one of the wanted kind where the keys allow it, else any, else None."""
    for shapes in _in_order(wanted):
        for is_there in (_has_value, _has_key):
            for shape in shapes:
                if shape.matches(row, is_there):
                    return shape
    return None


def normalise(row: Row, columns: Mapping[str, str]) -> Row | Fault:
    """Return a row as every verb looks at it, renamed and rewritten where its shape is, or why it cannot be."""
    renamed = rename(row, columns)
    return renamed if isinstance(renamed, Fault) else rewrite(renamed)


def rename(row: Row, columns: Mapping[str, str]) -> Row | Fault:
    """Return a row with its keys renamed, `columns` being {new: old}, and numbered negatives as a list.

    The other keys stay as they are, and a column that a row may lack under its new name, it may lack under its old one.
    """
    if columns:
        columns = {new: old for new, old in columns.items() if old in row or new not in OPTIONAL_KEYS}
        for new, old in columns.items():
            if old not in row:
                there = ", ".join(quote(key) for key in list(row)[:20]) or "no keys"
                message = f'{quote(old)}, to be read as "{new}", is missing: there are {there}'
                return build_fault("missing-column", message)
        taken = set(columns.values()) | set(columns)
        kept = {key: value for key, value in row.items() if key not in taken}
        row = {new: row[old] for new, old in columns.items()} | kept
    return fold_numbered(row)


def rewrite(row: Row) -> Row | Fault:
    """Return a row of a shape that is rewritten as one of a shape that is read, any other as it is."""
    for shape in SHAPES:
        if shape.rewrite and shape.matches(row, _has_value) and (shape.fits is None or shape.fits(row)):
            try:
                return shape.rewrite(row)
            except BadRowError as error:
                return error.fault
    return row


_NUMBERED = re.compile(r"(?:hard_)?(?:negatives?|negs?|rejected(?:_responses?)?)(?:_docs?|_passages?)?_?(\d{1,4})")


def fold_numbered(row: Row) -> Row:
    """Return the row with the texts of `negative_1`, `negative_2`, … as the list of negatives that its form has."""
    if not any(key[-1:].isdigit() for key in row):
        return row
    found = {key: match for key in row if (match := _NUMBERED.fullmatch(plain_name(key)))}
    target = "neg" if "pos" in row else "rejected_response" if "response" in row else None
    if target is None or not found or _has_value(row, target):
        return row
    if not all(isinstance(row[key], str | None) for key in found):
        return row
    ordered = sorted(found, key=lambda key: int(found[key][1] or 0))
    texts = [row[key] for key in ordered if row[key]]
    return {key: value for key, value in row.items() if key not in found} | {target: texts}


def read_fields(row: Row, shape: Shape) -> Fields:
    """Return the fields of a row of that shape, unchecked but for what keeps them from being found.

    Raises BadRowError.
    """
    if shape.name != "ranking" and (media := next((key for key in _MEDIA_KEYS if row.get(key)), None)):
        raise bad_row("not-text", f"the row has {quote(media)}")
    found = shape.read(row) if shape.read else Fields(row)
    if "documents" in found.values:
        found = _require_parallel(found)
    known = {*shape.needs, *shape.given, *shape.optional, SAMPLE_KEY}
    return replace(found, unknown_keys=(*(key for key in row if key not in known), *found.unknown_keys))


def _require_parallel(fields: Fields) -> Fields:
    """Return the fields of judged documents with a score (or None) each. Raises for lists that do not go together."""
    documents = fields.values["documents"]
    values: Row = dict(fields.values)
    if values.get("scores") is None and isinstance(documents, list):
        values["scores"] = [None] * len(documents)
    for key in ("documents", "labels", "scores"):
        found = values.get(key)
        if not isinstance(found, list):
            raise bad_row("wrong-type", f"{fields.name(key)} is {name_type(found)}, not a list")
        if len(found) != len(documents):
            message = f"{fields.name(key)} holds {len(found)} and {fields.name('documents')} {len(documents)}"
            raise bad_row("scores-length", message, "give one a document, in the same order")
    if not documents:
        raise bad_row("no-documents", f"{fields.name('documents')} is an empty list")
    return replace(fields, values=values)


def read_scores_as_labels(row: Row, low: float, high: float) -> Row | Fault:
    """Return a ranking row with scores as a row of hits whose labels are its scores; any other row as it is.

    Negatives without scores have the lowest label, as in RAG-Retrieval's rows of `pos`, `neg` and `pos_scores`.
    """
    if row.get("pos_scores") is None and row.get("neg_scores") is None:
        return row
    hits: list[Row] = []
    for side in ("pos", "neg"):
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


# Rows of one query with its documents


_RANKING_KEYS = ("query", "pos", "neg", "pos_scores", "neg_scores", "prompt")


def _read_ranking(row: Row) -> Fields:
    return Fields({key: row[key] for key in _RANKING_KEYS if key in row})


def _read_swift3_group(row: Row) -> Fields:
    rejected = row.get("rejected_response")
    if rejected in (None, ""):
        rejected = []
    if rejected:
        _require_no_label(row)
    is_list = isinstance(rejected, list)
    negatives = rejected if is_list else [rejected]
    values = {"query": row["query"], "pos": [row["response"]], "neg": negatives, "prompt": row.get("system") or None}
    names = {"pos": "response", "neg": "rejected_response", "prompt": "system"}
    return Fields(values, names, frozenset({"pos"} if is_list else {"pos", "neg"}))


def _require_no_label(row: Row) -> None:
    """Raise for a label beside negatives that says anything else than that the positives are such."""
    label = row.get("label")
    if label is None or label in ("", "1", "1.0") or (not isinstance(label, str | bool) and label == 1):
        return
    hint = "with negatives the row is a ranking group and needs no label; without them a label makes it a pair"
    raise bad_row("label-and-negatives", f'the row has negatives and "label" {quote(str(label))}', hint)


def _read_swift4_group(row: Row) -> Fields:
    query, prompt, unknown = _read_anchor(row["messages"])
    names = {"query": "messages", "pos": "positive_messages", "neg": "negative_messages", "prompt": "messages"}
    values: Row = {"query": query, "prompt": prompt}
    values |= {key: _read_documents(row.get(names[key]), names[key]) for key in ("pos", "neg")}
    if values["neg"]:
        _require_no_label(row)
    return Fields(values, names, unknown_keys=unknown)


def _read_swift4_pair(row: Row) -> Fields:
    query, prompt, unknown = _read_anchor(row["messages"])
    texts = _read_documents(row["positive_messages"], "positive_messages")
    if len(texts) != 1:
        message = f'"positive_messages" holds {len(texts)} texts, and the label is that of one'
        raise bad_row("several-positives" if texts else "no-positive", message, "write one row a text")
    names = {"text1": "messages", "text2": "positive_messages", "score": "label", "prompt": "messages"}
    values = {"text1": query, "text2": texts[0], "score": row["label"], "prompt": prompt}
    return Fields(values, names, unknown_keys=unknown)


def _read_swift3_pair(row: Row) -> Fields:
    names = {"text1": "query", "text2": "response", "score": "label", "prompt": "system"}
    values = {"text1": row["query"], "text2": row["response"], "score": row["label"]}
    return Fields(values | {"prompt": row.get("system") or None}, names)


def _read_sentences(row: Row) -> Fields:
    names = {"text1": "sentence1", "text2": "sentence2"}
    return Fields({"text1": row["sentence1"], "text2": row["sentence2"], "score": row["score"]}, names)


def _read_pointwise(row: Row) -> Fields:
    values = {"query": row["query"], "documents": [row["content"]], "labels": [row["label"]]}
    names = {"documents": "content", "labels": "label", "scores": "score"}
    return Fields(values | {"scores": [row.get("score")]}, names, frozenset(names))


def _read_hits(row: Row) -> Fields:
    hits = row["hits"]
    require_hits(hits, ("content", "label"))
    unknown = {f"hits[].{key}": None for hit in hits for key in hit if key not in _HIT_KEYS}
    values = {"query": row["query"], "documents": [hit["content"] for hit in hits]}
    values |= {"labels": [hit["label"] for hit in hits], "scores": [hit.get("score") for hit in hits]}
    names = {"documents": "hits[].content", "labels": "hits[].label", "scores": "hits[].score"}
    return Fields(values, names, unknown_keys=tuple(unknown))


def require_hits(hits: Any, needs: Sequence[str]) -> None:
    """Raise BadRowError unless `hits` is a list of objects with these keys."""
    if not isinstance(hits, list):
        hint = 'write "hits": [{"content": "…", "label": 1}, …]'
        raise bad_row("wrong-type", f'"hits" is {name_type(hits)}, not a list', hint)
    for place, hit in enumerate(hits):
        if not isinstance(hit, dict):
            raise bad_row("wrong-type", f'"hits"[{place}] is {name_type(hit)}, not an object', _HIT)
        if missing := [key for key in needs if key not in hit]:
            raise BadRowError(explain_missing_in(f'"hits"[{place}]', missing[0], hit, _HIT))


# Messages and conversations


@dataclass(frozen=True)
class Messages:
    """The (role, content) of each message, whether it is learnt (None: it has no mark), and keys that nothing reads."""

    turns: list[tuple[str, str]]
    learnt: list[bool | None]
    unknown: tuple[str, ...] = ()


def read_messages(value: Any, name: str) -> Messages:
    """Return the messages of swift's or ShareGPT's form. Raises BadRowError for the first that is none."""
    if not isinstance(value, list):
        message = f'"{name}" is {name_type(value)}, not a list of messages'
        raise bad_row("wrong-type", message, 'write [{"role": "user", "content": "…"}, …]')
    found = Messages([], [])
    unknown: dict[str, None] = {}
    for place, item in enumerate(value):
        shown = f'"{name}"[{place}]'
        turn = _read_message(item, shown)
        found.turns.append(turn)
        found.learnt.append(read_mark(item, turn[0], shown))
        unknown |= {f"messages[].{key}": None for key in item if key not in _MESSAGE_KEYS and item[key] is not None}
    return replace(found, unknown=tuple(unknown))


def _read_message(item: Any, name: str) -> tuple[str, str]:
    if not isinstance(item, dict):
        message = f"{name} is {name_type(item)}, not a message"
        raise bad_row("wrong-type", message, 'write {"role": …, "content": …}')
    role_key = "role" if "role" in item else "from"
    content_key = "content" if "content" in item else "value"
    role = item.get(role_key)
    if role is None:
        raise bad_row("missing-key", f'{name} has no "role"', _MESSAGE)
    if not isinstance(role, str):
        raise bad_row("wrong-type", f"the role of {name} is {name_type(role)}, not a string", _ONE_STRING)
    plain = role.lower().strip()
    if plain.replace("-", "_") in _TOOL_ROLES or item.get("tool_calls") or item.get("function_call"):
        raise bad_row("not-text", f"{name} is a tool message")
    if plain not in ROLES:
        known = ", ".join(ROLES)
        raise bad_row("unknown-role", f"{name} is from {quote(role)}", f"the known names are {known}")
    if content_key not in item:
        raise bad_row("missing-key", f'{name} has no "content"', _MESSAGE)
    return ROLES[plain], _read_content(item[content_key], name)


def _read_content(content: Any, name: str) -> str:
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        message = f"the content of {name} is {name_type(content)}, not a string"
        raise bad_row("wrong-type", message, _ONE_STRING)
    for part in content:
        if not isinstance(part, dict) or part.get("type") != "text" or not isinstance(part.get("text"), str):
            what = quote(str(part.get("type"))) if isinstance(part, dict) else name_type(part)
            raise bad_row("not-text", f"the content of {name} has a part that is no text: {what}")
    return "".join(part["text"] for part in content)


def _read_anchor(messages: Any) -> tuple[str, str | None, tuple[str, ...]]:
    """Return the anchor's text, its system message or None, and keys that nothing reads."""
    if isinstance(messages, str):
        return messages, None, ()
    found = read_messages(messages, "messages")
    _require_no_mask(found, "messages")
    roles = [role for role, _ in found.turns]
    if roles not in (["user"], ["system", "user"]):
        message = f'"messages" holds {", ".join(roles) or "nothing"}, and a query is one user message'
        raise bad_row("broken-turns", message, "keep one user message, with a system message before it or none")
    return found.turns[-1][1], found.turns[0][1] if len(roles) > 1 else None, found.unknown


def _read_documents(value: Any, name: str) -> list[str]:
    """Return the texts of a list whose elements are lists of one message, bare messages or plain texts."""
    if value is None or value == "":
        return []
    if not isinstance(value, list):
        raise bad_row("wrong-type", f'"{name}" is {name_type(value)}, not a list', f'write "{name}": [[…], …]')
    texts: list[str] = []
    for place, item in enumerate(value):
        if isinstance(item, str):
            texts.append(item)
            continue
        found = read_messages(item if isinstance(item, list) else [item], f"{name}[{place}]")
        _require_no_mask(found, name)
        if len(found.turns) != 1:
            message = f'"{name}"[{place}] holds {len(found.turns)} messages, and a document is one'
            raise bad_row("broken-turns", message, "write one message a document")
        texts.append(found.turns[0][1])
    return texts


def _require_no_mask(found: Messages, name: str) -> None:
    """Raise for a text that is not to be learnt where no trainer has a mask: in a query or document."""
    if False in found.learnt:
        message = f'"{name}" holds a message that is marked as not to be learnt, and only conversations have such'
        raise bad_row("loss-mark", message, "remove the mark, or the row")


def read_chat(key: str) -> Callable[[Row], Fields]:
    """Return a reader of rows with a conversation under `key`."""

    def read(row: Row) -> Fields:
        found = read_messages(row[key], key)
        return _build_chat(row, found, [f'"{key}"[{place}]' for place in range(len(found.turns))])

    return read


def read_turns(user_keys: tuple[str, ...], answer_key: str) -> Callable[[Row], Fields]:
    """Return a reader of rows with one question, an answer, and earlier ones in `history`."""

    def read(row: Row) -> Fields:
        for key in (*user_keys, answer_key):
            if not isinstance(row.get(key, ""), str) and not (key == "input" and row[key] is None):
                raise bad_row("wrong-type", f'"{key}" is {name_type(row[key])}, not a string', _ONE_STRING)
        history = read_history(row.get("history"))
        question = "\n".join(row[key] for key in user_keys if row.get(key))
        turns = [*history, ("user", question), ("assistant", row[answer_key])]
        names = [f'"history"[{place // 2}]' for place in range(len(history))]
        return _build_chat(row, Messages(turns, [None] * len(turns)), [*names, f'"{user_keys[0]}"', f'"{answer_key}"'])

    return read


def read_history(value: Any) -> list[tuple[str, str]]:
    """Return the turns of [[question, answer], …]. Raises BadRowError."""
    turns: list[tuple[str, str]] = []
    for pair in value if isinstance(value, list) else [] if value in (None, "") else [None]:
        if not (isinstance(pair, list) and len(pair) == 2 and all(isinstance(text, str) for text in pair)):  # noqa: PLR2004 - question and answer
            raise bad_row("wrong-type", '"history" is not a list of pairs', 'write [["question", "answer"], …]')
        turns += [("user", pair[0]), ("assistant", pair[1])]
    return turns


def _build_chat(row: Row, messages: Messages, names: list[str]) -> Fields:
    """Put the row's `system`, where it has one, in front; `names` says how messages name each turn."""
    require_no_row_mark(row)
    turns, learnt, system = messages.turns, messages.learnt, row.get("system")
    if not isinstance(system, str | None):
        raise bad_row("wrong-type", f'"system" is {name_type(system)}, not a string', _ONE_STRING)
    has_own = bool(turns) and turns[0][0] == "system"
    if system and has_own and turns[0][1] != system:
        raise bad_row("broken-turns", 'the row has a "system" and another system message', "keep one of them")
    if system and not has_own:
        turns, names, learnt = [("system", system), *turns], ['"system"', *names], [None, *learnt]
    return Fields({"messages": turns, "names": names, "learnt": learnt}, unknown_keys=messages.unknown)


_SWIFT_LISTS = ("positive_messages", "negative_messages")
_SWIFT4 = ("messages", "positive_messages")
_RANKING_OPTIONAL = ("neg", "pos_scores", "neg_scores", "prompt")
# The first that fits is the row's. Among them are all that ms-swift 3 and 4 and FlagEmbedding document.
SHAPES = [
    Shape("ranking", "group", ("query", "pos"), _read_ranking, optional=_RANKING_OPTIONAL),
    Shape("swift4", "group", _SWIFT4, _read_swift4_group, optional=("label",), given=("negative_messages",)),
    Shape("swift4", "group", _SWIFT4, _read_swift4_group, lacks=("label",), optional=("negative_messages", "label")),
    Shape("swift3", "group", ("query", "response"), _read_swift3_group, optional=("label", "system"),
          given=("rejected_response",)),
    Shape("swift3", "group", ("query", "response"), _read_swift3_group, lacks=("label",),
          optional=("rejected_response", "label", "system")),
    Shape("sentences", "pair", ("sentence1", "sentence2", "score"), _read_sentences),
    Shape("swift4", "pair", (*_SWIFT4, "label"), _read_swift4_pair, lacks=("negative_messages",),
          optional=("negative_messages",), lists=("messages", *_SWIFT_LISTS)),
    Shape("swift3", "pair", ("query", "response", "label"), _read_swift3_pair, lacks=("rejected_response",),
          optional=("rejected_response", "system"), lists=("rejected_response",)),
    Shape("messages", "chat", ("messages",), read_chat("messages"), lacks=_SWIFT_LISTS, optional=("system",)),
    Shape("conversations", "chat", ("conversations",), read_chat("conversations"), optional=("system",),
          lists=("conversations",)),
    Shape("instruction", "chat", ("instruction", "output"), read_turns(("instruction", "input"), "output"),
          optional=("input", "system", "history"), lists=("history",)),
    Shape("response", "chat", ("query", "response"), read_turns(("query",), "response"),
          lacks=("label", "rejected_response"), optional=("system", "history")),
    Shape("pointwise", "labelled", ("query", "content", "label"), _read_pointwise, optional=("score",)),
    Shape("hits", "labelled", ("query", "hits"), _read_hits, lists=("hits",)),
    Shape("ranking", "labelled", ("query", "pos"), _read_ranking, optional=_RANKING_OPTIONAL,
          lists=("pos", "neg", "pos_scores", "neg_scores")),
]  # fmt: skip


# What is said of a row that is none, or of another kind


_PAIR_COLUMNS = {"sentences": "query=sentence1 content=sentence2 label=score", "swift3": "content=response"}
_LIST_NAMES = {
    ("text", "text", "number"): ("sentence1", "sentence2", "score"),
    ("text", "text"): ("query", "response"),
    ("text", "text", "text"): ("query", "response", "rejected_response"),
    ("text", "text", "list"): ("query", "response", "rejected_response"),
    ("text", "list", "list"): ("query", "pos", "neg"),
}


def explain_other_kind(shape: Shape, wanted: Kind) -> Fault:
    """Return the fault of a good-looking row that is not of the wanted kind."""
    keys = ", ".join((*shape.needs, *shape.given))
    message = f"this is a {shape.kind} row ({keys}), and {wanted} rows are wanted"
    hint = f"{EXAMPLES[wanted]}; or choose the task and loss for {shape.kind} rows"
    if shape.kind == "group" and wanted == "pair":
        hint = 'add "label", or choose a loss that takes rows without one'
    elif wanted == "labelled" and shape.kind == "pair" and shape.name in _PAIR_COLUMNS:
        hint = f"rename the columns: data.columns, or --map, with {_PAIR_COLUMNS[shape.name]}"
    elif shape.kind == "labelled" and wanted == "group":
        hint = "orch data convert FILE --to ranking --relevant-from LABEL; or say backend: sentence-transformers"
    return build_fault("other-kind", message, hint)


def explain_no_object(value: Any, wanted: Kind) -> Fault:
    """Return the fault of a row that is no JSON object, with the command that makes objects of lists."""
    if isinstance(value, list) and value:
        types = tuple(_classify(one) for one in value)
        names = _LIST_NAMES.get(types, tuple(f"NAME{number}" for number in range(1, len(value) + 1)))
        if all(isinstance(one, dict) for one in value):
            names = ("messages",)
        message = f"the row is a list of {len(value)} values, not a JSON object"
        hint = f"name its values: orch data convert FILE --names {','.join(names)} -o NEW.jsonl"
        return build_fault("not-an-object", message, hint)
    return build_fault("not-an-object", f"the row is {name_type(value)}, not a JSON object", EXAMPLES[wanted])


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
