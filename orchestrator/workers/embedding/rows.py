"""Rows of the three forms → columns for the trainer, each fault with file and line; and what evaluates them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.workers.embedding.losses import COMPARED, GROUPS, LOSSES, SCORES, LossSettings
from orchestrator.workers.failure import WorkerError
from orchestrator.workers.folders import parse_all_rows
from orchestrator.workers.settings import is_number

KEYS = {
    GROUPS: ("query", "positive", "negatives"),
    SCORES: ("query", "positive", "negatives", "scores"),
    COMPARED: ("text1", "text2", "label"),
}
QUERIES = ("query", "text1")  # the columns that are read as queries; all others are documents
LABEL = "label"


@dataclass(frozen=True)
class Rows:
    """A file's rows: `columns` are what the trainer reads, `raw` the rows as they stand in the file."""

    columns: dict[str, list[Any]]
    raw: list[dict[str, Any]]
    form: str
    negatives: int = 0
    classes: int | None = None

    @property
    def count(self) -> int:
        """How many rows there are."""
        return len(self.raw)

    def describe(self, side: str) -> str:
        """Return the log's line about what was loaded."""
        first, what = ("text1", "first texts") if self.form == COMPARED else ("query", "queries")
        each = f" with {self.negatives} negatives each" if self.negatives else ""
        return f"{side}: {self.count} rows{each}, {len(set(self.columns[first]))} {what}"


def load_rows(path: Path, loss: LossSettings, most: int | None = None) -> Rows:
    """Return a file's rows. Raises WorkerError with the first bad lines.

    Every row has as many negatives as `hard_negatives` says, else as the row with the fewest has, and never more than
    `most`.
    """
    form = LOSSES[loss.type].form
    rows = parse_all_rows(path, lambda row: parse_row(row, form, loss))
    if form == COMPARED:
        return Rows({key: [row[key] for row in rows] for key in KEYS[form]}, rows, form, classes=loss.num_labels)
    fewest = min(len(row["negatives"]) for row in rows)
    count = loss.hard_negatives or fewest
    count = count if most is None else min(count, most)
    if fewest < count:
        raise WorkerError(f"{path}: a row has {fewest} negatives, and every row must have {count}")
    columns = {key: [row[key] for row in rows] for key in ("query", "positive")}
    columns |= {f"negative_{place + 1}": [row["negatives"][place] for row in rows] for place in range(count)}
    if form == SCORES:
        columns[LABEL] = [row["scores"][: count + 1] for row in rows]
    return Rows(columns, rows, form, count)


def parse_row(row: Any, form: str, loss: LossSettings) -> dict[str, Any]:
    """Return the row of a line's JSON. Raises ValueError, which says what is wrong with it."""
    negatives = row.get("negatives", []) if isinstance(row, dict) else None
    if not isinstance(negatives, list) or set(row) != set(KEYS[form]):
        raise ValueError(f"a row of {form} is an object of {', '.join(KEYS[form])}, negatives a list")
    texts = {name: row[name] for name in KEYS[form] if name not in {"negatives", "scores", LABEL}}
    texts |= {f"negatives[{place}]": text for place, text in enumerate(negatives)}
    for name, text in texts.items():
        if not isinstance(text, str) or not text.strip():
            raise ValueError(f"{name} must be a text that is not empty")
    if loss.translations and negatives:
        raise ValueError(f"with translations a row's texts mean the same, and it has {len(negatives)} negatives")
    if loss.type == "triplet" and len(negatives) != 1:
        raise ValueError(f"triplet learns from one negative, and the row has {len(negatives)}")
    numbers = row.get("scores", [row[LABEL]] if form == COMPARED else [])
    wanted = len(negatives) + 1 if form == SCORES else len(numbers)
    if not isinstance(numbers, list) or len(numbers) != wanted:
        raise ValueError(f"scores must be {wanted} numbers, the positive's first")
    if bad := [number for number in numbers if not is_number(number) or not math.isfinite(number)]:
        raise ValueError(f"{bad[0]!r} is no finite number, and the row is learnt from it")
    if loss.num_labels and row[LABEL] not in range(loss.num_labels):
        raise ValueError(f"{row[LABEL]!r} is none of the {loss.num_labels} classes, which are numbered from 0")
    if (form == SCORES or loss.type == "angle_triplet") and not negatives:
        raise ValueError(f"{loss.type} compares documents, and the row has no negatives")
    return {**row}


def build_dataset(rows: Rows) -> Any:
    """Return the rows as a datasets.Dataset, labels as floats (classes: integers) whatever the first look like."""
    from datasets import Dataset, Features, Value
    from datasets import List as ListOf

    number: Any = Value("int64" if rows.classes else "float32")
    for _ in range(getattr(rows.columns.get(LABEL), "ndim", 2 if rows.form == SCORES else 1) - 1):
        number = ListOf(number)
    features = Features({key: number if key == LABEL else Value("string") for key in rows.columns})
    return Dataset.from_dict(rows.columns, features=features)


def build_evaluator(rows: Rows, query_prompt: str, document_prompt: str, batch_size: int) -> Any:
    """Return what finds the best checkpoint: nDCG of the queries over all documents, or Spearman of the pairs.

    None where pairs have one label or classes, of which no order can be measured.
    """
    return (_compare if rows.form == COMPARED else _rank)(rows, query_prompt, document_prompt, batch_size)


def _compare(rows: Rows, query_prompt: str, document_prompt: str, batch_size: int) -> Any:
    from sentence_transformers.sentence_transformer.evaluation import EmbeddingSimilarityEvaluator

    labels = rows.columns[LABEL]
    if rows.classes or len(set(labels)) == 1:
        return None
    return EmbeddingSimilarityEvaluator(
        [query_prompt + text for text in rows.columns["text1"]],
        [document_prompt + text for text in rows.columns["text2"]],
        labels,
        batch_size=batch_size,
        main_similarity="cosine",
        similarity_fn_names=["cosine"],
        name="validation",
        write_csv=False,
    )


def _rank(rows: Rows, query_prompt: str, document_prompt: str, batch_size: int) -> Any:
    from sentence_transformers.sentence_transformer.evaluation import InformationRetrievalEvaluator
    from sentence_transformers.util import cos_sim

    texts = dict.fromkeys(text for row in rows.raw for text in (row["positive"], *row["negatives"]))
    corpus = {text: f"d{place}" for place, text in enumerate(texts)}
    queries = {text: f"q{place}" for place, text in enumerate(dict.fromkeys(row["query"] for row in rows.raw))}
    relevant: dict[str, set[str]] = {}
    for row in rows.raw:
        relevant.setdefault(queries[row["query"]], set()).add(corpus[row["positive"]])
    return InformationRetrievalEvaluator(
        {name: text for text, name in queries.items()},
        {name: text for text, name in corpus.items()},
        relevant,
        batch_size=batch_size,
        name="validation",
        write_csv=False,
        accuracy_at_k=[1],
        precision_recall_at_k=[10],
        score_functions={"cosine": cos_sim},
        main_score_function="cosine",
        query_prompt=query_prompt,
        corpus_prompt=document_prompt,
    )
