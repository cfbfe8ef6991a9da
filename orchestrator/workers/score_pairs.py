"""Score a file of (query, document) pairs with a teacher; each score is kept as it comes, so that a stop costs little.

Reads {"pid", "query", "document"} lines; writes scores.jsonl, {"pid", "score"} in their order, and scoring.json.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.workers.failure import WorkerError
from orchestrator.workers.folders import open_fresh, write_json
from orchestrator.workers.pair_file import PairFile, read_pair_file
from orchestrator.workers.progress import Progress
from orchestrator.workers.reranker.scoring import Scorer, choose_device, load_scorer
from orchestrator.workers.reranker.scoring_spec import load_raw_spec, parse_spec
from orchestrator.workers.score import take_calls
from orchestrator.workers.score_cache import find_entry
from orchestrator.workers.score_journal import Journal, open_journal
from orchestrator.workers.versions import read_versions

if TYPE_CHECKING:
    from orchestrator.workers.score import Key

BLOCK = 8192
_SHOWN = 60


@dataclass(frozen=True)
class Teacher:
    """A model that is loaded when the first pair needs it, and how many pairs it takes at once."""

    model: str
    raw: dict[str, Any]
    origin: str
    device: str

    @property
    def batch_size(self) -> int:
        """Pairs (for an embedding model: texts) of one batch."""
        return int(self.raw.get("batch_size") or 32)

    def load(self) -> Scorer:
        """Return the scorer of the spec. Raises WorkerError for a spec that scores no pairs."""
        if self.raw.get("scorer") == "embedding":
            return load_cosines(self.model, self.raw, self.origin, self.device)
        spec = replace(parse_spec(self.raw, self.origin), batch_size=self.batch_size)
        return load_scorer(self.model, spec, self.device)


def load_cosines(model: str, raw: dict[str, Any], origin: str, device: str) -> Scorer:
    """Return the cosine of an embedding model's query and document vectors."""
    from orchestrator.workers.embedding.model import load_encoder, normalize
    from orchestrator.workers.embedding.spec import parse_spec as parse_embedding_spec

    spec = parse_embedding_spec(raw, origin)
    encoder = load_encoder(model, spec, device)

    def embed(texts: list[str]) -> dict[str, Any]:
        vectors = encoder.model.encode(texts, batch_size=spec.batch_size, prompt="", show_progress_bar=False)
        return dict(zip(texts, normalize(vectors[:, : spec.truncate_dim]), strict=True))

    def score(pairs: Sequence[tuple[str, str]], _prompt: str | None = None) -> list[float]:
        wrapped = [(spec.wrap_query(query), spec.wrap_document(document)) for query, document in pairs]
        queries = embed(list(dict.fromkeys(query for query, _ in wrapped)))
        documents = embed(list(dict.fromkeys(document for _, document in wrapped)))
        return [float(queries[query] @ documents[document]) for query, document in wrapped]

    return Scorer(score, encoder.facts)


def take_places(
    pairs: PairFile, places: Sequence[int], batch_size: int
) -> Iterator[tuple[Sequence[int], list[tuple[str, str]]]]:
    """Yield the places and the texts of each call to the scorer; `BLOCK` pairs are in memory."""
    for first in range(0, len(places), BLOCK):
        block, start = places[first : first + BLOCK], 0
        keys: list[Key] = [(*pairs.read(place), None) for place in block]
        for call in take_calls(keys, batch_size):
            yield block[start : start + len(call)], [(query, document) for query, document, _ in call]
            start += len(call)


