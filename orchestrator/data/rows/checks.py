"""One parsed row is checked and becomes a canonical record, or the one fault for which it is dropped."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from orchestrator.data.digests import are_distinct, document_key
from orchestrator.data.reasons import Fault
from orchestrator.data.rows.messages import leave_out_marks, names_mark
from orchestrator.data.rows.nearest import explain_no_negatives, explain_unknown
from orchestrator.data.rows.records import (
    Chat,
    ClassText,
    Kind,
    LabelledGroup,
    Message,
    RankingGroup,
    Record,
    ScoredPair,
    join_question,
)
from orchestrator.data.rows.shapes import (
    SAMPLE_KEY,
    SHAPES,
    Fields,
    Row,
    explain_other_kind,
    find_shape,
    normalise,
    read_fields,
    read_scores_as_labels,
)
from orchestrator.data.rows.texts import (
    LONGEST_INVISIBLE,
    ONE_STRING,
    BadRowError,
    bad_row,
    is_blank,
    is_finite_number,
    name_type,
    parse_number,
    quote,
    read_number,
    require_encodable,
    require_type,
)
from orchestrator.data.rows.unread import UnreadText, find_unread

_AS_NUMBER = "orch data convert FILE -o NEW.jsonl writes it as a number"
_FROM_PASSAGES = "orch data convert FILE --from passages -o NEW.jsonl"
_LARGEST = 3.4e38  # of float32, in which models are trained
_SIDES = ("pos", "neg")
_FINITE = "write a finite number"


@dataclass(frozen=True)
class RowRules:
    """How rows are read and which are wanted: their kind, whether they need negatives and may have prompts.

    `columns` are {new: old}, `encoding` is as in Source. `min_label` (None: 0) and `max_label` (1) become 0 and 1;
    `needs_scores`: a row without teacher scores is bad. `scores_as_labels`: the scores of a ranking row are labels
    (True), a teacher's (False), or nobody has said (None). `ignore`: keys whose texts are not needed.
    """

    kind: Kind = "group"
    needs_negatives: bool = True
    takes_prompt: bool = True
    columns: Mapping[str, str] = field(default_factory=dict)
    min_label: float | None = None
    max_label: float | None = None
    needs_scores: bool = False
    scores_as_labels: bool | None = None
    ignore: tuple[str, ...] = ()
    encoding: str | None = None

    @property
    def label_range(self) -> tuple[float, float]:
        """The lowest and the highest label."""
        return self.min_label or 0.0, 1.0 if self.max_label is None else self.max_label


@dataclass(slots=True)
class Accepted:
    """A good row's record, and what about it is worth a warning: how often, by the code of each reason.

    `is_sample`: `orch data sample` wrote it. `row` is the row in canonical names; `unread` are those of the unknown
    keys that hold texts. `has_distinct_documents`: no two have one `loose_key` (False: nobody has looked).
    """

    record: Record
    warnings: Mapping[str, int] = field(default_factory=dict)
    unknown_keys: tuple[str, ...] = ()
    is_sample: bool = False
    row: Mapping[str, Any] = field(default_factory=dict)
    unread: tuple[UnreadText, ...] = ()
    has_distinct_documents: bool = False


_ANY_GROUP = RowRules()


def check_row(
    value: Any, *, source: str, line: int, rules: RowRules = _ANY_GROUP, numeric_text: bool = False
) -> Accepted | Fault:
    """Check one JSON value and return the record that it is, its repeated documents left out, or its first fault.

    `numeric_text`: numbers may be given as text, as in a .csv, where all cells are text.
    """
    if rules.kind == "group" and not rules.columns and (good := _accept_good_group(value, source, line, rules)):
        return good
    try:
        row = _normalise(value, rules)
        fields = _read_row(row, rules)
        found = _CHECKS[rules.kind](_Place(source, line, rules, numeric_text), fields)
        found.unknown_keys, found.is_sample, found.row = fields.unknown_keys, row.get(SAMPLE_KEY) is True, row
        if "pos" in fields.values and "pos" not in row:
            found.row = fields.values | row
    except BadRowError as error:
        return error.fault
    replaced = [new for new in rules.columns if new in value and new not in rules.columns.values()]
    if not (found.unknown_keys or replaced):
        return found
    found.unread = _find_unread(value, found, replaced, rules)
    named = {one.name for one in found.unread}
    found.unknown_keys = tuple(name for name in found.unknown_keys if name not in named)
    return found


_GOOD_KEYS = {"query", "pos", "neg"}
_TEXTS_ONLY = {str}


def _accept_good_group(row: Any, source: str, line: int, rules: RowRules) -> Accepted | None:
    """Accept a ranking row that holds these keys and good texts alone, as most do; None: it must be looked at closely.

    This is what the careful checks would find, in a fifth of their time.
    """
    if type(row) is not dict or not row.keys() <= _GOOD_KEYS or rules.needs_scores:
        return None
    query, pos, neg = row.get("query"), row.get("pos"), row.get("neg", [])
    if type(query) is not str or type(pos) is not list or type(neg) is not list or not pos:
        return None
    documents = [*pos, *neg]
    if set(map(type, documents)) != _TEXTS_ONLY or (rules.needs_negatives and not neg):
        return None
    texts = (query, *documents)
    if any(map(str.isspace, texts)) or (min(map(len, texts)) <= LONGEST_INVISIBLE and any(map(is_blank, texts))):
        return None
    try:
        "".join(texts).encode()
    except UnicodeEncodeError:
        return None
    if not are_distinct(documents):
        return None
    return Accepted(RankingGroup(query, tuple(pos), tuple(neg), source, line), has_distinct_documents=True)


def _find_unread(value: Row, found: Accepted, replaced: list[str], rules: RowRules) -> tuple[UnreadText, ...]:
    """Return the texts that nothing reads; `replaced` are keys of the row in whose place another column is read."""
    row = normalise(value, rules.columns, rules.kind)
    shape = find_shape(row, rules.kind)
    if shape is None:  # the row was accepted, so that it cannot be
        return ()
    row = {**found.row, **row}  # with the hits that were made of its scores
    same = [other for other in SHAPES if (other.kind, other.name) == (shape.kind, shape.name)]
    free = sorted({key for other in same for key in other.optional if not row.get(key)})
    if rules.kind in {"labelled", "pair"} or not rules.takes_prompt:
        free = [key for key in free if key not in {"prompt", "system"}]
    texts = found.record.texts
    return (
        *find_unread(row, found.unknown_keys, texts, shape=shape, optional=free, ignore=rules.ignore),
        *find_unread(value, replaced, texts, ignore=rules.ignore),
    )


def _normalise(value: Any, rules: RowRules) -> Row:
    row = normalise(value, rules.columns, rules.kind)
    if rules.ignore:
        marks = {key for key in rules.ignore if names_mark(key) and (rules.kind == "chat" or key != "label")}
        row = leave_out_marks(row, marks)
    if rules.scores_as_labels and rules.kind == "labelled":
        row = read_scores_as_labels(row, *rules.label_range)
    return row


def _read_row(row: Row, rules: RowRules) -> Fields:
    """Return the fields of a row of the wanted kind. Raises BadRowError where it is none."""
    shape = find_shape(row, rules.kind)
    if shape is None:
        raise explain_unknown(row, rules.kind)
    if shape.kind != rules.kind and (shape.kind, rules.kind) != ("group", "labelled"):
        raise explain_other_kind(shape, rules.kind)
    if shape.name == "ranking" and rules.kind == "group" and rules.needs_negatives and "neg" not in row:
        raise explain_no_negatives(row)
    fields = read_fields(row, shape)
    if fields.values.get("prompt") and not (rules.takes_prompt and rules.kind != "labelled"):
        raise bad_row("prompt-not-used", f"the row has a system message or prompt in {fields.name('prompt')}")
    return fields


def find_split_text(value: Any, columns: Mapping[str, str]) -> tuple[str, str | None] | Fault:
    """Return the text by which a row of any kind is placed, or why there is none; the rest is hardly looked at.

    Beside it stands the class of a text that has one. `columns` are {new: old}.
    """
    class_name = None
    try:
        row = normalise(value, columns)
        shape = find_shape(row, "chat") if row.get("history") else None
        is_chat = shape is not None and shape.kind == "chat"
        if named := [key for key in ("query", "sentence1") if key in row and not (is_chat and key == "query")]:
            text, name = row[named[0]], f'"{named[0]}"'
        elif shape := shape if is_chat else find_shape(row, None) or find_shape(row, "class"):
            fields = read_fields(row, shape)
            key = next((one for one in ("query", "text1", "text") if one in fields.values), "query")
            text, name = fields.values.get(key), fields.name(key)
            if shape.kind == "chat":
                text, name = _find_question(fields), '"messages"'
            elif shape.kind == "class":
                class_name = str(fields.values["label"]).strip()
        else:
            raise explain_unknown(row, None)
        _require_texts([(name, text, "empty-query")])
    except BadRowError as error:
        return error.fault
    return str(text), class_name


def _require_texts(named: Sequence[tuple[str, Any, str]]) -> None:
    """Raise BadRowError unless each of (name, value, code where it is blank) is a text with something in it."""
    for name, text, _ in named:
        require_type(text, str, name)
    require_encodable((name, text) for name, text, _ in named)
    for name, text, code in named:
        if is_blank(text):
            raise bad_row(code, f"{name} is empty or white space")


@dataclass(frozen=True)
class _Place:
    """Where a row stands, and what is asked of it."""

    source: str
    line: int
    rules: RowRules
    numeric_text: bool


# Ranking groups. Each check may rely on those before it having found nothing.


def _check_group(place: _Place, fields: Fields) -> Accepted:
    group, repeated = _build_group(place, fields, needs_negatives=place.rules.needs_negatives)
    if place.rules.needs_scores and group.positive_scores is None:
        raise bad_row("scores-missing", "the row has no teacher scores")
    return Accepted(group, {"duplicate-positive": repeated["pos"], "duplicate-negative": repeated["neg"]})


def _build_group(place: _Place, fields: Fields, *, needs_negatives: bool) -> tuple[RankingGroup, dict[str, int]]:
    """Return the group, repeated positives and negatives left out, and how many these were by the side's key."""
    row = fields.values
    require_group_types(fields)
    sides = {key: row.get(key) or [] for key in _SIDES}
    documents = [(fields.name(key, at), text) for key in _SIDES for at, text in enumerate(sides[key])]
    prompt = [] if row.get("prompt") is None else [(fields.name("prompt"), row["prompt"])]
    require_encodable([(fields.name("query"), row["query"]), *documents, *prompt])
    if is_blank(row["query"]):
        raise bad_row("empty-query", f"{fields.name('query')} is empty or white space")
    if not row["pos"]:
        raise bad_row("no-positive", f"{fields.name('pos')} is an empty list")
    if needs_negatives and not sides["neg"]:
        what = "missing or empty" if fields.names else "an empty list"
        raise bad_row("no-negative", f"{fields.name('neg')} is {what}")
    for name, text in documents:
        if is_blank(text):
            raise bad_row("empty-text", f"{name} is empty or white space")
    _require_scores(row)
    keys = {side: list(map(document_key, texts)) for side, texts in sides.items()}
    if shared := set(keys["pos"]).intersection(keys["neg"]):
        text = next(text for text, key in zip(sides["neg"], keys["neg"], strict=True) if key in shared)
        raise bad_row("positive-among-negatives", f"the document {quote(text)} is a positive and a negative")
    firsts = {side: find_firsts(found) for side, found in keys.items()}
    texts = {side: tuple(sides[side][at] for at in firsts[side]) for side in _SIDES}
    # One JSON type for all: the backend's reader infers a column's type from the first rows and refuses the other.
    scores = {
        side: None if given is None else tuple(float(given[at]) for at in firsts[side])
        for side in _SIDES
        for given in (row.get(f"{side}_scores"),)
    }
    group = RankingGroup(
        row["query"], texts["pos"], texts["neg"], place.source, place.line, scores["pos"], scores["neg"],
        row.get("prompt"),
    )  # fmt: skip
    return group, {side: len(keys[side]) - len(firsts[side]) for side in _SIDES}


