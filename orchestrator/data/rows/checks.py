"""One parsed row is checked and becomes a canonical record, or the one fault for which it is dropped."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from orchestrator.data.digests import document_key
from orchestrator.data.reasons import Fault
from orchestrator.data.rows.loss_marks import leave_out_marks, names_mark
from orchestrator.data.rows.nearest import explain_no_negatives, explain_unknown
from orchestrator.data.rows.records import (
    Chat,
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
    explain_no_object,
    explain_other_kind,
    find_shape,
    read_fields,
    read_scores_as_labels,
    rename_columns,
)
from orchestrator.data.rows.texts import (
    build_fault,
    find_surrogate,
    is_blank,
    is_finite_number,
    name_type,
    quote,
    read_number,
)
from orchestrator.data.rows.unread import UnreadText, find_unread, find_unread_judgements


@dataclass(frozen=True)
class RowRules:
    """What rows are wanted: their kind, whether they need negatives and may have prompts, and {new: old} columns.

    `min_label` and `max_label` become 0 and 1; `needs_scores`: a row without teacher scores is bad. `scores_as_labels`:
    the scores of a ranking row are labels (True), a teacher's (False), or nobody has said (None). `ignore`: keys whose
    texts are not needed.
    """

    kind: Kind = "group"
    needs_negatives: bool = True
    takes_prompt: bool = True
    columns: Mapping[str, str] = field(default_factory=dict)
    min_label: float = 0.0
    max_label: float = 1.0
    needs_scores: bool = False
    scores_as_labels: bool | None = None
    ignore: tuple[str, ...] = ()

    @property
    def has_label_range(self) -> bool:
        """Whether labels are on another scale than 0 to 1."""
        return (self.min_label, self.max_label) != (0, 1)


@dataclass(frozen=True)
class Accepted:
    """A good row's record, and what about it is worth a warning; `is_sample`: `orch data sample` wrote it.

    `left_out_turns` followed the last answer of a conversation that is learnt; `row` is that of a labelled record, in
    canonical names; `unread` are those of the unknown keys that hold texts.
    """

    record: Record
    unknown_keys: tuple[str, ...] = ()
    repeated_positives: int = 0
    repeated_negatives: int = 0
    repeated_documents: int = 0
    left_out_turns: int = 0
    is_sample: bool = False
    row: Mapping[str, Any] = field(default_factory=dict)
    unread: tuple[UnreadText, ...] = ()


_ANY_GROUP = RowRules()


def check_row(
    value: Any, *, source: str, line: int, rules: RowRules = _ANY_GROUP, numeric_text: bool = False
) -> Accepted | Fault:
    """Check one JSON value and return the record that it is, its repeated documents left out, or its first fault.

    `numeric_text`: numbers may be given as text, as in a .csv, where all cells are text.
    """
    found = _check(value, source, line, rules, numeric_text=numeric_text)
    if isinstance(found, Fault):
        return found
    replaced = [new for new in rules.columns if new in value and new not in rules.columns.values()]
    if not (found.unknown_keys or replaced):
        return found
    unread = _find_unread(value, found, replaced, rules)
    named = {one.name for one in unread}
    unknown = tuple(name for name in found.unknown_keys if name not in named)
    return replace(found, unknown_keys=unknown, unread=unread)


def _find_unread(
    value: dict[str, Any], found: Accepted, replaced: list[str], rules: RowRules
) -> tuple[UnreadText, ...]:
    """Return the texts that nothing reads; `replaced` are keys of the row in whose place another column is read."""
    row = rename_columns(value, rules.columns)
    shape = None if isinstance(row, Fault) else find_shape(row, rules.kind)
    if isinstance(row, Fault) or shape is None:  # the row was accepted, so that neither can be
        return ()
    optional = {
        key for other in SHAPES if (other.kind, other.name) == (shape.kind, shape.name) for key in other.optional
    }
    free = [key for key in sorted(optional) if not row.get(key)]
    if rules.kind in {"labelled", "pair"} or not rules.takes_prompt:
        free = [key for key in free if key not in {"prompt", "system"}]
    texts = found.record.texts
    return (
        *find_unread(row, found.unknown_keys, texts, optional=free, ignore=rules.ignore),
        *find_unread_judgements(row, found.unknown_keys, shape, ignore=rules.ignore),
        *find_unread(value, replaced, texts, ignore=rules.ignore),
    )


def _check(value: Any, source: str, line: int, rules: RowRules, *, numeric_text: bool) -> Accepted | Fault:
    row = rename_columns(value, rules.columns) if isinstance(value, dict) else explain_no_object(value, rules.kind)
    if isinstance(row, dict) and rules.ignore:
        marks = {key for key in rules.ignore if names_mark(key) and (rules.kind == "chat" or key != "label")}
        row = leave_out_marks(row, marks)
    if isinstance(row, dict) and rules.scores_as_labels and rules.kind == "labelled":
        row = read_scores_as_labels(row, rules.min_label, rules.max_label)
    if isinstance(row, Fault):
        return row
    fields = _read_row(row, rules)
    if isinstance(fields, Fault):
        return fields
    is_sample = row.get(SAMPLE_KEY) is True
    if rules.kind == "group":
        return _accept_group(fields, source, line, rules, is_sample=is_sample)
    if rules.kind == "labelled":
        labelled = check_labelled(
            fields,
            source,
            line,
            label_range=(rules.min_label, rules.max_label),
            numeric_text=numeric_text,
            needs_scores=rules.needs_scores,
        )
        if isinstance(labelled, Fault):
            return labelled
        return Accepted(labelled[0], fields.unknown_keys, repeated_documents=labelled[1], is_sample=is_sample, row=row)
    if rules.kind == "chat":
        return _accept_chat(fields, source, line, is_sample=is_sample)
    record = check_pair(fields, source, line, numeric_text=numeric_text)
    return record if isinstance(record, Fault) else Accepted(record, fields.unknown_keys, is_sample=is_sample)


def _accept_group(fields: Fields, source: str, line: int, rules: RowRules, *, is_sample: bool) -> Accepted | Fault:
    found = check_group(fields, source, line, needs_negatives=rules.needs_negatives)
    if isinstance(found, Fault):
        return found
    if rules.needs_scores and found[0].positive_scores is None:
        return build_fault("scores-missing", "the row has no teacher scores")
    return Accepted(found[0], fields.unknown_keys, found[1], found[2], is_sample=is_sample)


def _accept_chat(fields: Fields, source: str, line: int, *, is_sample: bool) -> Accepted | Fault:
    found = check_chat(fields, source, line)
    if isinstance(found, Fault):
        return found
    return Accepted(found[0], fields.unknown_keys, left_out_turns=found[1], is_sample=is_sample)


def _read_row(row: dict[str, Any], rules: RowRules) -> Fields | Fault:
    """Return the fields of a row of the wanted kind, or why it is none."""
    shape = find_shape(row, rules.kind)
    if shape is None:
        return explain_unknown(row, rules.kind)
    if shape.kind != rules.kind:
        return explain_other_kind(shape, rules.kind)
    if shape.name == "ranking" and rules.kind == "group" and rules.needs_negatives and "neg" not in row:
        return explain_no_negatives(row)
    fields = read_fields(row, shape)
    takes_prompt = rules.takes_prompt and rules.kind != "labelled"
    if isinstance(fields, Fault) or takes_prompt or not fields.values.get("prompt"):
        return fields
    return build_fault("prompt-not-used", f"the row has a system message or prompt in {fields.name('prompt')}")


def find_split_text(value: Any, columns: Mapping[str, str]) -> str | Fault:
    """Return the text by which a row of any kind is placed, or why there is none; the rest is hardly looked at.

    `columns` are {new: old}.
    """
    value = rename_columns(value, columns) if isinstance(value, dict) else explain_no_object(value, "group")
    if isinstance(value, Fault):
        return value
    turns = find_shape(value, "chat") if value.get("history") else None
    has_turns = turns is not None and turns.kind == "chat"
    if "query" in value and not has_turns:
        text, name = value["query"], '"query"'
    elif "sentence1" in value:
        text, name = value["sentence1"], '"sentence1"'
    else:
        shape = turns if has_turns else find_shape(value, "group")
        if shape is None:
            return explain_unknown(value, None)
        fields = read_fields(value, shape)
        if isinstance(fields, Fault):
            return fields
        if shape.kind == "chat":
            text, name = find_question(fields), '"messages"'
        else:
            text, name = fields.values["query" if shape.kind == "group" else "text1"], '"messages"'
    if not isinstance(text, str):
        return build_fault("wrong-type", f"{name} is {name_type(text)}, not a string", "write one string")
    if fault := find_surrogate([(name, text)]):
        return fault
    return build_fault("empty-query", f"{name} is empty or white space") if is_blank(text) else text


_LISTS = ("pos", "neg")


def check_group(
    fields: Fields, source: str, line: int, *, needs_negatives: bool
) -> tuple[RankingGroup, int, int] | Fault:
    """Return the group, its repeated positives and negatives left out, and how many these were; or its first fault."""
    row = fields.values
    if fault := _check_types(fields) or find_surrogate(_texts(fields)):
        return fault
    if fault := _check_texts_present(fields, needs_negatives=needs_negatives) or _check_scores(row):
        return fault
    negative_texts = row.get("neg") or []
    positive_keys = [document_key(text) for text in row["pos"]]
    negative_keys = [document_key(text) for text in negative_texts]
    if shared := set(positive_keys).intersection(negative_keys):
        text = next(text for text, key in zip(negative_texts, negative_keys, strict=True) if key in shared)
        return build_fault("positive-among-negatives", f"the document {quote(text)} is a positive and a negative")
    positives = _firsts(positive_keys)
    negatives = _firsts(negative_keys)
    group = RankingGroup(
        query=row["query"],
        positives=_pick(row["pos"], positives),
        negatives=_pick(negative_texts, negatives),
        source=source,
        line=line,
        positive_scores=_pick_scores(row.get("pos_scores"), positives),
        negative_scores=_pick_scores(row.get("neg_scores"), negatives),
        prompt=row.get("prompt"),
    )
    return group, len(positive_keys) - len(positives), len(negative_keys) - len(negatives)


def _firsts(keys: list[str]) -> list[int]:
    """Return the places of the keys that did not occur before."""
    if len(set(keys)) == len(keys):
        return list(range(len(keys)))
    first: dict[str, int] = {}
    for place, key in enumerate(keys):
        first.setdefault(key, place)
    return list(first.values())


def _pick(texts: list[str], places: list[int]) -> tuple[str, ...]:
    return tuple(texts) if len(places) == len(texts) else tuple(texts[place] for place in places)


def _pick_scores(scores: list[float] | None, places: list[int]) -> tuple[float, ...] | None:
    # One JSON type for all: the backend's reader infers a column's type from the first rows and refuses the other.
    return None if scores is None else tuple(float(scores[place]) for place in places)


# Each check may rely on those before it having found nothing.


def _check_types(fields: Fields) -> Fault | None:
    row = fields.values
    if not isinstance(row["query"], str):
        message = f"{fields.name('query')} is {name_type(row['query'])}, not a string"
        return build_fault("wrong-type", message, "write one string")
    for key in _LISTS:
        if key in row and (fault := _check_texts_type(fields, key)):
            return fault
    if not isinstance(row.get("prompt", ""), str | None):
        message = f"{fields.name('prompt')} is {name_type(row['prompt'])}, not a string"
        return build_fault("wrong-type", message, "write one string")
    for key in ("pos_scores", "neg_scores"):
        if not isinstance(row.get(key), list | None):
            message = f'"{key}" is {name_type(row[key])}, not a list of numbers'
            return build_fault("wrong-type", message, f'put it in a list: "{key}": [0.9, …], one score a document')
    return None


_FROM_PASSAGES = "orch data convert FILE --from passages -o NEW.jsonl"


def _check_texts_type(fields: Fields, key: str) -> Fault | None:
    texts, name = fields.values[key], fields.name(key)
    if isinstance(texts, str):
        hint = f"put it in a list: {name}: [{quote(texts)}]"
        if not fields.names:
            hint += f"; {_FROM_PASSAGES} makes lists of texts"
        return build_fault("wrong-type", f"{name} is a string, not a list of strings", hint)
    if not isinstance(texts, list):
        message = f"{name} is {name_type(texts)}, not a list of strings"
        return build_fault("wrong-type", message, "write a list of strings")
    for place, text in enumerate(texts):
        if not isinstance(text, str):
            message = f"{fields.name(key, place)} is {name_type(text)}, not a string"
            hint = "write the document's text itself"
            if isinstance(text, dict) and not fields.names:
                hint += f': {_FROM_PASSAGES} does so where it stands in "text"'
            return build_fault("wrong-type", message, hint)
    return None


def _texts(fields: Fields) -> Iterator[tuple[str, str]]:
    """Yield every text of a row with its place, such as `"neg"[2]`."""
    row: dict[str, Any] = fields.values
    yield fields.name("query"), row["query"]
    for key in _LISTS:
        for place, text in enumerate(row.get(key) or ()):
            yield fields.name(key, place), text
    if row.get("prompt") is not None:
        yield fields.name("prompt"), row["prompt"]


def _check_texts_present(fields: Fields, *, needs_negatives: bool) -> Fault | None:
    row = fields.values
    if is_blank(row["query"]):
        return build_fault("empty-query", f"{fields.name('query')} is empty or white space")
    if not row["pos"]:
        return build_fault("no-positive", f"{fields.name('pos')} is an empty list")
    if needs_negatives and not row.get("neg"):
        missing = fields.names and "neg" in fields.names
        return build_fault(
            "no-negative", f"{fields.name('neg')} is {'missing or empty' if missing else 'an empty list'}"
        )
    for key in _LISTS:
        for place, text in enumerate(row.get(key) or ()):
            if is_blank(text):
                return build_fault("empty-text", f"{fields.name(key, place)} is empty or white space")
    return None


def _check_scores(row: dict[str, Any]) -> Fault | None:
    given = [key for key in ("pos_scores", "neg_scores") if row.get(key) is not None]
    if len(given) == 1 and (given == ["neg_scores"] or row.get("neg")):
        other = "neg_scores" if given == ["pos_scores"] else "pos_scores"
        hint = "give both, or neither"
        if given == ["pos_scores"]:
            hint += (
                "; if they are labels (negatives have the lowest), say data.scores_as_labels: true "
                "(--scores-as-labels), which backend: sentence-transformers takes"
            )
        return build_fault("scores-length", f'the row has "{given[0]}" without "{other}"', hint)
    for key in given:
        scores, texts = row[key], row.get(key.removesuffix("_scores")) or []
        if len(scores) != len(texts):
            message = f'"{key}" holds {len(scores)} and "{key.removesuffix("_scores")}" {len(texts)}'
            return build_fault("scores-length", message, "give one score a document, in the same order")
        for place, score in enumerate(scores):
            if not is_finite_number(score):
                return build_fault(
                    "scores-not-numbers", f'"{key}"[{place}] is not a finite number', "write a finite number"
                )
    return None


AS_NUMBER = "orch data convert FILE -o NEW.jsonl writes it as a number"
_LARGEST = 3.4e38  # of float32, in which models are trained


def check_labelled(
    fields: Fields,
    source: str,
    line: int,
    *,
    label_range: tuple[float, float],
    numeric_text: bool,
    needs_scores: bool,
) -> tuple[LabelledGroup, int] | Fault:
    """Return the group, its repeated documents left out, and how many these were; or its first fault.

    Labels are scaled from `label_range` to 0 … 1. `numeric_text`: numbers may be given as text.
    """
    if "pos" in fields.values:
        found = _check_ranking(fields, source, line)
    else:
        found = _check_hits(fields, source, line, label_range, numeric_text=numeric_text)
    if isinstance(found, Fault):
        return found
    scores = found[0].scores
    if needs_scores and scores is None:
        return build_fault("scores-missing", "the row has no teacher scores")
    if beyond := [score for score in scores or () if abs(score) > _LARGEST]:
        message = f"a teacher score is {beyond[0]:g}, which is infinite in single precision"
        return build_fault("scores-not-numbers", message)
    return found


def _check_ranking(fields: Fields, source: str, line: int) -> tuple[LabelledGroup, int] | Fault:
    """Return positives as documents of label 1 and negatives as documents of label 0."""
    found = check_group(fields, source, line, needs_negatives=False)
    if isinstance(found, Fault):
        return found
    group, *repeated = found
    scores = None if group.positive_scores is None else group.positive_scores + (group.negative_scores or ())
    labels = (1.0,) * len(group.positives) + (0.0,) * len(group.negatives)
    documents = group.positives + group.negatives
    return LabelledGroup(group.query, documents, labels, scores, source, line), sum(repeated)


def _check_hits(
    fields: Fields, source: str, line: int, label_range: tuple[float, float], *, numeric_text: bool
) -> tuple[LabelledGroup, int] | Fault:
    query, texts = fields.values["query"], fields.values["documents"]
    if fault := _check_texts(fields):
        return fault
    labels: list[float] = []
    for place, value in enumerate(fields.values["labels"]):
        label = _read_label(value, _name(fields, "labels", place), label_range, numeric_text=numeric_text)
        if isinstance(label, Fault):
            return label
        labels.append(label)
    scores = _read_scores(fields, numeric_text=numeric_text)
    if isinstance(scores, Fault):
        return scores
    places = _find_firsts(fields, labels)
    if isinstance(places, Fault):
        return places
    group = LabelledGroup(query, tuple(texts), tuple(labels), scores, source, line)
    repeated = len(texts) - len(places)
    return (group.pick(places) if repeated else group), repeated


def _check_texts(fields: Fields) -> Fault | None:
    for name, text in _labelled_texts(fields):
        if not isinstance(text, str):
            return build_fault("wrong-type", f"{name} is {name_type(text)}, not a string", "write one string")
    if fault := find_surrogate(_labelled_texts(fields)):
        return fault
    for place, (name, text) in enumerate(_labelled_texts(fields)):
        if is_blank(text):
            return build_fault("empty-text" if place else "empty-query", f"{name} is empty or white space")
    return None


def _labelled_texts(fields: Fields) -> Iterator[tuple[str, Any]]:
    """Yield the query and every document with its place, such as `"hits"[2].content`."""
    yield fields.name("query"), fields.values["query"]
    for place, text in enumerate(fields.values["documents"]):
        yield _name(fields, "documents", place), text


def _name(fields: Fields, key: str, place: int) -> str:
    """Return how messages name one document's text, label or score, such as `"hits"[2].label`."""
    inner = {"documents": "content", "labels": "label", "scores": "score"}[key]
    return f'"hits"[{place}].{inner}' if fields.names else f'"{inner}"'


