"""One model's scores for an evaluation set: the score worker in the foreground, stopped together with us."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from orchestrator.backends.render import render_command
from orchestrator.checks.named_models import Permissions
from orchestrator.errors import PreflightError
from orchestrator.machine.json_files import load_json
from orchestrator.machine.places import WORKERS
from orchestrator.recipe.plan import Command
from orchestrator.serving.evaluate_model.candidates import Candidate
from orchestrator.serving.evaluate_model.reading import EvalRows
from orchestrator.serving.evaluate_model.request import Request
from orchestrator.serving.worker import Words, run_worker

Tell = Callable[[str], None]


def score(request: Request, candidate: Candidate, rows: EvalRows, out: Path, tell: Tell) -> None:
    """Write scores.jsonl and scoring.json of one model into `out`; `tell` hears `DONE/TOTAL` as it goes.

    Raises what `run_worker` does, and PreflightError for a model whose head was never trained.
    """
    out.mkdir(parents=True)
    spec = out / "spec.json"
    spec.write_text(json.dumps(candidate.spec, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
    command = _build_command(request, candidate, rows, spec, out)
    words = Words(
        f"{candidate.name} cannot be scored",
        "the evaluation was stopped; run it again: models that were scored to the end are in the cache",
    )
    run_worker(command, words, on_progress=lambda done, total: tell(f"{done}/{total}"))
    _require_trained_head(candidate, out)


def _build_command(request: Request, candidate: Candidate, rows: EvalRows, spec: Path, out: Path) -> Command:
    on_cpu = request.hardware.kind == "cpu"
    env = {"PYTHONUNBUFFERED": "1", "TOKENIZERS_PARALLELISM": "false"}
    env |= {"HF_HUB_OFFLINE": "1"} if candidate.model.is_local else {}
    env |= {"CUDA_VISIBLE_DEVICES": ""} if on_cpu else {}
    env |= Permissions(request.reading.allow_pickle).env
    return render_command(
        "orch/score.j2",
        env=env,
        cwd=str(Path.cwd()),
        python=request.python,
        workers=str(WORKERS),
        model=candidate.model.location,
        scoring=str(spec),
        data=str(rows.path),
        corpus=str(rows.corpus) if rows.corpus else None,
        out=str(out),
        device="cpu" if on_cpu else None,
        cache=str(request.cache) if request.cache else None,
    )


def _require_trained_head(candidate: Candidate, out: Path) -> None:
    """Refuse scores of a head that was made up while the model was loaded: nobody saw its config before."""
    if load_json(out / "scoring.json").get("head") == "new":
        raise PreflightError(
            f"{candidate.name} has no trained head: its scores as {candidate.spec['scorer']} are random",
            hint="name a trained reranker, or another --format",
        )