def find_firsts(keys: Sequence[str]) -> list[int]:
    """Return the places of the keys that did not occur before."""
    first: dict[str, int] = {}
    for place, key in enumerate(keys):
        first.setdefault(key, place)
    return list(first.values())


def require_group_types(fields: Fields) -> None:
    """Raise BadRowError unless query and prompt are strings, both sides lists of strings, and scores lists."""
    row = fields.values
    require_type(row["query"], str, fields.name("query"))
    for key in _SIDES:
        if key in row:
            require_list_of_texts(fields, key)
    if row.get("prompt") is not None:
        require_type(row["prompt"], str, fields.name("prompt"))
    for key in ("pos_scores", "neg_scores"):
        if row.get(key) is not None:
            hint = f'put it in a list: "{key}": [0.9, …], one score a document'
            require_type(row[key], list, f'"{key}"', hint, "a list of numbers")


def require_list_of_texts(fields: Fields, key: str) -> None:
    """Raise BadRowError unless that field is a list of strings."""
    texts, name, is_own = fields.values[key], fields.name(key), not fields.names
    hint = "write a list of strings"
    if isinstance(texts, str):
        more = f"; {_FROM_PASSAGES} makes lists of texts" if is_own else ""
        hint = f"put it in a list: {name}: [{quote(texts)}]{more}"
    require_type(texts, list, name, hint, "a list of strings")
    for place, text in enumerate(texts):
        require_type(text, str, fields.name(key, place), "write the document's text itself")


