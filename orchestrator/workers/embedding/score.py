"""Score an embedding model: rank a corpus for each query in bounded memory, or compare pairs of texts.

By cosine and exactly; or by the heads of bge-m3 in FlagEmbedding.
"""

from __future__ import annotations

import argparse
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.workers.batches import Reader
from orchestrator.workers.embedding.model import build_text_reader, encode_texts, load_encoder, normalize
from orchestrator.workers.engines import flagembedding
from orchestrator.workers.eval_files import Text, TextPair, is_pair_file, read_corpus, read_queries, read_text_pairs
from orchestrator.workers.failure import WorkerError
from orchestrator.workers.pool import open_reader
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
CANDIDATES = 100  # of a query, by the dense vector: ColBERT's vectors of a whole corpus fill the memory
# as the training adds them up (EncoderOnlyEmbedderM3Model.ensemble_score): dense, sparse, ColBERT
WEIGHTS = [1.0, 0.3, 1.0]
Ranked = list[tuple[int, float]]
NAMES = {"colbert": "colbert", "sum": "colbert+sparse+dense"}  # the part → FlagEmbedding's name of its scores


@dataclass(frozen=True)
class RetrievalJob:
    """Queries, and the corpus that they search, by cosine."""

    spec: EmbeddingSpec
    queries: list[Text]
    documents: list[Text]

    def fits(self, rows: list[dict[str, Any]]) -> bool:
        """Tell whether the rows are those of the queries, with documents of the corpus."""
        documents = {document.id for document in self.documents}
        found = list(dict.fromkeys(row["qid"] for row in rows))
        wanted = [query.id for query in self.queries]
        return found == wanted and all(row["docid"] in documents for row in rows) and all_scored(rows)

    def load(self, model: str, devices: Sequence[str]) -> Any:
        """Return the reader of the embedding model's texts."""
        return open_reader(model, self.spec, devices)

    def rank(self, loaded: Any, queries: list[str], documents: list[str]) -> tuple[Iterable[Ranked], dict[str, Any]]:
        """Return each query's documents, as places in the corpus with their scores, the best first; and facts."""
        vectors = encode_texts(loaded, [*queries, *documents])
        nearest = find_nearest(vectors[: len(queries)], vectors[len(queries) :], DEPTH)
        ranked = (list(zip(places.tolist(), scores.tolist(), strict=True)) for places, scores in nearest)
        return ranked, {"dims": int(vectors.shape[1]), **loaded.facts}

    def score(self, loaded: Any, kept: Path | None = None) -> Scored:  # noqa: ARG002  texts are read anew
        """Return the best `DEPTH` documents of the corpus for each query."""
        queries = [self.spec.wrap_query(query.text) for query in self.queries]
        documents = [self.spec.wrap_document(document.text) for document in self.documents]
        ranked, facts = self.rank(loaded, queries, documents)
        rows: list[dict[str, Any]] = [
            {"qid": query.id, "docid": self.documents[place].id, "score": score}
            for query, found in zip(self.queries, ranked, strict=True)
            for place, score in found
        ]
        facts |= {"kind": "retrieval", "queries": len(queries), "documents": len(documents), "depth": DEPTH}
        spread = describe_range([row["score"] for row in rows], SAME_COSINE)
        return Scored(rows, {**facts, **spread}, "texts", facts.get("texts", len(queries) + len(documents)))


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


# By bge-m3's heads: sparse weights, ColBERT vectors, or the sum of all


