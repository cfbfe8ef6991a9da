"""Score a file of (query, document) pairs with a teacher; each score is kept as it comes, so that a stop costs little.

Reads {"pid", "query", "document"} lines; writes scores.jsonl, {"pid", "score"} in their order, and scoring.json.
"""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO

from orchestrator.workers import score_store
from orchestrator.workers.environment import Progress
from orchestrator.workers.eval_files import pick_texts
from orchestrator.workers.failure import WorkerError
from orchestrator.workers.folders import open_fresh, write_json
from orchestrator.workers.pool import choose_devices, open_reader
from orchestrator.workers.reranker.scoring import Key, Scorer, build_scorer, parse_scorer
from orchestrator.workers.score import build_parser, describe_speed
from orchestrator.workers.score_store import FACTS, SCORES, Journal, digest_key, find_entry, open_journal
from orchestrator.workers.specs import load_raw_spec

BLOCK = 8192
_SHOWN = 60


@dataclass(frozen=True)
class PairFile:
    """The pairs of an open file, whose texts stay on disk: by digest the length and the place of each one's first line.

    Texts decide what a pair is, not the id that a file gives it.
    """

    path: Path
    stream: BinaryIO
    firsts: dict[bytes, tuple[int, int]]

    def read(self, digest: bytes) -> dict[str, str]:
        """Return pid, query and document of a pair's first line."""
        self.stream.seek(self.firsts[digest][1])
        row: dict[str, str] = json.loads(self.stream.readline())
        return row

    def require_finite(self, found: Sequence[tuple[bytes, float]]) -> None:
        """Raise WorkerError, which names the pair, for a score of NaN or infinity."""
        for digest, score in found:
            if not math.isfinite(score):
                row = self.read(digest)
                self.stream.seek(0)
                line = self.stream.read(self.firsts[digest][1]).count(b"\n") + 1
                raise WorkerError(
                    f"{self.path}:{line}: pair {row['pid']}: the teacher gives {score} for the query "
                    f"{row['query'][:_SHOWN]!r} and the document {row['document'][:_SHOWN]!r}: its weights or its "
                    "precision are broken"
                )


def read_pair_file(path: Path) -> PairFile:
    """Return the pairs of a file. Raises WorkerError for a line that holds none, or a file without any."""
    try:
        stream = path.open("rb")
    except OSError as error:
        raise WorkerError(f"{path}: the pairs cannot be read: {error.strerror}") from error
    firsts: dict[bytes, tuple[int, int]] = {}
    offset = 0
    for number, raw in enumerate(stream, start=1):
        if raw.strip():
            try:
                row = json.loads(raw)
            except ValueError:
                row = None
            texts = pick_texts(row, ("pid", "query", "document")) if isinstance(row, dict) else None
            if texts is None:
                shape = '{"pid", "query", "document"} with three texts'
                raise WorkerError(f"{path}:{number}: not {shape}; write the pairs again")
            firsts.setdefault(digest_key(*texts[1:]), (len(texts[1]) + len(texts[2]), offset))
        offset += len(raw)
    if not firsts:
        raise WorkerError(f"{path}: nothing to score")
    return PairFile(path, stream, firsts)


def find_journal(kept: Path, model: str, raw: dict[str, Any], device: str) -> Path | None:
    """Return the folder of a teacher's scores. The batch size does not count: batches differ from run to run."""
    return find_entry(kept, model, {key: raw[key] for key in raw if key != "batch_size"}, None, device)


def score_missing(pairs: PairFile, journal: Journal, load: Callable[[], Scorer]) -> dict[str, Any]:
    """Score every pair that the journal has no score for, and return what the scorer says of itself and the times.

    The longest come first: memory runs out early or never. The teacher is loaded when there is something to score.
    `BLOCK` pairs are in memory, kept ones among them: batches are the same after a stop. Raises WorkerError, which
    names the pair, for NaN or infinity.
    """
    order = sorted(pairs.firsts, key=lambda digest: (-pairs.firsts[digest][0], pairs.firsts[digest][1]))
    scored_before = sum(digest in journal.scores for digest in order)
    progress = Progress(total=len(order))
    if scored_before:
        progress.advance(scored_before)
    facts: dict[str, Any] = {"scored_before": scored_before, "scored_now": len(order) - scored_before}
    if scored_before == len(order):
        return facts
    started = time.monotonic()
    scorer = load()
    loaded = time.monotonic()
    for first in range(0, len(order), BLOCK):
        block = order[first : first + BLOCK]
        known = {place for place, digest in enumerate(block) if digest in journal.scores}
        if len(known) == len(block):
            continue
        rows = map(pairs.read, block)
        keys = [Key(row["query"], row["document"]) for row in rows]
        for places, scores in scorer.score_keys(keys, known):
            found = [(block[place], score) for place, score in zip(places, scores, strict=True)]
            pairs.require_finite(found)
            journal.append(found)
            progress.advance(len(found))
    return {**facts, **describe_speed(started, loaded, "pairs", facts["scored_now"]), **scorer.reader.facts}


def write_scores(pairs: PairFile, scores: dict[bytes, float], out: Path) -> dict[str, Any]:
    """Write scores.jsonl whole, by rename, and return what its scores are like."""
    lowest, highest, total, count = math.inf, -math.inf, 0.0, 0
    with open_fresh(out / SCORES) as stream:
        pairs.stream.seek(0)
        for row in map(json.loads, filter(bytes.strip, pairs.stream)):
            score = scores[digest_key(row["query"], row["document"])]
            stream.write(json.dumps({"pid": row["pid"], "score": score}) + "\n")
            lowest, highest, total, count = min(lowest, score), max(highest, score), total + score, count + 1
    return {"pairs": count, "min": lowest, "mean": total / count, "max": highest, "constant": lowest == highest}


def main(argv: list[str]) -> int:
    """Write scores.jsonl and scoring.json into `--out`."""
    parser = build_parser("score_pairs", __doc__, "pair by pair, across runs")
    parser.add_argument("--pairs", type=Path, required=True, help='{"pid", "query", "document"} lines')
    options = parser.parse_args(argv)

    raw = load_raw_spec(options.scoring)
    if options.batch_size:
        raw = {**raw, "batch_size": options.batch_size}
    if raw.get("scorer") == "chat":
        raise WorkerError(f"{options.scoring}: a chat model gives no scores for pairs; name a reranker")
    pairs, devices = read_pair_file(options.pairs), choose_devices(options.device, options.pairs)
    spec, device = parse_scorer(raw, str(options.scoring)), devices[0]
    load = cache(lambda: build_scorer(open_reader(options.model, spec, devices), spec))
    entry = None
    if options.cache and (entry := find_journal(options.cache, options.model, raw, device)) is None:
        load()  # which fetches a hub's model: now its content is known
        entry = find_journal(options.cache, options.model, raw, device)
    with open_journal(entry, pairs.firsts) as journal:
        facts = score_missing(pairs, journal, load)
        spread = write_scores(pairs, journal.scores, options.out)
    if facts.get("head") == "new":
        sys.stderr.write(f"{options.model} has no trained head: its scores are random\n")
    facts |= {"unique_pairs": len(pairs.firsts), "cache": str(entry) if entry else None}
    write_json(options.out / FACTS, {**score_store.describe_scoring(options.model, raw, device), **spread, **facts})
    return 0
