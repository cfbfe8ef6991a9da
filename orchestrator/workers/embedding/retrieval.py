"""Rank a corpus for each query by cosine, exactly, in bounded memory; what all jobs of an embedding model share."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from orchestrator.workers.embedding.model import Encoder, encode_texts, load_encoder
from orchestrator.workers.eval_files import Text
from orchestrator.workers.score import Scored
from orchestrator.workers.score_store import all_scored, describe_range
from orchestrator.workers.specs import EmbeddingSpec

# documents of a query that are written; the measures look at fewer
DEPTH = 1000
# cosines that differ by less than float32 rounds away are equal
SAME_COSINE = 1e-6
QUERIES_AT_ONCE = 64
DOCUMENTS_AT_ONCE = 65_536  # so many cosines are in memory


@dataclass(frozen=True)
class EmbeddingJob:
    """What a retrieval and a comparison of pairs have in common."""

    spec: EmbeddingSpec

    def load(self, model: str, device: str) -> Encoder:
        """Return the embedding model."""
        return load_encoder(model, self.spec, device)

    def embed(self, encoder: Encoder, queries: Sequence[str], documents: Sequence[str]) -> tuple[Any, Any, Any]:
        """Return the vectors of both sides, and what scoring.json says of the texts."""
        texts = [*map(self.spec.wrap_query, queries), *map(self.spec.wrap_document, documents)]
        vectors, cut = encode_texts(encoder, texts, self.spec.batch_size)
        facts = {"texts": len(set(texts)), "texts_cut": cut, "dims": int(vectors.shape[1])}
        return vectors[: len(queries)], vectors[len(queries) :], facts


def finish(rows: list[dict[str, Any]], encoder: Encoder, facts: dict[str, Any]) -> Scored:
    """Return the rows with all facts."""
    spread = describe_range([row["score"] for row in rows], SAME_COSINE)
    return Scored(rows, {**facts, **spread, **encoder.facts}, "texts", facts["texts"])


@dataclass(frozen=True)
class RetrievalJob(EmbeddingJob):
    """Queries, and the corpus that they search."""

    queries: list[Text]
    documents: list[Text]

    def fits(self, rows: list[dict[str, Any]]) -> bool:
        """Tell whether the rows are those of the queries, with documents of the corpus."""
        documents = {document.id for document in self.documents}
        found = list(dict.fromkeys(row["qid"] for row in rows))
        wanted = [query.id for query in self.queries]
        return found == wanted and all(row["docid"] in documents for row in rows) and all_scored(rows)

    def score(self, loaded: Encoder) -> Scored:
        """Return the best `DEPTH` documents of the corpus for each query."""
        texts = ([query.text for query in self.queries], [document.text for document in self.documents])
        queries, documents, facts = self.embed(loaded, *texts)
        rows = [
            {"qid": query.id, "docid": self.documents[position].id, "score": score}
            for query, (positions, scores) in zip(self.queries, find_nearest(queries, documents, DEPTH), strict=True)
            for position, score in zip(positions.tolist(), scores.tolist(), strict=True)
        ]
        sizes = {"kind": "retrieval", "queries": len(queries), "documents": len(documents), "depth": DEPTH}
        return finish(rows, loaded, {**sizes, **facts})


def find_nearest(queries: Any, documents: Any, count: int) -> Iterator[tuple[Any, Any]]:
    """Yield, a query, positions and cosines of its `count` best documents; equal cosines in the order of positions.

    `queries` [queries, dimensions] and `documents` [documents, dimensions] are unit vectors. At most
    `QUERIES_AT_ONCE` × `DOCUMENTS_AT_ONCE` cosines are in memory.
    """
    import numpy as np

    for start in range(0, len(queries), QUERIES_AT_ONCE):
        block = queries[start : start + QUERIES_AT_ONCE]
        best: list[tuple[Any, Any]] = [(np.empty(0, dtype=np.int64), np.empty(0, dtype=np.float32)) for _ in block]
        for offset in range(0, len(documents), DOCUMENTS_AT_ONCE):
            cosines = block @ documents[offset : offset + DOCUMENTS_AT_ONCE].T
            for row, (positions, scores) in enumerate(best):
                kept = _keep_best(cosines[row], count)
                best[row] = _order_best(
                    np.concatenate([positions, kept + offset]), np.concatenate([scores, cosines[row][kept]]), count
                )
        yield from best


def _keep_best(scores: Any, count: int) -> Any:
    """Return the positions of the `count` best scores and of every score that equals the last of them."""
    import numpy as np

    if len(scores) <= count:
        return np.arange(len(scores))
    least = np.partition(scores, len(scores) - count)[len(scores) - count]
    return np.flatnonzero(scores >= least)


def _order_best(positions: Any, scores: Any, count: int) -> tuple[Any, Any]:
    """Return the `count` best of `positions` and their scores, the best first, ties as they were."""
    import numpy as np

    # what earlier blocks left comes first and in rank order, so a stable sort keeps ties in the order of positions
    order = np.argsort(-scores, kind="stable")[:count]
    return positions[order], scores[order]