def _read_label(value: Any, name: str, label_range: tuple[float, float], *, numeric_text: bool) -> float | Fault:
    low, high = label_range
    number = _read_number(value, numeric_text=numeric_text)
    if number is None:
        return build_fault(
            "label-not-a-number",
            f"{name} is {_show(value)}, not a finite number",
            advise_number(value),
        )
    if not low <= number <= high:
        return build_fault("label-out-of-range", f"{name} is {number:.12g}, outside {low:g} to {high:g}")
    return (number - low) / (high - low) + 0.0  # never -0.0, which would be another label than 0.0


def _read_scores(fields: Fields, *, numeric_text: bool) -> tuple[float, ...] | Fault | None:
    """Return the teacher's scores, None where no document has one."""
    values: list[Any] = fields.values["scores"]
    given = [value is not None and not (value == "" and numeric_text) for value in values]
    if not any(given):
        return None
    if not all(given):
        name = _name(fields, "scores", given.index(False))
        return build_fault("scores-length", f"{name} is missing, and other documents of the row have one")
    scores: list[float] = []
    for place, value in enumerate(values):
        number = _read_number(value, numeric_text=numeric_text)
        if number is None:
            message = f"{_name(fields, 'scores', place)} is {_show(value)}, not a finite number"
            return build_fault("scores-not-numbers", message, advise_number(value))
        scores.append(number)
    return tuple(scores)


