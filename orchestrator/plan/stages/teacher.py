"""Stages of a teacher, in front of the data's: pairs are written down, scored once, and joined with the rows again."""

from __future__ import annotations

from dataclasses import dataclass

from orchestrator.backends.models import BaseModel
from orchestrator.plan.measuring import build_teacher
from orchestrator.plan.stages.draft import Draft
from orchestrator.plan.stages.scoring import add_scoring_file
from orchestrator.plan.stages.smoke import add_tiny_teacher, count_teacher_rows


@dataclass(frozen=True)
class Taught:
    """What the teacher's stages leave: the training file with scores, and the model that gave them (folder or id)."""

    rows: str
    model: str


def add_teacher(draft: Draft, teacher: BaseModel, rows: tuple[str, ...]) -> Taught:
    """Add the stages that let the teacher score every pair of the training files."""
    system = build_teacher(draft.job)
    limit = count_teacher_rows(draft.job, draft.scale) if draft.scale else None
    pairs = _add_pairs(draft, rows, limit)
    model = teacher.location
    if draft.job.smoke:
        model = add_tiny_teacher(draft, teacher, system.spec["scorer"], pairs)
    scoring = add_scoring_file(draft, system)
    scores = _add_scores(draft, teacher, model, scoring, pairs)
    return Taught(_add_join(draft, rows, limit, scores), model)


def _add_pairs(draft: Draft, rows: tuple[str, ...], limit: int | None) -> str:
    output = draft.output("teacher-pairs")
    command = draft.render_orch(
        "orch/teacher_pairs.j2",
        rows=list(rows),
        columns=draft.columns,
        ignore=draft.ignored,
        limit=limit,
        out=output,
    )
    pairs = f"{output}/pairs.jsonl"
    draft.add("teacher-pairs", "List the pairs for the teacher", command, inputs=rows, outputs=(pairs,))
    return pairs


def _add_scores(draft: Draft, teacher: BaseModel, model: str, scoring: str, pairs: str) -> str:
    output = draft.output("teacher-scores")
    command = draft.render_worker(
        "orch/score_pairs.j2",
        loads=teacher,
        model=model,
        scoring=str(draft.run.root / scoring),
        pairs=pairs,
        out=output,
        device=draft.device,
        cache=draft.cache("teacher"),
    )
    scores = f"{output}/scores.jsonl"
    draft.add(
        "teacher-scores",
        "Let the teacher score the pairs",
        command,
        inputs=(pairs, *((model,) if model.startswith("/") else ())),
        outputs=(scores, f"{output}/scoring.json"),
        files=(scoring,),
    )
    return scores


def _add_join(draft: Draft, rows: tuple[str, ...], limit: int | None, scores: str) -> str:
    out = f"{draft.output('teacher')}/train.jsonl"
    command = draft.render_orch(
        "orch/teacher_join.j2",
        rows=list(rows),
        columns=draft.columns,
        ignore=draft.ignored,
        limit=limit,
        scores=scores,
        out=out,
    )
    draft.add("teacher", "Write the teacher's scores into the rows", command, inputs=(*rows, scores), outputs=(out,))
    return out
