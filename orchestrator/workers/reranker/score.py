"""Score the candidates of ranking groups, each pair once; answer with one score a pair."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.workers.environment import Progress
from orchestrator.workers.eval_files import Candidate, read_candidates
from orchestrator.workers.failure import WorkerError
from orchestrator.workers.reranker.scoring import Scorer, choose_device, load_scorer
from orchestrator.workers.score import Scored, require_finite
from orchestrator.workers.score_store import all_scored, describe_range
from orchestrator.workers.specs import ScoringSpec, parse_spec

# FlagEmbedding runs the first batch of every call twice to find a batch size that fits: calls grow until they take this
CALL_S = 3.0
MAX_CALL_BATCHES = 32

Key = tuple[str, str, str | None]  # query, document and prompt, which decide a score


@dataclass(frozen=True)
class PairJob:
    """The pairs of an eval file, in its order."""

    spec: ScoringSpec
    candidates: list[Candidate]

    def fits(self, rows: list[dict[str, Any]]) -> bool:
        """Tell whether the rows are those of the candidates, each with a score."""
        wanted = [(candidate.qid, candidate.docid) for candidate in self.candidates]
        return [(row["qid"], row["docid"]) for row in rows] == wanted and all_scored(rows)

    def load(self, model: str, device: str) -> Scorer:
        """Return the scorer that the spec names."""
        return load_scorer(model, self.spec, device)

    def score(self, loaded: Scorer) -> Scored:
        """Return one score a candidate."""
        scores = score_candidates(loaded, self.candidates, self.spec.batch_size)
        rows = [
            {"qid": candidate.qid, "docid": candidate.docid, "score": score}
            for candidate, score in zip(self.candidates, scores, strict=True)
        ]
        unique = len(set(map(key_of, self.candidates)))
        groups = len({candidate.qid for candidate in self.candidates})
        facts = {"groups": groups, "pairs": len(rows), "unique_pairs": unique, **describe_range(scores)}
        return Scored(rows, {**facts, **loaded.facts}, "pairs", unique)


def open_job(raw: dict[str, Any], options: argparse.Namespace) -> PairJob:
    """Return the job. Raises WorkerError for a bad spec or eval file."""
    return PairJob(parse_spec(raw, str(options.scoring)), read_candidates(options.data))


def key_of(candidate: Candidate) -> Key:
    """Return what decides a candidate's score."""
    return candidate.query, candidate.document, candidate.prompt


def score_candidates(scorer: Scorer, candidates: Sequence[Candidate], batch_size: int) -> list[float]:
    """Return one score a candidate, in order; equal pairs are scored once, one prompt after the other.

    The longest come first: memory runs out early or never. Raises WorkerError for NaN or infinity.
    """
    keys = sorted(
        dict.fromkeys(map(key_of, candidates)),
        key=lambda key: (key[2] or "", -len(key[0]) - len(key[1]), key[0], key[1]),
    )
    progress = Progress(total=len(keys))
    scores: dict[Key, float] = {}
    for call in take_calls(keys, batch_size):
        values = scorer.score([(query, document) for query, document, _ in call], call[0][2])
        scores.update(zip(call, values, strict=True))
        progress.advance(len(call))
    require_finite(scores.values(), "pairs")
    return [scores[key_of(candidate)] for candidate in candidates]


def take_calls(
    keys: Sequence[Key], batch_size: int, clock: Callable[[], float] = time.monotonic
) -> Iterator[list[Key]]:
    """Yield runs of pairs that share a prompt, each call twice as long as the one before while calls are quick."""
    batches, start = 1, 0
    while start < len(keys):
        prompt = keys[start][2]
        run = [key for key in keys[start : start + batches * batch_size] if key[2] == prompt]
        started = clock()
        yield run
        start += len(run)
        if clock() - started < CALL_S and batches < MAX_CALL_BATCHES:
            batches *= 2


def predict(
    model: Path, raw: dict[str, Any], rows: Sequence[tuple[str, dict[str, Any]]], device: str | None
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Return one score a pair, and what was cut. Raises WorkerError for a row that is not a pair, NaN and infinity."""
    spec = parse_spec(raw, str(model / "scoring.json"))
    for where, row in rows:
        if not {"query", "document"} <= row.keys():
            raise WorkerError(f'{where}: not {{"query": …, "document": …}}')
        if not isinstance(row["query"], str) or not isinstance(row["document"], str):
            raise WorkerError(f"{where}: query and document must be strings")
    if not rows:
        return [], {}
    scorer = load_scorer(str(model), spec, choose_device(device))
    scores = scorer.score([(row["query"], row["document"]) for _, row in rows], None)
    require_finite(scores, "pairs")
    return [{"score": score} for score in scores], scorer.facts
