"""Requires of a stage's scores that every row has one, and that they are finite."""

from __future__ import annotations

import math
from collections.abc import Container, Mapping, Sequence
from pathlib import Path

from orchestrator.errors import RunFolderError, StageFailedError, Where


def require_all(path: Path, scored: Container[str], ids: Sequence[str], unit: str) -> None:
    """Raise RunFolderError where a row has no score: a pair or a chat row has no value that stands for none."""
    if absent := [row for row in ids if row not in scored]:
        raise RunFolderError(
            f"{len(absent)} of {len(ids)} {unit}s have no score (the first: {absent[0]})",
            hint="the scoring was cut short: remove the stage's result.json and run orch resume",
            where=Where(str(path)),
        )


def require_finite(scores: Mapping[str, float]) -> None:
    """Raise StageFailedError for {row: score} with NaN or infinity."""
    bad = [row for row, score in scores.items() if not math.isfinite(score)]
    if bad:
        raise StageFailedError(
            f"{len(bad)} scores are not finite numbers (the first: {scores[bad[0]]} for {bad[0]})",
            hint="the model computes NaN or infinity: its training diverged, or its dtype overflows; try float32",
        )