def _require_scores(row: Row) -> None:
    given = [key for key in ("pos_scores", "neg_scores") if row.get(key) is not None]
    if len(given) == 1 and (given == ["neg_scores"] or row.get("neg")):
        other, hint = "pos_scores", "give both, or neither"
        if given == ["pos_scores"]:
            other = "neg_scores"
            hint += (
                "; if they are labels (negatives have the lowest), say data.scores_as_labels: true "
                "(--scores-as-labels), which backend: sentence-transformers takes"
            )
        raise bad_row("scores-length", f'the row has "{given[0]}" without "{other}"', hint)
    for key in given:
        side = key.removesuffix("_scores")
        scores, texts = row[key], row.get(side) or []
        if len(scores) != len(texts):
            message = f'"{key}" holds {len(scores)} and "{side}" {len(texts)}'
            raise bad_row("scores-length", message, "give one score a document, in the same order")
        for place, score in enumerate(scores):
            if not is_finite_number(score):
                raise bad_row("scores-not-numbers", f'"{key}"[{place}] is not a finite number', _FINITE)


# Labelled groups


def _check_labelled(place: _Place, fields: Fields) -> Accepted:
    if "pos" in fields.values:
        sides, of_sides = _build_group(place, fields, needs_negatives=False)
        group = LabelledGroup(sides.query, sides.documents, sides.labels, sides.scores, place.source, place.line)
        repeated = sum(of_sides.values())
    else:
        group, repeated = _build_from_hits(place, fields)
    if place.rules.needs_scores and group.scores is None:
        raise bad_row("scores-missing", "the row has no teacher scores")
    if beyond := [score for score in group.scores or () if abs(score) > _LARGEST]:
        message = f"a teacher score is {beyond[0]:g}, which is infinite in single precision"
        raise bad_row("scores-not-numbers", message)
    return Accepted(group, {"duplicate-document": repeated})


