"""The registry of the shapes of rows: each is one entry, and every verb that reads rows reads it by that entry.

A shape is a Shape in `SHAPES` (another package may `register` one): by which keys it is known (`needs`, `lacks`,
`optional`, `given`), which of its columns hold lists in a text table (`lists`), and how a row of it becomes canonical.
There are two ways for the last:

- `read(row)` returns the row's `Fields`: canonical values, each with the name that the row itself gives it, so that
  messages speak of the user's own keys. Shapes that are documented have one. prepare, check, split and evaluate use the
  fields; convert with --to, score and mine a canonical row that is made of them (judged.py).
- `rewrite(row)` returns a row of a shape that is read, the keys that the shape does not know kept. `normalise` does it
  for every verb before anything else looks at the row.

checks.py accepts a good ranking row of plain texts at once. The way of every other row: `normalise` (the values of a
list named, columns renamed, numbered negatives folded, foreign shapes rewritten), `find_shape` (by its keys, one of the
wanted kind first), `read_fields`, and then checks.py makes a record of the fields. A row that cannot be used raises
BadRowError anywhere on that way.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from operator import contains
from typing import Any

from orchestrator.data.rows.foreign_rows import holds_judged, holds_passages, rewrite_judged, rewrite_passages
from orchestrator.data.rows.messages import (
    Messages,
    read_anchor,
    read_documents,
    read_history,
    read_messages,
    require_no_row_mark,
)
from orchestrator.data.rows.records import KINDS, Kind
from orchestrator.data.rows.texts import (
    BadRowError,
    bad_row,
    find_near_name,
    is_finite_number,
    name_type,
    plain_name,
    quote,
    require_type,
)

Row = dict[str, Any]
SAMPLE_KEY = "sample"  # true in the rows that `orch data sample` writes
_MEDIA_KEYS = ("images", "image", "videos", "video", "audios", "audio", "objects", "tools")
_HIT_KEYS = frozenset({"content", "label", "score"})
_HIT = 'write {"content": "…", "label": 1}'
_ABSENT: tuple[Any, ...] = (None, "", [])
EXAMPLES: dict[Kind, str] = {
    "group": 'a row is {"query": "…", "pos": ["…"], "neg": ["…", "…"]}',
    "pair": 'a row is {"sentence1": "…", "sentence2": "…", "score": 0.8}',
    "labelled": 'a row is {"query": "…", "content": "…", "label": 1}',
    "class": 'a row is {"text": "…", "label": "sports"}',
    "chat": 'a row is {"messages": [{"role": "user", "content": "…"}, {"role": "assistant", "content": "…"}]}',
}
# Keys without which a row is still one, in every form that has them.
OPTIONAL_KEYS = frozenset({"neg", "rejected_response", "negative_messages", "prompt", "system", "history", "input"})


@dataclass(frozen=True)
class Fields:
    """Canonical fields by canonical name, and how the row itself calls them.

    A group has query, pos, neg, pos_scores, neg_scores and prompt as in FlagEmbedding's rows; a pair text1, text2 and
    score; a labelled row query and the lists documents, labels and scores (which may be missing), or else the fields of
    a group; a text of a class text and label; a chat messages as (role, content) and, of each, in names what to call it
    and in learnt what its marks say. `names` of this object holds what the row calls a field, where that differs,
    `hits[].label` for a key of the objects of a list; a field in `single` is one value there, not a list.
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
    not. `lists` are the columns whose cells may be JSON lists. A `variant` has the keys of another tool: it is read,
    and no advice leads to it. With `only_asked` a row is of this shape where its kind is asked for, and not as a guess.
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
    variant: bool = False
    only_asked: bool = False

    @property
    def without_negatives(self) -> bool:
        """Whether rows of this shape have none: queries and answers, without the key for what is wrong."""
        return (self.variant or self.name in {"swift3", "swift4"}) and not self.given

    def matches(self, row: Mapping[str, Any], is_there: Callable[[Mapping[str, Any], str], bool]) -> bool:
        """Whether a row has the keys of this shape; `is_there` says what counts as having one that it needs."""
        for key in self.needs:
            if not is_there(row, key):
                return False
        return all(_has_value(row, key) for key in self.given) and not any(_has_value(row, key) for key in self.lacks)


