"""The fields of a row with labels are checked and become a labelled group."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from orchestrator.data.digests import document_key
from orchestrator.data.reasons import Fault
from orchestrator.data.rows.field_readers import Fields
from orchestrator.data.rows.group_checks import check_group
from orchestrator.data.rows.labelled import LabelledGroup
from orchestrator.data.rows.texts import (
    build_fault,
    find_surrogate,
    is_blank,
    is_finite_number,
    name_type,
    quote,
    read_number,
)

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
    for name, text in _texts(fields):
        if not isinstance(text, str):
            return build_fault("wrong-type", f"{name} is {name_type(text)}, not a string", "write one string")
    if fault := find_surrogate(_texts(fields)):
        return fault
    for place, (name, text) in enumerate(_texts(fields)):
        if is_blank(text):
            return build_fault("empty-text" if place else "empty-query", f"{name} is empty or white space")
    return None


def _texts(fields: Fields) -> Iterator[tuple[str, Any]]:
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