def _build_from_hits(place: _Place, fields: Fields) -> tuple[LabelledGroup, int]:
    query, texts = fields.values["query"], fields.values["documents"]
    documents = [(fields.name("documents", at), text, "empty-text") for at, text in enumerate(texts)]
    _require_texts([(fields.name("query"), query, "empty-query"), *documents])
    low, high = place.rules.label_range
    labels = []
    for at, value in enumerate(fields.values["labels"]):
        number = _read_finite(value, fields.name("labels", at), "label-not-a-number", place)
        if not low <= number <= high:
            message = f"{fields.name('labels', at)} is {number:.12g}, outside {low:g} to {high:g}"
            raise bad_row("label-out-of-range", message)
        labels.append((number - low) / (high - low) + 0.0)  # never -0.0, which would be another label than 0.0
    scores: list[float] | None = None
    values = fields.values["scores"]
    given = [value is not None and not (value == "" and place.numeric_text) for value in values]
    if any(given):
        if not all(given):
            message = f"{fields.name('scores', given.index(False))} is missing, and other documents of the row have one"
            raise bad_row("scores-length", message)
        scores = [
            _read_finite(value, fields.name("scores", at), "scores-not-numbers", place)
            for at, value in enumerate(values)
        ]
    group = LabelledGroup(
        query, tuple(texts), tuple(labels), None if scores is None else tuple(scores), place.source, place.line
    )
    keys = list(map(document_key, texts))
    firsts = find_firsts(keys)
    known = {keys[at]: labels[at] for at in firsts}
    for key, label, text in zip(keys, labels, texts, strict=True):
        if known[key] != label:
            raise bad_row("conflicting-labels", f"the document {quote(text)} has two labels in one row")
    repeated = len(texts) - len(firsts)
    return (group.pick(firsts) if repeated else group), repeated