def _has_value(row: Mapping[str, Any], key: str) -> bool:
    return key in row and row[key] not in _ABSENT


def register(shape: Shape) -> None:
    """Add a shape to those that are read; it comes after the others of its kind."""
    SHAPES.append(shape)
    forget_order()


def forget_order() -> None:
    """Look at SHAPES anew, after a change of it."""
    _in_order.cache_clear()
    _rewritten.cache_clear()
    list_columns.cache_clear()


@cache
def _in_order(asked: Kind | None) -> tuple[tuple[Shape, ...], ...]:
    """Return the shapes that are read: of the wanted kind first, labelled ones last unless these are wanted.

    Groups are judged documents as well; where no kind is asked for they come first.
    """
    wanted = asked or "group"
    suits = {asked, "group"} if asked == "labelled" else {asked}
    found = [shape for shape in SHAPES if shape.read and (not shape.only_asked or shape.kind in suits)]
    found.sort(key=lambda shape: shape.kind not in suits)
    return (
        tuple(shape for shape in found if shape.kind == wanted),
        tuple(shape for shape in found if shape.kind not in {wanted, "labelled"}),
        tuple(shape for shape in found if shape.kind == "labelled" != wanted),
    )


@cache
def _rewritten() -> tuple[Shape, ...]:
    return tuple(shape for shape in SHAPES if shape.rewrite)


@cache
def list_columns() -> frozenset[str]:
    """Return the columns whose cells may be JSON lists; in any other, "[1, 2]" is a text, such as a model's answer."""
    return frozenset(column for shape in SHAPES for column in shape.lists)


def find_shape(row: Mapping[str, Any], wanted: Kind | None) -> Shape | None:
    """Return a row's shape: one of the wanted kind (None: the likeliest) where its keys allow it, else any, or None."""
    for shapes in _in_order(wanted):
        for is_there in (_has_value, contains):
            for shape in shapes:
                if shape.matches(row, is_there):
                    return shape
    return None


def normalise(value: Any, columns: Mapping[str, str], wanted: Kind | None = None) -> Row:
    """Return a row as every verb looks at it: named, renamed and rewritten where that must be. Raises BadRowError."""
    row = value if isinstance(value, dict) else name_values(value, wanted)
    if row is None:
        raise explain_no_object(value, wanted or "group")
    return rewrite(rename(row, columns))


def name_values(value: Any, wanted: Kind | None) -> Row | None:
    """Return the values of a row that is a list by the keys of a shape, None where they may be of several, or none."""
    if not isinstance(value, list) or not value:
        return None
    kinds = _LIST_NAMES.get(tuple(map(_classify, value)), {})
    if all(isinstance(one, dict) and ("role" in one or "from" in one) for one in value):
        return {"messages": value} if wanted in {None, "chat"} else None
    if wanted == "labelled" and wanted not in kinds:
        wanted = "group"
    names = kinds.get(wanted) if wanted else next(iter(kinds.values()), None)
    return dict(zip(names, value, strict=True)) if names else None


def rename(row: Row, columns: Mapping[str, str]) -> Row:
    """Return a row with its keys renamed, `columns` being {new: old}, and numbered negatives as a list.

    The other keys stay as they are, and a column that a row may lack under its new name, it may lack under its old one.
    Raises BadRowError where it may not.
    """
    if columns:
        columns = {new: old for new, old in columns.items() if old in row or new not in OPTIONAL_KEYS}
        for new, old in columns.items():
            if old not in row:
                there = ", ".join(quote(key) for key in list(row)[:20]) or "no keys"
                raise bad_row("missing-column", f'{quote(old)}, to be read as "{new}", is missing: there are {there}')
        taken = set(columns.values()) | set(columns)
        kept = {key: value for key, value in row.items() if key not in taken}
        row = {new: row[old] for new, old in columns.items()} | kept
    return fold_numbered(row)


