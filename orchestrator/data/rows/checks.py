"""One parsed row is checked and becomes a canonical record, or the one fault for which it is dropped."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from orchestrator.data.reasons import Fault
from orchestrator.data.rows import chat_checks, group_checks, labelled_checks, pair_checks
from orchestrator.data.rows.field_readers import SAMPLE_KEY, Fields, read_fields
from orchestrator.data.rows.formats import (
    SHAPES,
    explain_no_object,
    explain_other_kind,
    find_shape,
    rename_columns,
)
from orchestrator.data.rows.graded_scores import read_scores_as_labels
from orchestrator.data.rows.loss_marks import leave_out_marks, names_mark
from orchestrator.data.rows.nearest import explain_no_negatives, explain_unknown
from orchestrator.data.rows.records import Kind, Record
from orchestrator.data.rows.texts import build_fault, find_surrogate, is_blank, name_type
from orchestrator.data.rows.unread_judgements import find_unread_judgements
from orchestrator.data.rows.unread_texts import UnreadText, find_unread


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
        labelled = labelled_checks.check_labelled(
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
    record = pair_checks.check_pair(fields, source, line, numeric_text=numeric_text)
    return record if isinstance(record, Fault) else Accepted(record, fields.unknown_keys, is_sample=is_sample)


def _accept_group(fields: Fields, source: str, line: int, rules: RowRules, *, is_sample: bool) -> Accepted | Fault:
    found = group_checks.check_group(fields, source, line, needs_negatives=rules.needs_negatives)
    if isinstance(found, Fault):
        return found
    if rules.needs_scores and found[0].positive_scores is None:
        return build_fault("scores-missing", "the row has no teacher scores")
    return Accepted(found[0], fields.unknown_keys, found[1], found[2], is_sample=is_sample)


def _accept_chat(fields: Fields, source: str, line: int, *, is_sample: bool) -> Accepted | Fault:
    found = chat_checks.check_chat(fields, source, line)
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
            text, name = chat_checks.find_question(fields), '"messages"'
        else:
            text, name = fields.values["query" if shape.kind == "group" else "text1"], '"messages"'
    if not isinstance(text, str):
        return build_fault("wrong-type", f"{name} is {name_type(text)}, not a string", "write one string")
    if fault := find_surrogate([(name, text)]):
        return fault
    return build_fault("empty-query", f"{name} is empty or white space") if is_blank(text) else text