def _read_number(value: Any, *, numeric_text: bool) -> float | None:
    """Return a finite number, or None."""
    if isinstance(value, str) and numeric_text and "_" not in value:
        try:
            value = float(value)
        except ValueError:
            return None
    return float(value) if is_finite_number(value) else None


def _show(value: Any) -> str:
    if isinstance(value, str):
        return quote(value) if value else "empty"
    return "NaN or infinite" if isinstance(value, int | float) and not isinstance(value, bool) else name_type(value)


def advise_number(value: Any) -> str | None:
    """Return what makes a number of what stands for one, None where nothing does."""
    return AS_NUMBER if isinstance(value, bool | str) and is_finite_number(read_number(value)) else None


def _find_firsts(fields: Fields, labels: list[float]) -> list[int] | Fault:
    """Return the places of the documents that did not occur before; a repeat must have the same label."""
    first: dict[str, int] = {}
    for place, text in enumerate(fields.values["documents"]):
        known = first.setdefault(document_key(text), place)
        if labels[known] != labels[place]:
            message = f"the document {quote(text)} has two labels in one row"
            return build_fault("conflicting-labels", message)
    return list(first.values())


def check_pair(fields: Fields, source: str, line: int, *, numeric_text: bool) -> ScoredPair | Fault:
    """Return the pair, or its first fault. `numeric_text`: the score may be a number's text."""
    row = fields.values
    for key in ("text1", "text2"):
        if not isinstance(row[key], str):
            message = f"{fields.name(key)} is {name_type(row[key])}, not a string"
            return build_fault("wrong-type", message, "write one string")
    if fault := find_surrogate((fields.name(key), row[key]) for key in ("text1", "text2")):
        return fault
    for key, code in (("text1", "empty-query"), ("text2", "empty-text")):
        if is_blank(row[key]):
            return build_fault(code, f"{fields.name(key)} is empty or white space")
    score = _read_score(row["score"], fields.name("score"), numeric_text=numeric_text)
    return score if isinstance(score, Fault) else ScoredPair(row["text1"], row["text2"], score, source, line)


