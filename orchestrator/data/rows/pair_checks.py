"""The fields of a row with a score are checked and become a scored pair."""

from __future__ import annotations

from typing import Any

from orchestrator.data.reasons import Fault
from orchestrator.data.rows.field_readers import Fields
from orchestrator.data.rows.labelled_checks import advise_number
from orchestrator.data.rows.records import ScoredPair
from orchestrator.data.rows.texts import build_fault, find_surrogate, is_blank, is_finite_number, name_type


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
