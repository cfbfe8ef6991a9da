"""Score the candidates of ranking groups, each pair once; answer with one score a pair."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.workers.environment import Progress
from orchestrator.workers.eval_files import Candidate, read_candidates
from orchestrator.workers.failure import WorkerError
from orchestrator.workers.pool import open_reader
from orchestrator.workers.reranker.scoring import Key, Scorer, build_scorer, choose_device, load_scorer
from orchestrator.workers.score import Scored, require_finite
from orchestrator.workers.score_store import all_scored, describe_range, digest_key, open_journal
from orchestrator.workers.specs import ScoringSpec, parse_spec


@dataclass(frozen=True)
class PairJob:
    """The pairs of an eval file, in its order."""

    spec: ScoringSpec
    candidates: list[Candidate]

    def fits(self, rows: list[dict[str, Any]]) -> bool:
        """Tell whether the rows are those of the candidates, each with a score."""
        wanted = [(candidate.qid, candidate.docid) for candidate in self.candidates]
        return [(row["qid"], row["docid"]) for row in rows] == wanted and all_scored(rows)

    def load(self, model: str, devices: Sequence[str]) -> Scorer:
        """Return the scorer that the spec names."""
        return build_scorer(open_reader(model, self.spec, devices), self.spec)

    def score(self, loaded: Scorer, kept: Path | None = None) -> Scored:
        """Return one score a candidate."""
        scores = score_candidates(loaded, self.candidates, kept)
        rows = [
            {"qid": candidate.qid, "docid": candidate.docid, "score": score}
            for candidate, score in zip(self.candidates, scores, strict=True)
        ]
        unique = len({candidate[2:] for candidate in self.candidates})
        groups = len({candidate.qid for candidate in self.candidates})
        facts = {"groups": groups, "pairs": len(rows), "unique_pairs": unique, **describe_range(scores)}
        return Scored(rows, {**facts, **loaded.reader.facts}, "pairs", unique)


def open_job(raw: dict[str, Any], options: argparse.Namespace) -> PairJob:
    """Return the job. Raises WorkerError for a bad spec or eval file."""
    return PairJob(parse_spec(raw, str(options.scoring)), read_candidates(options.data))


def score_candidates(scorer: Scorer, candidates: Sequence[Candidate], kept: Path | None = None) -> list[float]:
    """Return one score a candidate, in order; equal pairs are scored once, and those in the folder `kept` not again.

    Raises WorkerError for NaN or infinity.
    """
    asked = [Key(*candidate[2:]) for candidate in candidates]
    # in an order of their own: the same pairs give the same batches in whatever order they come
    digests = {key: digest_key(*key) for key in sorted(set(asked), key=str)}
    keys, progress = list(digests), Progress(total=len(digests))
    with open_journal(kept, set(digests.values())) as journal:
        known = {place for place, digest in enumerate(digests.values()) if digest in journal.scores}
        progress.advance(len(known))
        for places, scores in scorer.score_keys(keys, known):
            journal.append([(digests[keys[place]], score) for place, score in zip(places, scores, strict=True)])
            progress.advance(len(places))
        require_finite(journal.scores.values(), "pairs")
        return [journal.scores[digests[key]] for key in asked]


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
    scores = scorer.score([(row["query"], row["document"]) for _, row in rows])
    require_finite(scores, "pairs")
    return [{"score": score} for score in scores], scorer.reader.facts
