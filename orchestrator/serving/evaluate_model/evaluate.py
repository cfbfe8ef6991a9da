"""Models and data → metrics.json: read the data, score every model, measure all on the same rows, compare."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from orchestrator.checks.model_files import find_oddities
from orchestrator.errors import DataError, Problem, RunFolderError
from orchestrator.evaluation.eval_sets import describe_eval, load_eval
from orchestrator.evaluation.measures import GROUP, PAIR, check_metrics, default_metrics
from orchestrator.evaluation.metrics import (
    BASELINE,
    METRICS_VERSION,
    System,
    build_rows,
    compare_measured,
    describe_kind,
    judge,
    load_scoring,
)
from orchestrator.machine.files import write_json
from orchestrator.machine.rundir import RunDir
from orchestrator.serving.evaluate_model.candidates import (
    Candidate,
    find_candidates,
    require_candidates_load,
    require_one_way,
)
from orchestrator.serving.evaluate_model.reading import EvalRows, read_data
from orchestrator.serving.evaluate_model.request import Request
from orchestrator.serving.evaluate_model.scoring import score

MODEL = "model"  # the role of a system that is compared with the first


def find_problems(request: Request) -> list[Problem]:
    """Return what in the request does not fit the kind of its data."""
    kind = request.data.kind
    problems = check_metrics(request.metrics, PAIR if kind == PAIR else GROUP)
    if kind == PAIR and request.data.corpus:
        problems.append(Problem("pairs of texts have no corpus to search", hint="leave --corpus out"))
    return problems


def evaluate(request: Request, out: Path | None, tell: Callable[[str], None]) -> dict[str, Any]:
    """Return metrics.json of the models on the data, and keep it with the scores in `out` where that is given.

    It is that of a run (`evaluation.metrics.build_metrics`) with systems of the roles baseline (the first model) and
    model, and a `system` in every comparison. The folder holds eval.jsonl (and corpus.jsonl), ledger.json, stats.json,
    metrics.json and models/NAME/{spec.json,scores.jsonl,scoring.json}; it is there when all is done, or not at all.

    Raises DataError, PreflightError (a model), StageFailedError (scoring), RunFolderError (a folder that exists).
    """
    pairs = request.data.kind == PAIR
    vectors = pairs or request.data.corpus
    candidates = find_candidates(request, vectors=vectors)
    searches = require_one_way(candidates, vectors=vectors) and not pairs
    if request.reading.max_length or request.reading.instruction or request.reading.format:
        for name in (candidate.name for candidate in candidates if candidate.packaged):
            tell(f"{name} is a packaged model: it reads texts as its own scoring.json says")
    _require_absent(out)
    require_candidates_load(request, candidates, vectors=vectors)
    with _folder(out) as folder:
        rows = read_data(request.data, folder, searches=searches, tell=tell)
        for number, candidate in enumerate(candidates, start=1):
            tell(f"scoring {candidate.name} ({number} of {len(candidates)})")
            told = partial(_tell_progress, tell, candidate.name)
            score(request, candidate, rows, _scores_of(folder, candidate), told)
        metrics = _measure(request, candidates, rows, folder)
        write_json(RunDir(folder).metrics_json, metrics)
    return metrics


def _tell_progress(tell: Callable[[str], None], name: str, done: str) -> None:
    tell(f"scoring {name}: {done}")


def _measure(request: Request, candidates: list[Candidate], rows: EvalRows, folder: Path) -> dict[str, Any]:
    evaluation = load_eval(rows.path)
    if evaluation is None:
        raise DataError("no row is left to measure on", hint="orch data check says why")
    names = request.metrics or default_metrics(evaluation.kind)
    scores = {
        candidate.name: evaluation.load_scores(_scores_of(folder, candidate) / "scores.jsonl")
        for candidate in candidates
    }
    measured = evaluation.measure(scores, names, seed=request.seed)
    systems = [
        System(
            candidate.name,
            MODEL if number else BASELINE,
            None,
            candidate.name,
            load_scoring(_scores_of(folder, candidate) / "scoring.json"),
            measured[candidate.name],
        )
        for number, candidate in enumerate(candidates)
    ]
    first, *others = systems
    comparisons = [
        {"system": system.system_id, "baseline": first.system_id, **row}
        for system in others
        for row in compare_measured(first.measured, system.measured, names, request.seed)
    ]
    return {
        "version": METRICS_VERSION,
        "seed": request.seed,
        **describe_kind(evaluation.kind, names),
        "eval": {**describe_eval(rows.path, evaluation, folder), "files": [str(file) for file in request.data.files]},
        "headline": {"metric": names[0], "baseline": first.system_id},
        "systems": [system.describe() for system in systems],
        "rows": build_rows(systems),
        "comparisons": comparisons,
        "verdict": judge(comparisons, names[0], first.system_id),
        "gate": {"passed": None, "rules": []},
        "guards": [],
        "gaps": [odd.message for candidate in candidates for odd in find_oddities(candidate.model)],
    }


def _scores_of(folder: Path, candidate: Candidate) -> Path:
    return folder / "models" / candidate.name


def _require_absent(out: Path | None) -> None:
    if out is not None and (out.exists() or out.is_symlink()):
        raise RunFolderError(f"{out} exists already", hint="name a fresh folder with -o, or remove it")


@contextmanager
def _folder(out: Path | None) -> Iterator[Path]:
    """Give a folder to work in that becomes `out` at the end of the block, by one rename; on errors it is removed."""
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=".orch-evaluate-", dir=out.parent if out else None))
    try:
        yield folder
        if out is not None:
            folder.chmod(0o777 & ~_umask())
            folder.rename(out)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