def rewrite(row: Row) -> Row:
    """Return a row of a shape that is rewritten as one of a shape that is read, any other as it is.

    Raises BadRowError.
    """
    for shape in _rewritten():
        if shape.rewrite and shape.matches(row, _has_value) and (shape.fits is None or shape.fits(row)):
            return shape.rewrite(row)
    return row


_NUMBERED = re.compile(r"(?:hard_)?(?:negatives?|negs?|rejected(?:_responses?)?)(?:_docs?|_passages?)?_?(\d{1,4})")


_NEGATIVES = {"pos": "neg", "response": "rejected_response", "positive": "negative"}


def fold_numbered(row: Row) -> Row:
    """Return the row with the texts of `negative_1`, `negative_2`, … as the list of negatives that its form has."""
    if not any(key[-1:].isdigit() for key in row):
        return row
    found = {key: match for key in row if (match := _NUMBERED.fullmatch(plain_name(key)))}
    target = next((_NEGATIVES[key] for key in _NEGATIVES if key in row), None)
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
        found: Any = values.get(key)
        require_type(found, list, fields.name(key), None, "a list")
        if len(found) != len(documents):
            message = f"{fields.name(key)} holds {len(found)} and {fields.name('documents')} {len(documents)}"
            raise bad_row("scores-length", message, "give one a document, in the same order")
    if not documents:
        raise bad_row("no-documents", f"{fields.name('documents')} is an empty list")
    return replace(fields, values=values)


def read_scores_as_labels(row: Row, low: float, high: float) -> Row:
    """Return a ranking row with scores as a row of hits whose labels are its scores; any other row as it is.

    Negatives without scores have the lowest label, as in RAG-Retrieval's rows of `pos`, `neg` and `pos_scores`. Hits
    without labels have their scores as such. Raises BadRowError.
    """
    if isinstance(row.get("hits"), list):
        hits = [
            {"label": hit["score"]} | {key: value for key, value in hit.items() if key != "score"}
            if isinstance(hit, dict) and "score" in hit and "label" not in hit
            else hit
            for hit in row["hits"]
        ]
        return row | {"hits": hits}
    if row.get("pos_scores") is None and row.get("neg_scores") is None:
        return row
    hits = []
    for side in ("pos", "neg"):
        texts, labels = row.get(side) or [], row.get(f"{side}_scores")
        if side == "neg" and labels is None and isinstance(texts, list):
            labels = [low] * len(texts)
        if not isinstance(texts, list) or not isinstance(labels, list) or len(texts) != len(labels):
            message = f'"{side}_scores" is to be the labels of "{side}", and does not hold one for each text'
            raise bad_row("scores-length", message, "give one label a document, in the same order")
        for place, label in enumerate(labels):
            name = f'"{side}_scores"[{place}]'
            if not is_finite_number(label):
                raise bad_row("label-not-a-number", f"{name} is not a finite number")
            if not low <= label <= high:
                raise bad_row("label-out-of-range", f"{name} is {label:.12g}, outside {low:g} to {high:g}")
        hits += [{"content": text, "label": label} for text, label in zip(texts, labels, strict=True)]
    rest = {key: value for key, value in row.items() if key not in {"pos", "neg", "pos_scores", "neg_scores"}}
    return {"query": rest.pop("query", None), "hits": hits, **rest}


# Rows of one query with its documents


_RANKING_KEYS = ("query", "pos", "neg", "pos_scores", "neg_scores", "prompt")


def _read_ranking(row: Row) -> Fields:
    return Fields({key: row[key] for key in _RANKING_KEYS if key in row})


def read_answer(query: str, pos: str, neg: str) -> Callable[[Row], Fields]:
    """Return a reader of rows with a question, one text that answers it, and one or a list that does not."""

    def read(row: Row) -> Fields:
        rejected = row.get(neg)
        if rejected in (None, ""):
            rejected = []
        if rejected:
            _require_no_label(row)
        is_list = isinstance(rejected, list)
        negatives = rejected if is_list else [rejected]
        values = {"query": row[query], "pos": [row[pos]], "neg": negatives, "prompt": row.get("system") or None}
        names = {"query": query, "pos": pos, "prompt": "system"} | ({"neg": neg} if neg else {})
        return Fields(values, names, frozenset({"pos"} if is_list else {"pos", "neg"}))

    return read


