"""Evaluation sets whose documents are ranked: judged candidates, and the pool of a retrieval over a corpus."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.errors import RunFolderError
from orchestrator.evaluation.judged import Document, Group, load_groups, load_scores
from orchestrator.evaluation.lines import read_lines
from orchestrator.evaluation.measured import Measured
from orchestrator.evaluation.measures import GROUP, RETRIEVAL
from orchestrator.evaluation.ranking import Measurement, measure
from orchestrator.evaluation.ties import RANDOM_ORDERS

Scores = Mapping[str, Mapping[str, float]]  # {qid: {docid: score}}


@dataclass(frozen=True)
class GroupEval:
    """Queries with their judged candidates: every system ranks the same documents."""

    groups: tuple[Group, ...]
    kind: str = GROUP

    @property
    def size(self) -> int:
        """How many queries there are."""
        return len(self.groups)

    def describe(self) -> dict[str, Any]:
        """Return {"queries", "documents", "relevant", "queries_without_relevant", "labels"}.

        Relevant are labels of at least 0.5; {"grades": how many different labels, "lowest", "mean", "highest"}.
        """
        labels = [document.label for group in self.groups for document in group.documents]
        return {
            "queries": len(self.groups),
            "documents": sum(len(group.documents) for group in self.groups),
            "relevant": sum(group.relevant for group in self.groups),
            "queries_without_relevant": sum(group.relevant == 0 for group in self.groups),
            "labels": {
                "grades": len(set(labels)),
                "lowest": min(labels, default=None),
                "mean": math.fsum(labels) / len(labels) if labels else None,
                "highest": max(labels, default=None),
            },
        }

    def load_scores(self, path: Path) -> Scores:
        """Return {qid: {docid: score}}. Raises RunFolderError for a pair that the groups do not hold."""
        return load_scores(path, {group.qid: group.docids for group in self.groups})

    def pool(self, scores: Mapping[str, Scores]) -> tuple[Group, ...]:  # noqa: ARG002
        """Return the queries with the documents that are ranked: their candidates, whatever was scored."""
        return self.groups

    def measure(self, scores: Mapping[str, Scores], metrics: Sequence[str], *, seed: int) -> dict[str, Measured]:
        """Measure {system id: its scores} on every query; documents that share a score favour nobody."""
        groups = self.pool(scores)
        return {name: _measured(measure(groups, one, metrics, seed=seed), one) for name, one in scores.items()}


@dataclass(frozen=True)
class RetrievalEval:
    """Queries with the docids of their relevant documents, and the corpus {docid: text} that is searched."""

    queries: Mapping[str, str]
    relevant: Mapping[str, tuple[str, ...]]
    corpus: Mapping[str, str]
    kind: str = RETRIEVAL

    @property
    def size(self) -> int:
        """How many queries there are."""
        return len(self.queries)

    def describe(self) -> dict[str, Any]:
        """Return {"queries", "documents" (of the corpus), "relevant", "queries_without_relevant"}."""
        return {
            "queries": len(self.queries),
            "documents": len(self.corpus),
            "relevant": sum(len(docids) for docids in self.relevant.values()),
            "queries_without_relevant": sum(not docids for docids in self.relevant.values()),
        }

    def load_scores(self, path: Path) -> Scores:
        """Return {qid: {docid: score}} of the retrieved documents. Raises RunFolderError for scores of other data."""
        return load_scores(path, dict.fromkeys(self.queries, self.corpus))

    def pool(self, scores: Mapping[str, Scores]) -> tuple[Group, ...]:
        """Return each query with its relevant documents and all that any system retrieved, in the corpus's order.

        What was not judged counts as not relevant. The corpus's order was drawn by seed, so it carries no label.
        """
        place = {docid: number for number, docid in enumerate(self.corpus)}
        groups = []
        for qid, query in self.queries.items():
            relevant = frozenset(self.relevant[qid])
            docids = relevant.union(*(one.get(qid, ()) for one in scores.values()))
            documents = (
                Document(docid, self.corpus[docid], float(docid in relevant))
                for docid in sorted(docids, key=place.__getitem__)
            )
            groups.append(Group(qid, query, tuple(documents)))
        return tuple(groups)

    def measure(self, scores: Mapping[str, Scores], metrics: Sequence[str], *, seed: int) -> dict[str, Measured]:
        """Measure {system id: its scores} on every query; a document that was not retrieved counts as not found."""
        groups = self.pool(scores)
        return {name: _measured(measure(groups, one, metrics, seed=seed), one) for name, one in scores.items()}


def load_group_eval(path: Path) -> GroupEval:
    """Return data/eval.jsonl as judged candidates."""
    return GroupEval(load_groups(path))


def load_retrieval_eval(path: Path, corpus_path: Path) -> RetrievalEval:
    """Return data/eval.jsonl and data/corpus.jsonl as a retrieval.

    Raises RunFolderError where the corpus is missing, an id comes twice, or a relevant document is not in it.
    """
    if not corpus_path.is_file():
        raise RunFolderError(
            f"{path.name} names documents of a corpus, and {corpus_path} is missing",
            hint="prepare the data again: remove the stage's result and run orch resume",
        )
    corpus: dict[str, str] = {}
    for where, row in read_lines(corpus_path):
        try:
            docid, text = str(row["docid"]), str(row["text"])
        except (KeyError, TypeError) as error:
            raise RunFolderError(f"not a document: {error!r}", where=where) from error
        if docid in corpus:
            raise RunFolderError(f"the docid {docid} comes twice", where=where)
        corpus[docid] = text
    queries: dict[str, str] = {}
    relevant: dict[str, tuple[str, ...]] = {}
    for where, row in read_lines(path):
        try:
            qid, query, docids = str(row["qid"]), str(row["query"]), tuple(map(str, row["relevant"]))
        except (KeyError, TypeError) as error:
            raise RunFolderError(f"not a query with its relevant documents: {error!r}", where=where) from error
        if qid in queries:
            raise RunFolderError(f"the qid {qid} comes twice", where=where)
        if absent := [docid for docid in docids if docid not in corpus]:
            raise RunFolderError(f"the relevant document {absent[0]} of {qid} is not in the corpus", where=where)
        queries[qid], relevant[qid] = query, tuple(dict.fromkeys(docids))
    return RetrievalEval(queries, relevant, corpus)


def _measured(measurement: Measurement, scores: Scores) -> Measured:
    return Measured(
        ids=measurement.qids,
        columns=measurement.values,
        means={metric: measurement.mean(metric) for metric in measurement.values},
        facts={
            "tied_queries": measurement.tied,
            "sampled_queries": measurement.sampled,
            "random_orders": RANDOM_ORDERS,
            "missing_queries": list(measurement.missing),
            "constant": len({score for row in scores.values() for score in row.values()}) == 1,
        },
    )
