"""Score an eval file with one model and one scoring spec: each (query, document), vectors, or chats."""

from __future__ import annotations

import argparse
import importlib
import math
import time
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from orchestrator.workers.failure import WorkerError
from orchestrator.workers.kinds import KINDS
from orchestrator.workers.score_store import open_scoring
from orchestrator.workers.specs import load_raw_spec


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

    def load(self, model: str, device: str) -> Any:
        """Return the model, and what else is made before the clock of scoring starts."""

    def score(self, loaded: Any) -> Scored:
        """Return the scores by what `load` gave."""


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
    scoring = open_scoring(options, {**raw, "batch_size": job.spec.batch_size})
    if scoring.restore(job.fits):
        return
    started = time.monotonic()
    model = job.load(options.model, scoring.device)
    loaded = time.monotonic()
    scored = job.score(model)
    speed = describe_speed(started, loaded, scored.unit, scored.count)
    scoring.write(scored.rows, {**speed, **scored.facts})


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
    parser.add_argument("--device", help="cpu or cuda; the GPU when there is one")
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