def _require_no_label(row: Row) -> None:
    """Raise for a label beside negatives that says anything else than that the positives are such."""
    label = row.get("label")
    if label is None or label in ("", "1", "1.0") or (not isinstance(label, str | bool) and label == 1):
        return
    hint = "with negatives the row is a ranking group and needs no label; without them a label makes it a pair"
    raise bad_row("label-and-negatives", f'the row has negatives and "label" {quote(str(label))}', hint)


def _read_swift4_group(row: Row) -> Fields:
    query, prompt, unknown = read_anchor(row["messages"])
    names = {"query": "messages", "pos": "positive_messages", "neg": "negative_messages", "prompt": "messages"}
    values: Row = {"query": query, "prompt": prompt}
    values |= {key: read_documents(row.get(names[key]), names[key]) for key in ("pos", "neg")}
    if values["neg"]:
        _require_no_label(row)
    return Fields(values, names, unknown_keys=unknown)


def _read_swift4_pair(row: Row) -> Fields:
    query, prompt, unknown = read_anchor(row["messages"])
    texts = read_documents(row["positive_messages"], "positive_messages")
    if len(texts) != 1:
        message = f'"positive_messages" holds {len(texts)} texts, and the label is that of one'
        raise bad_row("several-positives" if texts else "no-positive", message, "write one row a text")
    names = {"text1": "messages", "text2": "positive_messages", "score": "label", "prompt": "messages"}
    values = {"text1": query, "text2": texts[0], "score": row["label"], "prompt": prompt}
    return Fields(values, names, unknown_keys=unknown)


def read_pair(text1: str, text2: str, score: str, prompt: str = "") -> Callable[[Row], Fields]:
    """Return a reader of rows with two texts and how alike they are, each under its own key."""
    names = {"text1": text1, "text2": text2, "score": score} | ({"prompt": prompt} if prompt else {})

    def read(row: Row) -> Fields:
        values = {key: row.get(own) for key, own in names.items()}
        return Fields(values | {"prompt": values.get("prompt") or None}, names)

    return read


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
    require_type(hits, list, '"hits"', 'write "hits": [{"content": "…", "label": 1}, …]', "a list")
    for place, hit in enumerate(hits):
        require_type(hit, dict, f'"hits"[{place}]', _HIT, "an object")
        if missing := [key for key in needs if key not in hit]:
            key, near = missing[0], find_near_name(missing[0], hit)
            message = f'"hits"[{place}] has no "{key}"' + (f", and it has {quote(near)}" if near else "")
            hint = f'rename {quote(near)} to "{key}"' if near else _HIT
            more = "; or data.scores_as_labels: true (--scores-as-labels)" if key == "label" and "score" in hit else ""
            raise bad_row("missing-key", message, hint + more)


# Messages and conversations


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
            require_type("" if key == "input" and row.get(key) is None else row.get(key, ""), str, f'"{key}"')
        history = read_history(row.get("history"))
        question = "\n".join(row[key] for key in user_keys if row.get(key))
        turns = [*history, ("user", question), ("assistant", row[answer_key])]
        names = [f'"history"[{place // 2}]' for place in range(len(history))]
        return _build_chat(row, Messages(turns, [None] * len(turns)), [*names, f'"{user_keys[0]}"', f'"{answer_key}"'])

    return read