def score_missing(teacher: Teacher, pairs: PairFile, journal: Journal, scorer: Scorer | None) -> dict[str, Any]:
    """Score every pair that the journal has no score for, and return what the scorer says of itself and the times.

    The teacher is loaded, unless `scorer` is it, when there is something to score.

    Raises WorkerError, which names the pair, for NaN or infinity.
    """
    missing = pairs.order_longest_first(journal.scores)
    scored_before = len(pairs.digests) - len(missing)
    progress = Progress(total=len(pairs.digests))
    if scored_before:
        progress.advance(scored_before)
    facts: dict[str, Any] = {"scored_before": scored_before, "scored_now": len(missing)}
    if not missing:
        return facts
    started = time.monotonic()
    scorer = scorer or teacher.load()
    loaded = time.monotonic()
    for places, texts in take_places(pairs, missing, teacher.batch_size):
        values = scorer.score(texts, None)
        journal.append([(pairs.digest(place), score) for place, score in _finite(pairs, places, values)])
        progress.advance(len(places))
    scoring_s = time.monotonic() - loaded
    return {
        **facts,
        "loading_s": round(loaded - started, 3),
        "scoring_s": round(scoring_s, 3),
        "pairs_per_s": round(len(missing) / scoring_s, 3) if scoring_s > 0 else None,
        **scorer.facts,
    }


def _finite(pairs: PairFile, places: Sequence[int], values: list[float]) -> Iterator[tuple[int, float]]:
    for place, value in zip(places, values, strict=True):
        if not math.isfinite(value):
            query, document = (text[:_SHOWN] for text in pairs.read(place))
            raise WorkerError(
                f"{pairs.where(place)}: the teacher gives {value} for the query {query!r} and the document "
                f"{document!r}: its weights or its precision are broken"
            )
        yield place, value


def write_scores(pairs: PairFile, scores: dict[bytes, float], out: Path) -> dict[str, Any]:
    """Write scores.jsonl whole, by rename, and return what its scores are like."""
    lowest, highest, total, count = math.inf, -math.inf, 0.0, 0
    with open_fresh(out / "scores.jsonl") as stream:
        for pid, key in pairs.identified():
            score = scores[key]
            stream.write(json.dumps({"pid": pid, "score": score}) + "\n")
            lowest, highest, total, count = min(lowest, score), max(highest, score), total + score, count + 1
    return {"pairs": count, "min": lowest, "mean": total / count, "max": highest, "constant": lowest == highest}


def main(argv: list[str]) -> int:
    """Write scores.jsonl and scoring.json into `--out`."""
    parser = argparse.ArgumentParser(prog="workers score_pairs", description=__doc__, allow_abbrev=False)
    parser.add_argument("--model", required=True, help="a folder or a hub id")
    parser.add_argument("--scoring", type=Path, required=True, help="the scoring spec, JSON")
    parser.add_argument("--pairs", type=Path, required=True, help='{"pid", "query", "document"} lines')
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--batch-size", type=int, help="the spec's by default")
    parser.add_argument("--device", help="cpu or cuda; the GPU when there is one")
    parser.add_argument("--cache", type=Path, help="folder of scores that are kept pair by pair, across runs")
    options = parser.parse_args(argv)

    raw = load_raw_spec(options.scoring)
    if options.batch_size:
        raw = {**raw, "batch_size": options.batch_size}
    if raw.get("scorer") == "chat":
        raise WorkerError(f"{options.scoring}: a chat model gives no scores for pairs; name a reranker")
    teacher = Teacher(options.model, raw, str(options.scoring), choose_device(options.device))
    pairs = read_pair_file(options.pairs)
    entry, scorer = None, None
    if options.cache and (entry := find_journal(options.cache, teacher)) is None:
        scorer = teacher.load()  # which fetches a hub's model: now its content is known
        entry = find_journal(options.cache, teacher)
    with open_journal(entry, pairs.digests) as journal:
        facts = score_missing(teacher, pairs, journal, scorer)
        spread = write_scores(pairs, journal.scores, options.out)
    if facts.get("head") == "new":
        sys.stderr.write(f"{options.model} has no trained head: its scores are random\n")
    write_json(
        options.out / "scoring.json",
        {
            "version": 1,
            "model": options.model,
            "spec": raw,
            "device": teacher.device,
            "unique_pairs": len(pairs.digests),
            **spread,
            **facts,
            "versions": read_versions(),
            "cache": str(entry) if entry else None,
        },
    )
    return 0


def find_journal(cache: Path, teacher: Teacher) -> Path | None:
    """Return the folder of this teacher's scores. The batch size does not count: batches differ from run to run."""
    deciding = {key: value for key, value in teacher.raw.items() if key != "batch_size"}
    return find_entry(cache, teacher.model, deciding, None, teacher.device)