@dataclass(frozen=True)
class HeadsJob(RetrievalJob):
    """A retrieval by the head that the spec's `part` names."""

    def load(self, model: str, devices: Sequence[str]) -> Any:
        """Return BGEM3FlagModel, on the first device. Raises WorkerError for a folder without the heads."""
        return flagembedding.open_m3(model, self.spec, devices[0])

    def rank(self, loaded: Any, queries: list[str], documents: list[str]) -> tuple[Iterable[Ranked], dict[str, Any]]:
        """Return the documents of each query: of the whole corpus by sparse weights, else of its candidates."""
        sparse = self.spec.part == "sparse"
        asked = {"batch_size": self.spec.batch_size, "max_length": self.spec.max_length, "return_sparse": sparse}
        ours, theirs = (loaded.encode(texts, **asked) for texts in (queries, documents))
        facts = {"dtype_used": self.spec.dtype, "part": self.spec.part, "max_length": self.spec.max_length}
        if sparse:
            return rank_sparse(ours["lexical_weights"], theirs["lexical_weights"]), facts
        first, second = (normalize(one["dense_vecs"].astype("float32")) for one in (ours, theirs))
        nearest = [places.tolist() for places, _ in find_nearest(first, second, CANDIDATES)]
        return self.rank_candidates(loaded, queries, documents, nearest), facts

    def rank_candidates(
        self, loaded: Any, queries: Sequence[str], documents: Sequence[str], nearest: Sequence[Sequence[int]]
    ) -> Iterator[Ranked]:
        """Yield each query's candidates with their scores."""
        length = self.spec.max_length
        lengths = {"max_query_length": length, "max_passage_length": length, "batch_size": self.spec.batch_size}
        for query, places in zip(queries, nearest, strict=True):
            pairs = [(query, documents[place]) for place in places]
            scores = loaded.compute_score(pairs, weights_for_different_modes=WEIGHTS, **lengths)
            found = zip(places, map(float, scores[NAMES[str(self.spec.part)]]), strict=True)
            yield sorted(found, key=lambda one: (-one[1], one[0]))


def rank_sparse(
    queries: Sequence[dict[str, float]], documents: Sequence[dict[str, float]], count: int = DEPTH
) -> Iterator[Ranked]:
    """Yield, a query, its `count` best documents by lexical score (compute_lexical_matching_score), the best first.

    Documents that share no token with a query come last, with 0; equal scores in the order of positions. The scores of
    one query at a time are in memory.
    """
    import numpy as np

    postings: dict[str, tuple[array[int], array[float]]] = {}
    for place, weights in enumerate(documents):
        for token, weight in weights.items():
            places, found = postings.setdefault(token, (array("q"), array("d")))
            places.append(place)
            found.append(float(weight))
    for query in queries:
        scores = np.zeros(len(documents))
        for token, weight in query.items():
            places, found = postings.get(token, (array("q"), array("d")))
            scores[np.asarray(places)] += float(weight) * np.asarray(found)  # a document has a token once
        kept = _keep_best(scores, count)
        positions, best = _order_best(kept, scores[kept], count)
        yield list(zip(positions.tolist(), best.tolist(), strict=True))


@dataclass(frozen=True)
class TextPairJob:
    """Pairs of texts that are compared: the first is wrapped as a query, the second as a document."""

    spec: EmbeddingSpec
    pairs: list[TextPair]

    def fits(self, rows: list[dict[str, Any]]) -> bool:
        """Tell whether the rows are those of the pairs."""
        return [row["pid"] for row in rows] == [pair.id for pair in self.pairs] and all_scored(rows)

    def load(self, model: str, devices: Sequence[str]) -> Any:
        """Return the reader of the embedding model's texts."""
        return open_reader(model, self.spec, devices)

    def score(self, loaded: Reader, kept: Path | None = None) -> Scored:  # noqa: ARG002  texts are read anew
        """Return the cosine of each pair."""
        firsts = [self.spec.wrap_query(pair.text1) for pair in self.pairs]
        vectors = encode_texts(loaded, firsts + [self.spec.wrap_document(pair.text2) for pair in self.pairs])
        cosines = (vectors[: len(firsts)] * vectors[len(firsts) :]).sum(axis=1).tolist()
        rows = [{"pid": pair.id, "score": score} for pair, score in zip(self.pairs, cosines, strict=True)]
        facts = {"kind": "pair", "pairs": len(rows), "dims": int(vectors.shape[1]), **loaded.facts}
        return Scored(rows, {**facts, **describe_range(cosines, SAME_COSINE)}, "texts", loaded.facts["texts"])


def open_job(raw: dict[str, Any], options: argparse.Namespace) -> Job:
    """Return the job. Raises WorkerError for a bad spec, and for data that is not an eval file of either kind."""
    spec = parse_embedding_spec(raw, str(options.scoring))
    if options.corpus is not None:
        kind = HeadsJob if spec.part else RetrievalJob
        return kind(spec, read_queries(options.data), read_corpus(options.corpus))
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
    device = choose_device(device)
    reader = build_text_reader(load_encoder(str(model), spec, device, local_files_only=True), device)
    vectors = encode_texts(reader, [spec.wrap(one["kind"], one["text"]) for one in texts])
    return [one | {"vector": vector} for one, vector in zip(texts, vectors, strict=True)], {}
