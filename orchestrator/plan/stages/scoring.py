"""Stages that score an evaluation set with one model: baselines, the packaged model, and both on each guard."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from orchestrator.backends.models import BaseModel
from orchestrator.backends.protocol import guard_eval_kind
from orchestrator.plan.measuring import System
from orchestrator.plan.stages.draft import Draft
from orchestrator.recipe.plan import Command, Stage


@dataclass(frozen=True)
class EvalFiles:
    """The evaluation set that is scored; `corpus` is what its queries search, where they search one."""

    rows: Path
    corpus: Path | None


def run_eval_files(draft: Draft) -> EvalFiles:
    """Return the run's own evaluation set."""
    return EvalFiles(draft.run.eval_jsonl, draft.run.corpus_jsonl if draft.searches_corpus else None)


def guard_eval_files(draft: Draft, guard: str) -> EvalFiles:
    """Return the evaluation set of a guard."""
    folder, names = draft.run.guard(guard), draft.run
    searched = guard_eval_kind(draft.job, guard) == "retrieval"
    return EvalFiles(folder / names.eval_jsonl.name, folder / names.corpus_jsonl.name if searched else None)


def add_scoring_file(draft: Draft, system: System) -> str:
    """Add the scoring spec of a system to the plan's files; return its path."""
    return draft.add_file(
        f"files/scoring.{system.name}.json", json.dumps(system.spec, ensure_ascii=False, indent=2) + "\n"
    )


def add_base_score(
    draft: Draft, kind: str, system: System, *, model: str, data: EvalFiles, loads: BaseModel | None = None
) -> Stage:
    """Add the scoring of an untouched model (a folder or a hub id; `loads` where it is not the base) as `system`."""
    scoring = add_scoring_file(draft, system)
    command = draft.render_worker(
        "orch/score.j2",
        loads=loads,
        model=model,
        scoring=str(draft.run.root / scoring),
        out=draft.output(kind),
        cache=draft.cache("scores"),
        data=str(data.rows),
        corpus=str(data.corpus) if data.corpus else None,
        device=draft.device,
    )
    known_by = (model,) if model.startswith("/") else ()
    return _add(draft, kind, system.title, command, inputs=(*_inputs(draft, data), *known_by), files=(scoring,))


def add_packaged_score(draft: Draft, kind: str, title: str, data: EvalFiles) -> Stage:
    """Add the scoring of the packaged model, as its own scoring.json says."""
    model = str(draft.run.model)
    command = draft.render_worker(
        "orch/score.j2",
        model=model,
        scoring=str(draft.run.root / "model/scoring.json"),
        out=draft.output(kind),
        cache=None,
        data=str(data.rows),
        corpus=str(data.corpus) if data.corpus else None,
        device=draft.device,
    )
    # It is known by its scoring.json, which holds its hashes: its README changes with every report.
    return _add(draft, kind, title, command, inputs=(*_inputs(draft, data), f"{model}/scoring.json"), files=())


def _add(
    draft: Draft, kind: str, title: str, command: Command, *, inputs: tuple[str, ...], files: tuple[str, ...]
) -> Stage:
    output = draft.output(kind)
    outputs = (f"{output}/scores.jsonl", f"{output}/scoring.json")
    return draft.add(kind, title, command, inputs=inputs, outputs=outputs, files=files)


def _inputs(draft: Draft, data: EvalFiles) -> tuple[str, ...]:
    return tuple(str(path.relative_to(draft.run.root)) for path in (data.rows, data.corpus) if path)
