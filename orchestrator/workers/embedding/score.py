"""Score an embedding model: rank a corpus for each query, or compare pairs of texts, by cosine; answer with either."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.workers.batches import Reader
from orchestrator.workers.embedding.model import build_text_reader, encode_texts, load_encoder
from orchestrator.workers.embedding.retrieval import EmbeddingJob, HeadsJob, RetrievalJob, finish
from orchestrator.workers.eval_files import TextPair, is_pair_file, read_corpus, read_queries, read_text_pairs
from orchestrator.workers.failure import WorkerError
from orchestrator.workers.reranker.scoring import choose_device
from orchestrator.workers.score import Job, Scored
from orchestrator.workers.score_store import all_scored
from orchestrator.workers.specs import parse_embedding_spec


@dataclass(frozen=True)
class TextPairJob(EmbeddingJob):
    """Pairs of texts that are compared: the first is wrapped as a query, the second as a document."""

    pairs: list[TextPair]

    def fits(self, rows: list[dict[str, Any]]) -> bool:
        """Tell whether the rows are those of the pairs."""
        return [row["pid"] for row in rows] == [pair.id for pair in self.pairs] and all_scored(rows)

    def score(self, loaded: Reader, kept: Path | None = None) -> Scored:  # noqa: ARG002  texts are read anew
        """Return the cosine of each pair."""
        texts = ([pair.text1 for pair in self.pairs], [pair.text2 for pair in self.pairs])
        firsts, seconds, facts = self.embed(loaded, *texts)
        cosines = (firsts * seconds).sum(axis=1).tolist()
        rows = [{"pid": pair.id, "score": score} for pair, score in zip(self.pairs, cosines, strict=True)]
        return finish(rows, loaded, {"kind": "pair", "pairs": len(rows), **facts})


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
