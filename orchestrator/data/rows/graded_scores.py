"""Scores that are labels, as RAG-Retrieval writes graded rows: read as such where asked, asked about where unclear."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from orchestrator.data.reasons import Fault, problem_of
from orchestrator.data.rows.texts import build_fault, is_finite_number
from orchestrator.errors import Problem, Where

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
