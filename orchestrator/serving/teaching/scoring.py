"""What `orch data score` does: pairs are taken from the rows, a teacher scores them, the rows get the scores."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.checks.model_files import find_oddities
from orchestrator.data.teacher import PAIRS_NAME, Counts, Rows, join_scores, write_pairs
from orchestrator.machine.places import find_orch_cache
from orchestrator.serving.teaching.foreground import run_worker
from orchestrator.serving.teaching.model_choice import ModelChoice, build_spec, require_chosen_load
from orchestrator.serving.teaching.work_files import build_flags, load_json, require_fresh, write_json


@dataclass(frozen=True)
class Scored:
    """What scoring gave: the rows, what the worker says of the scores and of itself, and what is odd in the model."""

    counts: Counts
    scoring: dict[str, Any]  # the worker's scoring.json
    cautions: tuple[str, ...]


def score_files(
    rows: Rows,
    teacher: ModelChoice,
    out: Path,
    *,
    device: str | None = None,
    force: bool = False,
    on_progress: Callable[[int, int], None] | None = None,
) -> Scored:
    """Write the rows to the new file `out` with a teacher score a document; a stop costs little, for scores are kept.

    Raises DataError for rows that cannot be scored, PreflightError for a model that cannot score, and what `run_worker`
    raises.
    """
    require_fresh([out], rows.files, force=force)
    chosen = build_spec(teacher, "teacher")
    require_chosen_load([chosen])
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.") as folder:
        work = Path(folder)
        write_pairs(rows, work)
        files = {
            "--scoring": write_json(work / "scoring.json", chosen.spec),
            "--pairs": work / PAIRS_NAME,
            "--out": work / "out",
        }
        run_worker(
            "score_pairs",
            [
                "--model",
                chosen.model.location,
                *build_flags(files),
                "--cache",
                find_orch_cache() / "teacher",
                *build_flags({"--device": device}),
            ],
            offline=chosen.model.is_local,
            env=teacher.permissions.env,
            on_progress=on_progress,
            if_stopped="give the same command again and it continues: the scores so far are kept",
        )
        counts = join_scores(rows, work / "out" / "scores.jsonl", out)
        cautions = tuple(odd.message for odd in find_oddities(chosen.model))
        return Scored(counts, load_json(work / "out" / "scoring.json"), cautions)
