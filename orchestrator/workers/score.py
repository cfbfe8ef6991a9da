"""Score an eval file with one model and one scoring spec: here each (query, document), elsewhere vectors and chats."""

from __future__ import annotations

import argparse
import importlib
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from orchestrator.workers.failure import WorkerError
from orchestrator.workers.progress import Progress
from orchestrator.workers.reranker.ranking_groups import Candidate, read_candidates
from orchestrator.workers.reranker.scoring import Scorer, load_scorer
from orchestrator.workers.reranker.scoring_spec import load_raw_spec, parse_spec
from orchestrator.workers.score_files import all_scored, describe_range, describe_speed, open_scoring

# FlagEmbedding runs the first batch of every call twice to find a batch size that fits: calls grow until they take this
CALL_S = 3.0
MAX_CALL_BATCHES = 32

# scorer → the module of this folder whose `run(options, raw)` does everything; the others score pairs, here
RUNNERS = {"embedding": "embedding.score", "chat": "chat.score"}

Key = tuple[str, str, str | None]


def key_of(candidate: Candidate) -> Key:
    """Return what decides a candidate's score."""
    return candidate.query, candidate.document, candidate.prompt


def order_unique(candidates: Sequence[Candidate]) -> list[Key]:
    """Return the distinct pairs, one prompt after the other, the longest first: memory runs out early or never."""
    return sorted(
        dict.fromkeys(map(key_of, candidates)),
        key=lambda key: (key[2] or "", -len(key[0]) - len(key[1]), key[0], key[1]),
    )


def take_calls(keys: Sequence[Key], batch_size: int, clock: Any = time.monotonic) -> Iterator[list[Key]]:
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


def score_candidates(scorer: Scorer, candidates: Sequence[Candidate], batch_size: int) -> list[float]:
    """Return one score a candidate, in order; equal pairs are scored once. Raises WorkerError for NaN or infinity."""
    keys = order_unique(candidates)
    progress = Progress(total=len(keys))
    scores: dict[Key, float] = {}
    for call in take_calls(keys, batch_size):
        values = scorer.score([(query, document) for query, document, _ in call], call[0][2])
        scores.update(zip(call, values, strict=True))
        progress.advance(len(call))
    bad = sum(not math.isfinite(value) for value in scores.values())
    if bad:
        raise WorkerError(
            f"the model gives NaN or infinity for {bad} of {len(keys)} pairs: its weights or its precision are broken"
        )
    return [scores[key_of(candidate)] for candidate in candidates]


def main(argv: list[str]) -> int:
    """Write scores.jsonl and scoring.json into `--out`."""
    parser = argparse.ArgumentParser(prog="workers score", description=__doc__, allow_abbrev=False)
    parser.add_argument("--model", required=True, help="a folder or a hub id")
    parser.add_argument("--scoring", type=Path, required=True, help="the scoring spec, JSON")
    parser.add_argument("--data", type=Path, required=True, help="the canonical eval file, JSONL")
    parser.add_argument("--corpus", type=Path, help="the documents that a retrieval eval searches, JSONL")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--batch-size", type=int, help="the spec's by default")
    parser.add_argument("--device", help="cpu or cuda; the GPU when there is one")
    parser.add_argument("--cache", type=Path, help="folder of scores that are kept across runs")
    options = parser.parse_args(argv)

    raw = load_raw_spec(options.scoring)
    runner = RUNNERS.get(str(raw.get("scorer")))
    if runner is not None:
        # by name: only this kind's imports are paid for
        importlib.import_module(f"orchestrator.workers.{runner}").run(options, raw)
        return 0
    spec = parse_spec(raw, str(options.scoring))
    if options.batch_size:
        spec = replace(spec, batch_size=options.batch_size)
    candidates = read_candidates(options.data)
    scoring = open_scoring(options, raw, spec.batch_size)
    wanted = [(candidate.qid, candidate.docid) for candidate in candidates]
    if scoring.restore(lambda rows: [(row["qid"], row["docid"]) for row in rows] == wanted and all_scored(rows)):
        return 0
    started = time.monotonic()
    scorer = load_scorer(options.model, spec, scoring.device)
    loaded = time.monotonic()
    scores = score_candidates(scorer, candidates, spec.batch_size)
    scoring_s = time.monotonic() - loaded
    pairs = len(order_unique(candidates))
    scoring.write(
        (
            {"qid": candidate.qid, "docid": candidate.docid, "score": score}
            for candidate, score in zip(candidates, scores, strict=True)
        ),
        {
            "groups": len({candidate.qid for candidate in candidates}),
            "pairs": len(candidates),
            "unique_pairs": pairs,
            **describe_speed("pairs", pairs, loading_s=loaded - started, scoring_s=scoring_s),
            **describe_range(scores),
            **scorer.facts,
        },
    )
    return 0
