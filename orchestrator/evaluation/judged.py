"""Reads what measuring needs from disk: the judged documents of each query, and one system's scores for them."""

from __future__ import annotations

import math
from collections.abc import Container, Mapping
from dataclasses import dataclass
from pathlib import Path

from orchestrator.errors import RunFolderError
from orchestrator.evaluation.lines import read_lines
from orchestrator.recipe.relevance import is_relevant


@dataclass(frozen=True, slots=True)  # a retrieval pool holds millions
class Document:
    """One candidate of a query; its `label` runs from 0 to 1, and from 0.5 on it is relevant."""

    docid: str
    text: str
    label: float


@dataclass(frozen=True)
class Group:
    """One query with all its candidates: the unit that is ranked, measured and resampled."""

    qid: str
    query: str
    documents: tuple[Document, ...]

    @property
    def docids(self) -> frozenset[str]:
        """The names of its candidates."""
        return frozenset(document.docid for document in self.documents)

    @property
    def relevant(self) -> int:
        """How many candidates are relevant."""
        return sum(is_relevant(document.label) for document in self.documents)


def load_groups(path: Path) -> tuple[Group, ...]:
    """Return the canonical ranking groups of data/eval.jsonl, in file order.

    Raises RunFolderError where a line is not a group, or a qid comes twice.
    """
    groups: dict[str, Group] = {}
    for where, row in read_lines(path):
        try:
            documents = tuple(
                Document(str(item["docid"]), str(item["text"]), _read_label(item["label"])) for item in row["documents"]
            )
            group = Group(str(row["qid"]), str(row["query"]), documents)
        except (KeyError, TypeError, ValueError) as error:
            raise RunFolderError(f"not a ranking group: {error!r}", where=where) from error
        if group.qid in groups:
            raise RunFolderError(f"the qid {group.qid} comes twice", where=where)
        groups[group.qid] = group
    return tuple(groups.values())


def _read_label(value: object) -> float:
    """Return a label. Raises ValueError or TypeError for what is none."""
    label = float(value)  # type: ignore[arg-type]  # a TypeError is what the caller turns into words
    if not (math.isfinite(label) and 0 <= label <= 1):
        raise ValueError(f"the label {value} does not lie between 0 and 1")
    return label


def load_scores(path: Path, known: Mapping[str, Container[str]]) -> dict[str, dict[str, float]]:
    """Return {qid: {docid: score}} of a stage's scores.jsonl; `known` holds each query's docids.

    A pair may be missing. Raises RunFolderError for a pair that is not known, or that comes twice: such scores belong
    to other data, and a measure over them would mean nothing.
    """
    scores: dict[str, dict[str, float]] = {}
    for where, row in read_lines(path):
        try:
            qid, docid, score = str(row["qid"]), str(row["docid"]), float(row["score"])
        except (KeyError, TypeError, ValueError) as error:
            raise RunFolderError(f"not a score: {error!r}", where=where) from error
        if docid not in known.get(qid, ()):
            raise RunFolderError(f"a score for {qid}/{docid}, which the evaluation set does not hold", where=where)
        if docid in scores.setdefault(qid, {}):
            raise RunFolderError(f"two scores for {qid}/{docid}", where=where)
        scores[qid][docid] = score
    return scores