def read_completion(asked: str, answer: str, rejected: str | None = None) -> Callable[[Row], Fields]:
    """Return a reader of rows with a prompt and its answer, each a text, a message or a list of messages.

    The answer's messages may begin with the prompt's. An answer under `rejected` is not learnt.
    """

    def read(row: Row) -> Fields:
        whole, names = Messages([], []), list[str]()
        for key, role in ((asked, "user"), (answer, "assistant")):
            value = row.get(key)
            if key == asked and value in _ABSENT:
                continue
            if key == "instruction" and isinstance(value, str) and isinstance(row.get("input"), str) and row["input"]:
                value = f"{value}\n{row['input']}"
            if isinstance(value, str):
                found = Messages([(role, value)], [None])
            else:
                found = read_messages([value] if isinstance(value, dict) else value, key)
            if any(turn == ("user", text) for turn in found.turns for _, text in whole.turns[-1:]):
                whole, names = Messages([], []), []  # the prompt again
            places = [""] if isinstance(value, str) else [f"[{place}]" for place in range(len(found.turns))]
            names += [f'"{key}"{place}' for place in places]
            whole = Messages(whole.turns + found.turns, whole.learnt + found.learnt, whole.unknown + found.unknown)
        fields = _build_chat(row, whole, names)
        is_preference = bool(rejected) and _has_value(row, rejected or "")
        return replace(fields, values=fields.values | {"rejected": is_preference})

    return read


def _build_chat(row: Row, messages: Messages, names: list[str]) -> Fields:
    """Put the row's `system`, where it has one, in front; `names` says how messages name each turn."""
    require_no_row_mark(row)
    turns, learnt, system = messages.turns, messages.learnt, row.get("system")
    require_type("" if system is None else system, str, '"system"')
    has_own = bool(turns) and turns[0][0] == "system"
    if system and has_own and turns[0][1] != system:
        raise bad_row("broken-turns", 'the row has a "system" and another system message', "keep one of them")
    if system and not has_own:
        turns, names, learnt = [("system", system), *turns], ['"system"', *names], [None, *learnt]
    return Fields({"messages": turns, "names": names, "learnt": learnt}, unknown_keys=messages.unknown)


_read_swift3 = read_answer("query", "response", "rejected_response")
_SWIFT_LISTS = ("positive_messages", "negative_messages")
_SWIFT4 = ("messages", "positive_messages")
_RANKING_OPTIONAL = ("neg", "pos_scores", "neg_scores", "prompt")
# The first that fits is the row's. Among them are all that ms-swift 3 and 4 and FlagEmbedding document.
SHAPES = [
    Shape("ranking", "group", ("query", "pos"), _read_ranking, optional=_RANKING_OPTIONAL),
    Shape("swift4", "group", _SWIFT4, _read_swift4_group, optional=("label",), given=("negative_messages",)),
    Shape("swift4", "group", _SWIFT4, _read_swift4_group, lacks=("label",), optional=("negative_messages", "label")),
    Shape("swift3", "group", ("query", "response"), _read_swift3, optional=("label", "system"),
          given=("rejected_response",)),
    Shape("swift3", "group", ("query", "response"), _read_swift3, lacks=("label",),
          optional=("rejected_response", "label", "system")),
    Shape("sentences", "pair", ("sentence1", "sentence2", "score"),
          read_pair("sentence1", "sentence2", "score")),
    Shape("swift4", "pair", (*_SWIFT4, "label"), _read_swift4_pair, lacks=("negative_messages",),
          optional=("negative_messages",), lists=("messages", *_SWIFT_LISTS)),
    Shape("swift3", "pair", ("query", "response", "label"), read_pair("query", "response", "label", "system"),
          lacks=("rejected_response",),
          optional=("rejected_response", "system"), lists=("rejected_response",)),
    *(Shape("preference", "chat", ("chosen", "rejected"), read_completion(asked, "chosen", "rejected"), variant=True,
            given=given, optional=(asked, "system", "input"), lists=("prompt",))
      for asked, given in (("conversations", ("conversations",)), ("instruction", ("instruction",)), ("prompt", ()))),
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
    # Other tools' names. Questions with answers are groups or conversations: the task says which.
    Shape("question", "group", ("question", "answer"), read_answer("question", "answer", ""), variant=True),
    Shape("triplet", "group", ("anchor", "positive"), read_answer("anchor", "positive", "negative"), variant=True,
          given=("negative",), lists=("negative",)),
    Shape("triplet", "group", ("anchor", "positive"), read_answer("anchor", "positive", "negative"), variant=True,
          lacks=("label", "score"), optional=("negative",)),
    Shape("preference", "group", ("prompt", "chosen"), read_answer("prompt", "chosen", "rejected"), variant=True,
          only_asked=True, given=("rejected",), lists=("chosen", "rejected")),
    *(Shape("completion", "group", ("prompt", answer), read_answer("prompt", answer, ""), variant=True, only_asked=True)
      for answer in ("completion", "response")),
    Shape("completion", "chat", ("prompt", "completion"), read_completion("prompt", "completion"), variant=True,
          optional=("system",), lists=("prompt", "completion")),
    *(Shape("answered", "chat", (asked, answer), read_turns((asked, "input"), answer), variant=True,
            optional=("input", "system", "history"))
      for asked, answer in (("instruction", "response"), ("prompt", "response"), ("question", "answer"),
                            ("question", "response"))),
    Shape("inputs", "chat", ("input", "output"), read_turns(("input",), "output"), variant=True,
          lacks=("instruction",), optional=("system", "history")),
    # What it needs stands in many other rows too.
    Shape("class", "class", ("text", "label"), Fields, only_asked=True),
    # Rewritten as rows of the shapes above before anything else looks at them.
    Shape("passages", "group", (), rewrite=rewrite_passages, fits=holds_passages),
    Shape("judged", "labelled", ("query",), rewrite=rewrite_judged, fits=holds_judged,
          lacks=("pos", "hits", "content", "response", *_SWIFT_LISTS)),
]  # fmt: skip