def _read_finite(value: Any, name: str, code: str, place: _Place) -> float:
    """Return a finite number, also one that stands as text in a table."""
    number = parse_number(value) if place.numeric_text else value
    if is_finite_number(number):
        return float(number)
    if isinstance(value, str):
        shown = quote(value) if value else "empty"
    else:
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        shown = "NaN or infinite" if is_number else name_type(value)
    raise bad_row(code, f"{name} is {shown}, not a finite number", _advise_number(value))


def _advise_number(value: Any) -> str | None:
    """Return what makes a number of what stands for one, None where nothing does."""
    return _AS_NUMBER if isinstance(value, bool | str) and is_finite_number(read_number(value)) else None


# Pairs, and texts with classes


def _check_pair(place: _Place, fields: Fields) -> Accepted:
    row, name = fields.values, fields.name("score")
    named = [(fields.name(key), row[key], code) for key, code in (("text1", "empty-query"), ("text2", "empty-text"))]
    _require_texts(named)
    score = parse_number(row["score"]) if place.numeric_text else row["score"]
    if isinstance(score, str) and place.numeric_text:
        message = f'{name} is "{score[:20]}", not a number' if score else f"{name} is empty"
        raise bad_row("scores-not-numbers", message, _advise_number(score) or _FINITE)
    if isinstance(score, bool) or not isinstance(score, int | float):
        raise bad_row(
            "wrong-type", f"{name} is {name_type(score)}, not a number", _advise_number(score) or "write one number"
        )
    if not is_finite_number(score):
        raise bad_row("scores-not-numbers", f"{name} is not a finite number", _FINITE)
    return Accepted(ScoredPair(row["text1"], row["text2"], float(score), place.source, place.line))


