"""Score an eval file with one model and one scoring spec: pairs, vectors or chats; ask a packaged model as it says."""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import math
import shutil
import sys
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from orchestrator.workers.failure import WorkerError
from orchestrator.workers.folders import parse_rows, write_json, write_text
from orchestrator.workers.kinds import KINDS
from orchestrator.workers.pool import DEVICE, choose_devices
from orchestrator.workers.score_store import FACTS, SCORES, copy_entry, describe_scoring, find_entry, keep_entry
from orchestrator.workers.specs import load_raw_spec

PREDICT = "Ask a packaged model as its scoring.json says: a score a pair, cosines or vectors of texts, or an answer."


@dataclass(frozen=True)
class Scored:
    """The rows of scores.jsonl, the facts of scoring.json, and how many of what (`unit`) took the whole time."""

    rows: list[dict[str, Any]]
    facts: dict[str, Any]
    unit: str = ""
    count: int = 0


class Job(Protocol):
    """The scoring of one eval file by one kind of model, read and checked before anything is loaded."""

    @property
    def spec(self) -> Any:
        """How the model is asked, and with how much at once (`batch_size`)."""

    def fits(self, rows: list[dict[str, Any]]) -> bool:
        """Tell whether kept rows are those of this eval file."""

    def load(self, model: str, devices: Sequence[str]) -> Any:
        """Return the model, shared by the devices or on the first one, and all that is made before the clock starts."""

    def score(self, loaded: Any, kept: Path | None = None) -> Scored:
        """Return the scores by what `load` gave; in `kept` are those that a stopped scoring has left."""


def require_finite(scores: Collection[float], unit: str) -> None:
    """Raise WorkerError for NaN or infinity among the scores of so many `unit`."""
    bad = sum(not math.isfinite(score) for score in scores)
    if bad:
        raise WorkerError(
            f"the model gives NaN or infinity for {bad} of {len(scores)} {unit}: "
            "its weights or its precision are broken"
        )


def import_scorer(raw: dict[str, Any]) -> Any:
    """Return the module that scores as a spec says, by `open_job` and `predict`; only its imports are paid for."""
    return importlib.import_module(f"orchestrator.workers.{KINDS.get(str(raw.get('scorer')), 'reranker')}.score")


def run(options: argparse.Namespace, raw: dict[str, Any]) -> None:
    """Write scores.jsonl and scoring.json (last) into `options.out`, from the cache where they are kept.

    Raises WorkerError for a spec, data or a model that cannot be used.
    """
    if options.batch_size:
        raw = {**raw, "batch_size": options.batch_size}
    job: Job = import_scorer(raw).open_job(raw, options)
    spec = {**raw, "batch_size": job.spec.batch_size}
    devices = choose_devices(options.device, options.data, options.corpus)
    # in the folder `kept` are the single scores of a scoring that was stopped
    kept = options.cache and find_entry(options.cache, options.model, spec, options.data, devices[0], options.corpus)
    entry = kept and kept.with_suffix(".jsonl")
    if entry and copy_entry(entry, options.out, spec, job.fits):
        print(f"scored before with the same model, data and format: {entry}", flush=True)  # noqa: T201
        return
    started = time.monotonic()
    model = job.load(options.model, devices)
    loaded = time.monotonic()
    scored = job.score(model, kept)
    speed = describe_speed(started, loaded, scored.unit, scored.count)
    write_text(options.out / SCORES, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in scored.rows))
    write_json(options.out / FACTS, {**describe_scoring(options.model, spec, devices[0]), **speed, **scored.facts})
    if kept and entry:
        keep_entry(entry, options.out)
        shutil.rmtree(kept, ignore_errors=True)


def describe_speed(started: float, loaded: float, unit: str = "", count: int = 0) -> dict[str, Any]:
    """Return the facts about time, up to now: seconds, and where a unit is named, how many a second."""
    scoring_s = time.monotonic() - loaded
    facts: dict[str, Any] = {"loading_s": round(loaded - started, 3), "scoring_s": round(scoring_s, 3)}
    if unit:
        facts[f"{unit}_per_s"] = round(count / scoring_s, 3) if scoring_s > 0 else None
    return facts


def build_parser(name: str, description: str | None, what_is_kept: str) -> argparse.ArgumentParser:
    """Return the parser of what every worker takes that scores."""
    parser = argparse.ArgumentParser(prog=f"workers {name}", description=description, allow_abbrev=False)
    parser.add_argument("--model", required=True, help="a folder or a hub id")
    parser.add_argument("--scoring", type=Path, required=True, help="the scoring spec, JSON")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--batch-size", type=int, help="the spec's by default")
    parser.add_argument("--device", help=DEVICE)
    parser.add_argument("--cache", type=Path, help=f"folder of scores that are kept {what_is_kept}")
    return parser


def main(argv: list[str]) -> int:
    """Write scores.jsonl and scoring.json into `--out`."""
    parser = build_parser("score", __doc__, "across runs")
    parser.add_argument("--data", type=Path, required=True, help="the canonical eval file, JSONL")
    parser.add_argument("--corpus", type=Path, help="the documents that a retrieval eval searches, JSONL")
    options = parser.parse_args(argv)
    run(options, load_raw_spec(options.scoring))
    return 0


def predict(argv: list[str]) -> int:
    """Read rows from standard input and write to standard output, one JSON line a row; cosines as one JSON array."""
    parser = argparse.ArgumentParser(prog="workers predict", description=PREDICT, allow_abbrev=False)
    parser.add_argument("--model", type=Path, required=True, help="a packaged folder, which holds scoring.json")
    parser.add_argument("--rows", type=Path, help="the rows, JSON Lines (default: standard input)")
    parser.add_argument("--device", help="cpu or cuda; the GPU when there is one")
    parser.add_argument("--vectors", action="store_true", help="an embedding model's vectors instead of cosines")
    parser.add_argument("--trust-remote-code", action="store_true", help="run Python code that the folder brings along")
    options = parser.parse_args(argv)
    # the folder says how its model is asked, and never what it may do
    raw = {**load_raw_spec(options.model / "scoring.json"), "trust_remote_code": options.trust_remote_code}
    embeds = raw.get("scorer") == "embedding"
    if options.vectors and not embeds:
        raise WorkerError(f"--vectors: {options.model} is not an embedding model (its scorer is {raw.get('scorer')})")
    stream = options.rows.open(encoding="utf-8") if options.rows else sys.stdin
    rows = list(parse_rows(stream, "line ", "a JSON object"))
    # standard output is for answers: what libraries print while they load goes to standard error
    with contextlib.redirect_stdout(sys.stderr):
        found, facts = import_scorer(raw).predict(options.model, raw, rows, options.device)
    if facts and options.rows:  # for orch, which says what was cut; a pipe gets scores alone
        sys.stdout.write(f"orch-facts {json.dumps(facts)}\n")
    if embeds and not options.vectors:
        queries, documents = ([one for one in found if one["kind"] == kind] for kind in ("query", "document"))
        cosines = [
            {"query": query["text"], "document": document["text"], "score": float(query["vector"] @ document["vector"])}
            for query in queries
            for document in documents
        ]
        sys.stdout.write(json.dumps(cosines, ensure_ascii=False) + "\n")
        return 0
    if embeds:
        found = [{"text": one["text"], "vector": one["vector"].tolist()} for one in found]
    sys.stdout.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in found)
    return 0