def _read_score(value: Any, name: str, *, numeric_text: bool) -> float | Fault:
    if isinstance(value, str) and numeric_text and "_" not in value:
        try:
            value = float(value)
        except ValueError:
            message = f'{name} is "{value[:20]}", not a number' if value else f"{name} is empty"
            return build_fault("scores-not-numbers", message, advise_number(value) or "write a finite number")
    if isinstance(value, bool) or not isinstance(value, int | float):
        hint = advise_number(value) or "write one number"
        return build_fault("wrong-type", f"{name} is {name_type(value)}, not a number", hint)
    if not is_finite_number(value):
        return build_fault("scores-not-numbers", f"{name} is not a finite number", "write a finite number")
    return float(value)


def check_chat(fields: Fields, source: str, line: int) -> tuple[Chat, int] | Fault:
    """Return the conversation up to the last answer that is learnt, and how many turns came after it; or its fault.

    What follows the last learnt answer has no part in any loss; ms-swift would learn the end of the last turn though,
    whatever its mark says (swift/loss_scale/base.py: marks are for the response, not for the suffix behind it).
    """
    turns: list[tuple[str, str]] = fields.values["messages"]
    names: list[str] = fields.values["names"]
    learnt: list[bool | None] = fields.values["learnt"]
    for (_, content), name in zip(turns, names, strict=True):
        if not isinstance(content, str):  # only of rows without messages: their one answer
            return build_fault("wrong-type", f"{name} is no string", "write one string")
    if fault := _check_order([role for role, _ in turns], names):
        return fault
    last = _find_last_learnt(fields)
    left_out = len(turns) - 1 - last if last >= 0 else 0
    if left_out:
        turns, names = turns[: last + 1], names[: last + 1]
    if fault := find_surrogate((name, content) for (_, content), name in zip(turns, names, strict=True)):
        return fault
    if fault := _check_present(turns, names):
        return fault
    marks = (mark if role == "assistant" else None for (role, _), mark in zip(turns, learnt, strict=False))
    messages = (Message(role, content, mark) for (role, content), mark in zip(turns, marks, strict=True))
    return Chat(tuple(messages), source, line), left_out


