"""Rows of the three forms → columns for the trainer, each fault with file and line; documents' parts shuffled."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from orchestrator.workers.cross_encoder.losses import LISTS, LOSSES, MARGINS, PAIRS, RELEVANT, LossSettings
from orchestrator.workers.folders import parse_all_rows
from orchestrator.workers.settings import is_number

# the order of the keys is the order of the columns, which the losses go by
KEYS = {
    PAIRS: ("query", "document", "label"),
    LISTS: ("query", "documents", "labels"),
    MARGINS: ("query", "positive", "negative", "label"),
}
TEXTS = {PAIRS: ("document",), LISTS: ("documents",), MARGINS: ("positive", "negative")}
SHUFFLED_FROM_CHARS = 100  # FlagEmbedding/abc/finetune/reranker/AbsDataset.py: a document of more is cut
SHUFFLED_ORDERS = ((0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0))


@dataclass(frozen=True)
class Rows:
    """The columns of a file in its order, all of one length; `shuffled` counts documents whose parts changed places."""

    columns: dict[str, list[Any]]
    form: str
    shuffled: int = 0

    @property
    def count(self) -> int:
        """How many rows there are."""
        return len(self.columns["query"])

    @property
    def documents(self) -> int:
        """How many documents there are, in all rows together."""
        return sum(len(documents) for _, documents, _ in self.lists())

    @property
    def negatives(self) -> int:
        """How many documents every list has behind its first."""
        return min(len(documents) for documents in self.columns["documents"]) - 1

    def answers(self) -> dict[str, list[str]]:
        """Return columns of one text each: query, answer, and as many negatives as every row has."""
        lists = self.columns["documents"]
        names = ["positive", *(f"negative_{place + 1}" for place in range(self.negatives))]
        return {"query": self.columns["query"]} | {
            name: [documents[place] for documents in lists] for place, name in enumerate(names)
        }

    def lists(self) -> Iterator[tuple[str, list[str], list[float]]]:
        """Yield query, documents and labels of every row; a positive has the label 1, a negative 0."""
        for query, *texts in zip(*self.columns.values(), strict=True):
            if self.form == LISTS:
                yield query, *texts
            elif self.form == PAIRS:
                yield query, texts[:1], texts[1:]
            else:
                yield query, texts[:2], [1.0, 0.0]


def load_rows(path: Path, loss: LossSettings) -> Rows:
    """Return a file's rows, labels as floats. Raises WorkerError with the first bad lines."""
    form = LOSSES[loss.type].form
    rows = parse_all_rows(path, lambda row: parse_row(row, form, loss))
    return Rows({key: [row[key] for row in rows] for key in KEYS[form]}, form)


def parse_row(row: Any, form: str, loss: LossSettings) -> dict[str, Any]:
    """Return the row of a line's JSON. Raises ValueError, which says what is wrong with it."""
    if not isinstance(row, dict) or set(row) != set(KEYS[form]):
        raise ValueError(f"a row of {form} is an object of {', '.join(KEYS[form])}")
    if form == LISTS and not (isinstance(row["documents"], list) and row["documents"]):
        raise ValueError("documents must be a list of at least one text")
    for name, text in _name_texts(row, form):
        if not isinstance(text, str) or not text.strip():
            raise ValueError(f"{name} must be a text that is not empty")
    key = "labels" if form == LISTS else "label"
    labels = row[key] if form == LISTS else [row[key]]
    if not isinstance(labels, list) or (form == LISTS and len(labels) != len(row["documents"])):
        raise ValueError(f"labels must be a list of {len(row['documents'])} numbers, one a document")
    if bad := [label for label in labels if not is_number(label) or not math.isfinite(label)]:
        raise ValueError(f"{key} {'hold' if form == LISTS else 'is'} {bad[0]!r}; it must be a finite number")
    labels = [float(label) for label in labels]
    if problem := LOSSES[loss.type].check(labels, loss):
        raise ValueError(problem)
    return {**row, key: labels if form == LISTS else labels[0]}


def _name_texts(row: dict[str, Any], form: str) -> list[tuple[str, Any]]:
    if form == LISTS:
        return [("query", row["query"]), *((f"documents[{i}]", text) for i, text in enumerate(row["documents"]))]
    return [(key, row[key]) for key in ("query", *TEXTS[form])]


def shuffle_parts(rows: Rows, ratio: float, seed: int) -> Rows:
    """Return the rows with the thirds of some documents in another order, as FlagEmbedding's `shuffle_ratio`.

    Each document of more than 100 characters is drawn with probability `ratio`, once and for the whole training. Unlike
    FlagEmbedding's, the new order is never the old one, so that what is counted was changed.
    """
    if not ratio:
        return rows
    draw = random.Random(seed)  # noqa: S311  no secret
    shuffled = 0

    def change(text: str) -> str:
        nonlocal shuffled
        if len(text) <= SHUFFLED_FROM_CHARS or draw.random() >= ratio:
            return text
        shuffled += 1
        size = len(text) // 3 + 1
        parts = [text[start : start + size] for start in range(0, len(text), size)]
        return " ".join(parts[index] for index in draw.choice(SHUFFLED_ORDERS))

    columns = dict(rows.columns)
    for key in TEXTS[rows.form]:
        columns[key] = [
            [change(text) for text in value] if rows.form == LISTS else change(value) for value in rows.columns[key]
        ]
    return replace(rows, columns=columns, shuffled=shuffled)


def build_ranking_samples(rows: Rows) -> list[dict[str, Any]]:
    """Return CrossEncoderRerankingEvaluator's samples: queries with both relevant and other documents.

    Rows of one query are put together. There are none where a label lies outside [0, 1]: a teacher's scores say nothing
    of what is relevant.
    """
    relevant: dict[str, dict[str, None]] = {}
    others: dict[str, dict[str, None]] = {}
    for query, documents, labels in rows.lists():
        for document, label in zip(documents, labels, strict=True):
            if not 0 <= label <= 1:
                return []
            (relevant if label >= RELEVANT else others).setdefault(query, {})[document] = None
    return [
        {"query": query, "positive": list(documents), "negative": list(others[query])}
        for query, documents in relevant.items()
        if query in others
    ]
