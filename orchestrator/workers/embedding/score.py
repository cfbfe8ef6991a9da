"""Score an embedding model: rank a corpus for each query, or compare pairs of texts, by cosine; answer with either."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.workers.embedding.model import Encoder, encode_texts, load_encoder
from orchestrator.workers.eval_files import Text, TextPair, is_pair_file, read_corpus, read_queries, read_text_pairs
from orchestrator.workers.failure import WorkerError
from orchestrator.workers.reranker.scoring import choose_device
from orchestrator.workers.score import Job, Scored
from orchestrator.workers.score_store import all_scored, describe_range
from orchestrator.workers.specs import EmbeddingSpec, parse_embedding_spec

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


@dataclass(frozen=True)
class TextPairJob(EmbeddingJob):
    """Pairs of texts that are compared: the first is wrapped as a query, the second as a document."""

    pairs: list[TextPair]

    def fits(self, rows: list[dict[str, Any]]) -> bool:
        """Tell whether the rows are those of the pairs."""
        return [row["pid"] for row in rows] == [pair.id for pair in self.pairs] and all_scored(rows)

    def score(self, loaded: Encoder) -> Scored:
        """Return the cosine of each pair."""
        texts = ([pair.text1 for pair in self.pairs], [pair.text2 for pair in self.pairs])
        firsts, seconds, facts = self.embed(loaded, *texts)
        cosines = (firsts * seconds).sum(axis=1).tolist()
        rows = [{"pid": pair.id, "score": score} for pair, score in zip(self.pairs, cosines, strict=True)]
        return finish(rows, loaded, {"kind": "pair", "pairs": len(rows), **facts})


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


def open_job(raw: dict[str, Any], options: argparse.Namespace) -> Job:
    """Return the job. Raises WorkerError for a bad spec, and for data that is not an eval file of either kind."""
    spec = parse_embedding_spec(raw, str(options.scoring))
    if options.corpus is not None:
        search = RetrievalJob(spec, read_queries(options.data), read_corpus(options.corpus))
        if spec.part is None:
            return search
        from orchestrator.workers.embedding.heads import HeadsJob  # it asks another library

        return HeadsJob(search)
    if is_pair_file(options.data):
        return TextPairJob(spec, read_text_pairs(options.data))
    raise WorkerError(f"{options.data}: queries of a retrieval eval need --corpus, the documents that they search")


def predict(
    model: Path, raw: dict[str, Any], rows: Sequence[tuple[str, dict[str, Any]]], device: str | None
) -> tuple[list[dict[str, Any]], Any]:
    """Return kind, text and vector of every row. Raises WorkerError for one that is not one query or one document."""
    spec = parse_embedding_spec(raw, str(model / "scoring.json"))
    texts: list[dict[str, Any]] = []
    for where, row in rows:
        kinds = [kind for kind in ("query", "document") if kind in row]
        if len(kinds) != 1 or not isinstance(row[kinds[0]], str):
            raise WorkerError(f'{where}: not {{"query": …}} or {{"document": …}}, one text a line')
        texts.append({"kind": kinds[0], "text": row[kinds[0]]})
    if not texts:
        return [], {}
    encoder = load_encoder(str(model), spec, choose_device(device), local_files_only=True)
    wrapped = [spec.wrap(one["kind"], one["text"]) for one in texts]
    vectors, _ = encode_texts(encoder, wrapped, spec.batch_size)
    return [one | {"vector": vector} for one, vector in zip(texts, vectors, strict=True)], {}