def find_question(fields: Fields) -> str:
    """Return what comes before the last answer that is learnt, "" where nobody asks anything."""
    turns: list[tuple[str, str]] = fields.values["messages"]
    last = _find_last_learnt(fields)
    asked = turns[:last] if last >= 0 else turns
    return join_question(asked) if any(role == "user" and not is_blank(content) for role, content in asked) else ""


def _find_last_learnt(fields: Fields) -> int:
    """Return the place of the last answer that is learnt, -1 where none is."""
    turns, learnt = fields.values["messages"], fields.values["learnt"]
    return max(
        (at for at, (role, _) in enumerate(turns) if role == "assistant" and learnt[at] is not False), default=-1
    )


def _check_order(roles: Sequence[str], names: Sequence[str]) -> Fault | None:
    """Refuse all but a system message or none, then user and assistant in turn up to an assistant."""
    start = 1 if roles and roles[0] == "system" else 0
    for place in range(start, len(roles)):
        wanted = ("user", "assistant")[(place - start) % 2]
        if roles[place] != wanted:
            message = f"{names[place]} is of the role {roles[place]}, where {wanted} should speak"
            return build_fault("broken-turns", message)
    if not roles or roles[-1] != "assistant":
        last = f"{names[-1]} is of the role {roles[-1]}" if roles else "there are no messages"
        hint = None if not roles or "assistant" in roles else "add the answer that is to be learnt, as the last message"
        return build_fault("no-answer", f"the conversation does not end with the assistant: {last}", hint)
    return None


def _check_present(turns: Sequence[tuple[str, str]], names: Sequence[str]) -> Fault | None:
    last = len(turns) - 1
    first_user = next(place for place, (role, _) in enumerate(turns) if role == "user")
    for place, (role, content) in enumerate(turns):
        if role == "system" or not is_blank(content):
            continue
        code = "empty-answer" if place == last else "empty-query" if place == first_user else "empty-text"
        return build_fault(code, f"{names[place]} is empty or white space")
    return None
