"""What every way of scoring an eval file leaves: scores.jsonl and scoring.json, from the cache where they are kept."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.workers.folders import write_json, write_text
from orchestrator.workers.reranker.scoring import choose_device
from orchestrator.workers.score_cache import copy_entry, find_entry, keep_entry
from orchestrator.workers.versions import read_versions


@dataclass(frozen=True)
class Scoring:
    """One model scored by one spec into `out`; `entry` is where the cache keeps it, None without one."""

    model: str
    spec: dict[str, Any]
    device: str
    out: Path
    entry: Path | None

    def restore(self, fits: Callable[[list[dict[str, Any]]], bool]) -> bool:
        """Copy what the cache keeps into `out`, if `fits` says that its rows are right; tell whether it was done."""
        if self.entry is None or not copy_entry(self.entry, self.out, self.spec, fits):
            return False
        print(f"scored before with the same model, data and format: {self.entry}", flush=True)  # noqa: T201
        return True

    def write(self, rows: Iterable[dict[str, Any]], facts: dict[str, Any]) -> None:
        """Write the rows and, last, what was scored and how; keep both in the cache."""
        write_text(self.out / "scores.jsonl", "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
        named = {"version": 1, "model": self.model, "spec": self.spec, "device": self.device}
        write_json(self.out / "scoring.json", {**named, **facts, "versions": read_versions()})
        if self.entry is not None:
            keep_entry(self.entry, self.out)


def open_scoring(options: argparse.Namespace, raw: dict[str, Any], batch_size: int) -> Scoring:
    """Return what `options` ask for: model, data, out, device, and cache and corpus where they are given.

    Raises WorkerError for a device that is not there.
    """
    device, spec = choose_device(options.device), {**raw, "batch_size": batch_size}
    cache, corpus = getattr(options, "cache", None), getattr(options, "corpus", None)
    entry = find_entry(cache, options.model, spec, options.data, device, corpus) if cache else None
    return Scoring(str(options.model), spec, device, Path(options.out), entry)


def all_scored(rows: Iterable[dict[str, Any]]) -> bool:
    """Tell whether each row has a score, which is a number."""
    return all(isinstance(row["score"], (int, float)) for row in rows)


def describe_speed(unit: str, count: int, *, loading_s: float, scoring_s: float) -> dict[str, Any]:
    """Return the facts about time: seconds, and how many `unit` a second."""
    return {
        "loading_s": round(loading_s, 3),
        "scoring_s": round(scoring_s, 3),
        f"{unit}_per_s": round(count / scoring_s, 3) if scoring_s > 0 else None,
    }


def describe_range(scores: Sequence[float], same: float = 0.0) -> dict[str, Any]:
    """Return the facts about the scores; they are constant when they differ by no more than `same`."""
    lowest, highest = min(scores), max(scores)
    return {"min": lowest, "max": highest, "constant": highest - lowest <= same}
