"""Score an embedding model: rank a corpus for each query, or compare pairs of texts, by cosine."""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from orchestrator.workers.embedding.data import is_pair_file, read_corpus, read_queries, read_text_pairs
from orchestrator.workers.embedding.model import Encoder, encode_texts, load_encoder
from orchestrator.workers.embedding.search import find_nearest
from orchestrator.workers.embedding.spec import EmbeddingSpec, parse_spec
from orchestrator.workers.failure import WorkerError
from orchestrator.workers.reranker.scoring import choose_device
from orchestrator.workers.score_files import all_scored, describe_range, describe_speed, open_scoring

# documents of a query that are written; the measures look at fewer
DEPTH = 1000
# cosines that differ by less than float32 rounds away are equal
SAME_COSINE = 1e-6


@dataclass(frozen=True)
class Scored:
    """The rows of scores.jsonl, their scores, and what was read: texts, texts that were cut, dimensions, counts."""

    rows: list[dict[str, Any]]
    scores: list[float]
    facts: dict[str, Any]


def score_retrieval(encoder: Encoder, data: Path, corpus: Path) -> Scored:
    """Return the best `DEPTH` documents of the corpus for each query."""
    spec, queries, documents = encoder.spec, read_queries(data), read_corpus(corpus)
    texts = [spec.wrap_query(query.text) for query in queries]
    texts += [spec.wrap_document(document.text) for document in documents]
    vectors, cut = encode_texts(encoder, texts, spec.batch_size)
    nearest = find_nearest(vectors[: len(queries)], vectors[len(queries) :], DEPTH)
    rows = [
        {"qid": query.id, "docid": documents[position].id, "score": score}
        for query, (positions, scores) in zip(queries, nearest, strict=True)
        for position, score in zip(positions.tolist(), scores.tolist(), strict=True)
    ]
    facts = {"kind": "retrieval", "queries": len(queries), "documents": len(documents), "depth": DEPTH}
    return gather(rows, {**facts, **describe(texts, cut, vectors)})


def score_text_pairs(encoder: Encoder, data: Path) -> Scored:
    """Return the cosine of each pair; the first text is wrapped as a query, the second as a document."""
    spec, pairs = encoder.spec, read_text_pairs(data)
    texts = [spec.wrap_query(pair.text1) for pair in pairs] + [spec.wrap_document(pair.text2) for pair in pairs]
    vectors, cut = encode_texts(encoder, texts, spec.batch_size)
    cosines = (vectors[: len(pairs)] * vectors[len(pairs) :]).sum(axis=1)
    rows = [{"pid": pair.id, "score": score} for pair, score in zip(pairs, cosines.tolist(), strict=True)]
    return gather(rows, {"kind": "pair", "pairs": len(pairs), **describe(texts, cut, vectors)})


def describe(texts: Sequence[str], cut: int, vectors: Any) -> dict[str, Any]:
    """Return what every scoring.json says of the texts and their vectors."""
    return {"texts": len(set(texts)), "texts_cut": cut, "dims": int(vectors.shape[1])}


def fits(rows: list[dict[str, Any]], options: argparse.Namespace) -> bool:
    """Tell whether kept rows are those of the pairs, or of the queries and documents, that are asked for."""
    if options.corpus is None:
        return [row["pid"] for row in rows] == [pair.id for pair in read_text_pairs(options.data)] and all_scored(rows)
    documents = {document.id for document in read_corpus(options.corpus)}
    queries = [query.id for query in read_queries(options.data)]
    found = list(dict.fromkeys(row["qid"] for row in rows))
    return found == queries and all(row["docid"] in documents for row in rows) and all_scored(rows)


def gather(rows: list[dict[str, Any]], facts: dict[str, Any]) -> Scored:
    """Return the rows with their scores taken out."""
    return Scored(rows, [row["score"] for row in rows], facts)


def run(options: argparse.Namespace, raw: dict[str, Any]) -> None:
    """Write scores.jsonl and scoring.json into `options.out`. Raises WorkerError for data that is not an eval file."""
    spec = parse_spec(raw, str(options.scoring))
    if options.batch_size:
        spec = replace(spec, batch_size=options.batch_size)
    if options.corpus is None and not is_pair_file(options.data):
        raise WorkerError(f"{options.data}: queries of a retrieval eval need --corpus, the documents that they search")
    scoring = open_scoring(options, raw, spec.batch_size)
    if scoring.restore(lambda rows: fits(rows, options)):
        return
    started = time.monotonic()
    encoder = load_encoder(options.model, spec, scoring.device)
    loaded = time.monotonic()
    if options.corpus is None:
        scored = score_text_pairs(encoder, options.data)
    else:
        scored = score_retrieval(encoder, options.data, options.corpus)
    scoring_s = time.monotonic() - loaded
    speed = describe_speed("texts", scored.facts["texts"], loading_s=loaded - started, scoring_s=scoring_s)
    facts = {**scored.facts, **speed, **describe_range(scored.scores, SAME_COSINE), **encoder.facts}
    scoring.write(scored.rows, facts)


def embed_rows(model: Path, spec: EmbeddingSpec, texts: Sequence[tuple[str, str]], device: str) -> Any:
    """Return the unit vectors of (kind, text) rows, kind `query` or `document`, from a packaged folder."""
    encoder = load_encoder(str(model), spec, choose_device(device), local_files_only=True)
    return encode_texts(encoder, [spec.wrap(kind, text) for kind, text in texts], spec.batch_size)[0]
