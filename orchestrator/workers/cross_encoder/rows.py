"""Rows of the three forms → columns for the trainer, each fault with file and line; documents' parts shuffled."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

from orchestrator.workers.cross_encoder.settings import LISTS, MARGINS, PAIRS, LossSettings
from orchestrator.workers.failure import WorkerError

# the order of the keys is the order of the columns, which the losses go by
KEYS = {
    PAIRS: ("query", "document", "label"),
    LISTS: ("query", "documents", "labels"),
    MARGINS: ("query", "positive", "negative", "label"),
}
TEXTS = {PAIRS: ("document",), LISTS: ("documents",), MARGINS: ("positive", "negative")}
RELEVANT = 0.5  # a label of at least this counts as relevant where only yes or no is known
MAX_PROBLEMS = 10
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
    def queries(self) -> int:
        """How many different queries there are."""
        return len(set(self.columns["query"]))

    @property
    def documents(self) -> int:
        """How many documents there are, in all rows together."""
        if self.form == LISTS:
            return sum(map(len, self.columns["documents"]))
        return self.count * len(TEXTS[self.form])


def load_rows(path: Path, form: str, loss: LossSettings) -> Rows:
    """Return a file's rows, labels as floats. Raises WorkerError with the first `MAX_PROBLEMS` bad lines."""
    columns: dict[str, list[Any]] = {key: [] for key in KEYS[form]}
    problems: list[str] = []
    try:
        with path.open(encoding="utf-8-sig") as stream:
            for number, line in enumerate(stream, start=1):
                if not line.strip():
                    continue
                row, problem = parse_row(line, form, loss)
                if problem:
                    problems.append(f"{path}:{number}: {problem}")
                    if len(problems) == MAX_PROBLEMS:
                        break
                for key, column in columns.items():
                    column.append(row.get(key))
    except (OSError, UnicodeDecodeError) as error:
        raise WorkerError(f"{path}: the rows cannot be read: {error}") from error
    if problems:
        raise WorkerError(*problems)
    if not columns["query"]:
        raise WorkerError(f"{path}: there is no row to learn from")
    return Rows(columns, form)


def parse_row(line: str, form: str, loss: LossSettings) -> tuple[dict[str, Any], str | None]:
    """Return a line's row and None, or what is wrong with it."""
    try:
        row = json.loads(line)
    except ValueError as error:
        return {}, f"not JSON: {error}"
    if not isinstance(row, dict) or set(row) != set(KEYS[form]):
        return {}, f"a row of {form} is an object of {', '.join(KEYS[form])}"
    problem = _find_text_problem(row, form)
    if problem:
        return row, problem
    return (_list_row if form == LISTS else _pair_row)(row, loss)


def _find_text_problem(row: dict[str, Any], form: str) -> str | None:
    texts = [("query", row["query"])]
    for key in TEXTS[form]:
        value = row[key]
        if form == LISTS:
            if not isinstance(value, list) or not value:
                return "documents must be a list of at least one text"
            texts += [(f"documents[{index}]", text) for index, text in enumerate(value)]
        else:
            texts.append((key, value))
    bad = [name for name, text in texts if not isinstance(text, str) or not text.strip()]
    return f"{bad[0]} must be a text that is not empty" if bad else None


def _pair_row(row: dict[str, Any], loss: LossSettings) -> tuple[dict[str, Any], str | None]:
    if not _is_finite(row["label"]):
        return row, f"label is {row['label']!r}; it must be a finite number"
    if loss.type == "pointwise_bce" and not 0 <= row["label"] <= 1:
        return row, f"label is {row['label']}; pointwise_bce learns probabilities, from 0 to 1"
    return {**row, "label": float(row["label"])}, None


def _list_row(row: dict[str, Any], loss: LossSettings) -> tuple[dict[str, Any], str | None]:
    labels = row["labels"]
    if not isinstance(labels, list) or len(labels) != len(row["documents"]):
        return row, f"labels must be a list of {len(row['documents'])} numbers, one a document"
    bad = [label for label in labels if not _is_finite(label)]
    if bad:
        return row, f"labels hold {bad[0]!r}; each must be a finite number"
    problem = _find_list_problem([float(label) for label in labels], loss)
    return {**row, "labels": [float(label) for label in labels]}, problem


def _find_list_problem(labels: list[float], loss: LossSettings) -> str | None:
    if loss.type == "list_mle" and any(first < second for first, second in pairwise(labels)):
        return "list_mle learns the order of the documents, and they are not sorted by label, highest first"
    if loss.type == "listwise_ce" and loss.graded and (min(labels) < 0 or not sum(labels) > 0):
        return "labels are read as a distribution: none may be below 0, and one must be above"
    if loss.type == "listwise_ce" and not loss.graded:
        relevant = sum(label >= RELEVANT for label in labels)
        if relevant != 1:
            return f"{relevant} documents are relevant; listwise_ce needs exactly one, or loss.graded: true"
    return None


def _is_finite(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


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
    positives: dict[str, list[str]] = {}
    negatives: dict[str, list[str]] = {}
    for query, document, is_relevant in _judge(rows):
        side = positives if is_relevant else negatives
        known = side.setdefault(query, [])
        if document not in known:
            known.append(document)
    return [
        {"query": query, "positive": relevant, "negative": negatives[query]}
        for query, relevant in positives.items()
        if query in negatives
    ]


def _judge(rows: Rows) -> list[tuple[str, str, bool]]:
    queries: Sequence[str] = rows.columns["query"]
    if rows.form == MARGINS:
        sides = (("positive", True), ("negative", False))
        return [
            (query, document, is_relevant)
            for key, is_relevant in sides
            for query, document in zip(queries, rows.columns[key], strict=True)
        ]
    lists = rows.form == LISTS
    documents = rows.columns["documents"] if lists else [[text] for text in rows.columns["document"]]
    labels = rows.columns["labels"] if lists else [[label] for label in rows.columns["label"]]
    if any(not 0 <= label <= 1 for row in labels for label in row):
        return []
    return [
        (query, document, label >= RELEVANT)
        for query, texts, values in zip(queries, documents, labels, strict=True)
        for document, label in zip(texts, values, strict=True)
    ]