def _check_class(place: _Place, fields: Fields) -> Accepted:
    """Return the text with its class, which may be a whole number in the row."""
    text, label = fields.values["text"], fields.values["label"]
    label = str(label) if type(label) is int else label
    _require_texts([(fields.name("text"), text, "empty-text"), (fields.name("label"), label, "empty-text")])
    return Accepted(ClassText(text, label.strip(), place.source, place.line))


# Conversations


def _check_chat(place: _Place, fields: Fields) -> Accepted:
    """Return the conversation up to the last answer that is learnt.

    What follows the last learnt answer has no part in any loss; ms-swift would learn the end of the last turn though,
    whatever its mark says (swift/loss_scale/base.py: marks are for the response, not for the suffix behind it).
    """
    turns: list[tuple[str, str]] = fields.values["messages"]
    names: list[str] = fields.values["names"]
    for (_, content), name in zip(turns, names, strict=True):
        if not isinstance(content, str):  # only of rows without messages: their one answer
            raise bad_row("wrong-type", f"{name} is not a string", ONE_STRING)
    _require_order([role for role, _ in turns], names)
    last = _find_last_learnt(fields)
    left_out = len(turns) - 1 - last if last >= 0 else 0
    turns = turns[: len(turns) - left_out]
    require_encodable((name, content) for (_, content), name in zip(turns, names, strict=False))
    first_user = next(at for at, (role, _) in enumerate(turns) if role == "user")
    for at, (role, content) in enumerate(turns):
        if role != "system" and is_blank(content):
            code = "empty-answer" if at == len(turns) - 1 else "empty-query" if at == first_user else "empty-text"
            raise bad_row(code, f"{names[at]} is empty or white space")
    marked = zip(turns, fields.values["learnt"], strict=False)
    messages = [Message(role, content, mark if role == "assistant" else None) for (role, content), mark in marked]
    chat = Chat(tuple(messages), place.source, place.line)
    unlearnt = sum(message.learnt is False for message in messages)
    return Accepted(
        chat,
        {
            "answers-not-learnt": left_out // 2 + unlearnt,  # user and assistant in turn
            "turns-left-out": left_out,
            "rejected-not-learnt": int(bool(fields.values.get("rejected"))),
        },
    )


def _find_question(fields: Fields) -> str:
    """Return what comes before the last answer that is learnt, "" where nobody asks anything."""
    turns: list[tuple[str, str]] = fields.values["messages"]
    last = _find_last_learnt(fields)
    asked = turns[:last] if last >= 0 else turns
    return join_question(asked) if any(role == "user" and not is_blank(content) for role, content in asked) else ""


def _find_last_learnt(fields: Fields) -> int:
    """Return the place of the last answer that is learnt, -1 where none is."""
    learnt = fields.values["learnt"]
    roles = enumerate(role for role, _ in fields.values["messages"])
    return max((at for at, role in roles if role == "assistant" and learnt[at] is not False), default=-1)


def _require_order(roles: Sequence[str], names: Sequence[str]) -> None:
    """Refuse all but a system message or none, then user and assistant in turn up to an assistant."""
    start = 1 if roles and roles[0] == "system" else 0
    for place in range(start, len(roles)):
        wanted = ("user", "assistant")[(place - start) % 2]
        if roles[place] != wanted:
            message = f"{names[place]} is of the role {roles[place]}, where {wanted} should speak"
            raise bad_row("broken-turns", message)
    if not roles or roles[-1] != "assistant":
        last = f"{names[-1]} is of the role {roles[-1]}" if roles else "there are no messages"
        hint = None if not roles or "assistant" in roles else "add the answer that is to be learnt, as the last message"
        raise bad_row("no-answer", f"the conversation does not end with the assistant: {last}", hint)


_CHECKS: dict[Kind, Callable[[_Place, Fields], Accepted]] = {
    "group": _check_group,
    "labelled": _check_labelled,
    "pair": _check_pair,
    "chat": _check_chat,
    "class": _check_class,
}
