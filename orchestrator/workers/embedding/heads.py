"""Rank by bge-m3's heads in FlagEmbedding's own BGEM3FlagModel: sparse weights, ColBERT vectors, or the sum of all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from orchestrator.workers.embedding.model import normalize
from orchestrator.workers.embedding.retrieval import DEPTH, SAME_COSINE, RetrievalJob, find_nearest
from orchestrator.workers.engines import flagembedding
from orchestrator.workers.score import Scored
from orchestrator.workers.score_store import describe_range
from orchestrator.workers.specs import EmbeddingSpec

CANDIDATES = 100  # of a query, by the dense vector: ColBERT's vectors of a whole corpus fill the memory
# as the training adds them up (EncoderOnlyEmbedderM3Model.ensemble_score): dense, sparse, ColBERT
WEIGHTS = [1.0, 0.3, 1.0]
NAMES = {"colbert": "colbert", "sum": "colbert+sparse+dense"}  # the part → FlagEmbedding's name of its scores


@dataclass(frozen=True)
class HeadsJob:
    """A retrieval by one of the heads."""

    search: RetrievalJob

    @property
    def spec(self) -> EmbeddingSpec:
        """The spec, whose `part` names the head."""
        return self.search.spec

    def fits(self, rows: list[dict[str, Any]]) -> bool:
        """Tell whether the rows are those of the queries, with documents of the corpus."""
        return self.search.fits(rows)

    def load(self, model: str, device: str) -> Any:
        """Return BGEM3FlagModel. Raises WorkerError for a folder without the heads."""
        return flagembedding.open_m3(model, self.spec, device)

    def score(self, loaded: Any) -> Scored:
        """Return the best documents of each query: of the whole corpus by sparse weights, else of its candidates."""
        queries = [self.spec.wrap_query(query.text) for query in self.search.queries]
        documents = [self.spec.wrap_document(document.text) for document in self.search.documents]
        sparse = self.spec.part == "sparse"
        ours = flagembedding.ask_m3(loaded, self.spec, queries, sparse=sparse, colbert=False)
        theirs = flagembedding.ask_m3(loaded, self.spec, documents, sparse=sparse, colbert=False)
        if sparse:
            ranked = rank_sparse(ours["lexical_weights"], theirs["lexical_weights"])
        else:
            nearest = [places.tolist() for places, _ in find_nearest(to_unit(ours), to_unit(theirs), CANDIDATES)]
            ranked = self.rank_candidates(loaded, queries, documents, nearest)
        rows: list[dict[str, Any]] = [
            {"qid": query.id, "docid": self.search.documents[place].id, "score": score}
            for query, found in zip(self.search.queries, ranked, strict=True)
            for place, score in sorted(found, key=lambda one: (-one[1], one[0]))[:DEPTH]
        ]
        sizes = {"kind": "retrieval", "queries": len(queries), "documents": len(documents), "depth": DEPTH}
        facts = {"dtype_used": self.spec.dtype, "part": self.spec.part, "max_length": self.spec.max_length}
        spread = describe_range([row["score"] for row in rows], SAME_COSINE)
        return Scored(rows, {**sizes, **facts, **spread}, "texts", len(queries) + len(documents))

    def rank_candidates(
        self, loaded: Any, queries: Sequence[str], documents: Sequence[str], nearest: Sequence[Sequence[int]]
    ) -> list[list[tuple[int, float]]]:
        """Return each query's candidates with their scores."""
        length = self.spec.max_length
        lengths = {"max_query_length": length, "max_passage_length": length, "batch_size": self.spec.batch_size}
        found = []
        for query, places in zip(queries, nearest, strict=True):
            pairs = [(query, documents[place]) for place in places]
            scores = loaded.compute_score(pairs, weights_for_different_modes=WEIGHTS, **lengths)
            found.append(list(zip(places, map(float, scores[NAMES[str(self.spec.part)]]), strict=True)))
        return found


def to_unit(found: dict[str, Any]) -> Any:
    """Return the dense vectors in unit length, float32."""
    import numpy as np

    return normalize(np.asarray(found["dense_vecs"], dtype=np.float32))


def rank_sparse(
    queries: Sequence[dict[str, float]], documents: Sequence[dict[str, float]]
) -> list[list[tuple[int, float]]]:
    """Return every document with its lexical score (compute_lexical_matching_score), query by query.

    Documents that share no token with a query come last, with 0.
    """
    postings: dict[str, list[tuple[int, float]]] = {}
    for place, weights in enumerate(documents):
        for token, weight in weights.items():
            postings.setdefault(token, []).append((place, float(weight)))
    found = []
    for query in queries:
        scores = [0.0] * len(documents)
        for token, weight in query.items():
            for place, other in postings.get(token, ()):
                scores[place] += float(weight) * other
        found.append(list(enumerate(scores)))
    return found
