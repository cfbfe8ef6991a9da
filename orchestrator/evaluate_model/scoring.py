"""One model's scores for an evaluation set: the score worker in the foreground, stopped together with us."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.errors import InterruptedRunError, PreflightError, StageFailedError
from orchestrator.json_files import load_json
from orchestrator.preflight.named_models import Permissions
from orchestrator.render import render_command
from orchestrator.secrets import rename_hub_token
from orchestrator.serving.artefact import WORKERS
from orchestrator.serving.foreground import read_tail, started, wait_until_over
from orchestrator.supervise.interrupts import counted_interrupts

if TYPE_CHECKING:
    from collections.abc import Callable

    from orchestrator.evaluate_model.candidates import Candidate
    from orchestrator.evaluate_model.reading import EvalRows
    from orchestrator.evaluate_model.request import Request
    from orchestrator.plan import Command

    Tell = Callable[[str], None]


def score(request: Request, candidate: Candidate, rows: EvalRows, out: Path, tell: Tell) -> None:
    """Write scores.jsonl and scoring.json of one model into `out`; `tell` hears `DONE/TOTAL` as it goes.

    Raises StageFailedError with the worker's last lines, PreflightError for a model whose head was never trained,
    InterruptedRunError where the user stops it.
    """
    out.mkdir(parents=True)
    spec = out / "spec.json"
    spec.write_text(json.dumps(candidate.spec, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
    command = _build_command(request, candidate, rows, spec, out)
    env = rename_hub_token({**os.environ, **dict(command.env)})
    with counted_interrupts() as interrupts, started(command, env, interrupts, quiet=True) as child:
        code = wait_until_over(child, interrupts, lambda done, total: tell(f"{done}/{total}"))
        if code is None:
            raise InterruptedRunError(
                "the evaluation was stopped",
                hint="run it again: models that were scored to the end are in the cache",
            )
        if code != 0:
            title = f"{candidate.name} cannot be scored: the worker ended with exit code {code}"
            raise StageFailedError(title, hint=read_tail(child) or None)
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