# What is said of a row that is none, or of another kind


_PAIR_COLUMNS = {"sentences": "query=sentence1 content=sentence2 label=score", "swift3": "content=response"}
_WITH_NEGATIVES: dict[Kind, tuple[str, ...]] = {"group": ("query", "response", "rejected_response")}
# What the values of a row that is a list are, by what is wanted; the first where nothing is.
_LIST_NAMES: dict[tuple[str, ...], dict[Kind, tuple[str, ...]]] = {
    ("text", "text", "number"): {
        "pair": ("sentence1", "sentence2", "score"), "labelled": ("query", "content", "label"),
    },
    ("text", "text"): {"group": ("query", "response"), "chat": ("query", "response")},
    ("text", "text", "text"): _WITH_NEGATIVES,
    ("text", "text", "list"): _WITH_NEGATIVES,
    ("text", "list", "list"): {"group": ("query", "pos", "neg")},
}  # fmt: skip


def explain_other_kind(shape: Shape, wanted: Kind) -> BadRowError:
    """Return the error for a good-looking row that is not of the wanted kind."""
    keys = ", ".join((*shape.needs, *shape.given))
    message = f"this is a {shape.kind} row ({keys}), and {wanted} rows are wanted"
    hint = f"{EXAMPLES[wanted]}; or choose the task and loss for {shape.kind} rows"
    if shape.kind == "group" and wanted == "pair":
        hint = 'add "label", or choose a loss that takes rows without one'
    elif wanted == "labelled" and shape.kind == "pair" and shape.name in _PAIR_COLUMNS:
        hint = f"rename the columns: data.columns, or --map, with {_PAIR_COLUMNS[shape.name]}"
    elif shape.kind == "labelled" and wanted == "group":
        hint = "orch data convert FILE --to ranking --relevant-from LABEL; or say backend: sentence-transformers"
    return bad_row("other-kind", message, hint)


def explain_no_object(value: Any, wanted: Kind) -> BadRowError:
    """Return the error for a row that is no JSON object, with the command that makes objects of lists."""
    if isinstance(value, list) and value:
        types = tuple(_classify(one) for one in value)
        any_names = tuple(f"NAME{number}" for number in range(1, len(value) + 1))
        names = next(iter(_LIST_NAMES.get(types, {}).values()), any_names)
        if all(isinstance(one, dict) for one in value):
            names = ("messages",)
        message = f"the row is a list of {len(value)} values, not a JSON object"
        hint = f"name its values: orch data convert FILE --names {','.join(names)} -o NEW.jsonl"
        return bad_row("not-an-object", message, hint)
    return bad_row("not-an-object", f"the row is {name_type(value)}, not a JSON object", EXAMPLES[wanted])


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
    return KINDS[KINDS.index(name)]
