"""A job → its plan: which stages, in which order, with which files. Pure."""

from __future__ import annotations

from typing import Any

from msgspec.structs import replace

from orchestrator.backends.protocol import Job, SmokeScale, Training
from orchestrator.machine.rundir import RunDir
from orchestrator.plan import stages
from orchestrator.plan.draft import Draft
from orchestrator.plan.measuring import TEACHER, Measured, build_measured
from orchestrator.recipe.plan import Plan, Stage


def build_plan(job: Job) -> Plan:
    """Return the plan of a job: its stages in the order of the run. Raises RenderError for what cannot be rendered."""
    shrunk, scale = shrink_job(job) if job.smoke else (job, None)
    draft = Draft(shrunk, scale, RunDir(job.run_dir))
    job, recipe = draft.job, draft.job.recipe
    files = stages.find_data_files(draft)
    teacher_model = None
    if job.teacher:
        scored_rows, teacher_model = stages.add_teacher(draft, job.teacher, files.train)
        files = replace(files, train=(scored_rows,))

    data_stages = 1 + len(files.guards) + len(files.more)
    model = draft.output("tiny-model", after=data_stages) if job.smoke else stages.add_fetch_model(draft, job.model)
    # The train stage's arguments name its folder, before the stages in front of it are added.
    baselines = len(build_measured(job, stages.build_training(draft, model, output="")).baselines)
    output = draft.output("train", after=data_stages + int(job.smoke) + baselines)
    training = stages.build_training(draft, model, output)
    measured = build_measured(job, training)
    draft.notes += measured.notes

    stages.add_prepare(draft, training, files)
    for name, names in files.more.items():
        stages.add_set_data(draft, training, name, names)
    for guard, names in files.guards.items():  # now: a bad row must not end a run after its training
        stages.add_guard_data(draft, guard, names)
    if job.smoke:
        stages.add_tiny_model(draft)
    scored = _add_baselines(draft, measured, model, teacher_model)
    stages.add_train(draft, training, model)
    scored += _add_tuned(draft, training, measured, model)
    for form in dict.fromkeys(recipe.export.forms if recipe.export else ()):
        scored.append(stages.add_export(draft, form, stages.find_eval_files(draft)))
    draft.add_own(
        "report",
        "Compare, judge and report",
        "orch/report.j2",
        {"run_dir": str(draft.run.root)},
        inputs=tuple(f"{stage.folder}/output/scores.jsonl" for stage in scored),
        outputs=("metrics.json", "report.json", "report.html", *(["track.json"] if recipe.track else [])),
        done_codes=(0, 8),  # 8: the report is written and the gate is missed
    )
    if recipe.track:
        env = {"PYTHONUNBUFFERED": "1", "PYTHONFAULTHANDLER": "1"} | recipe.launch.env
        title = f"Send the verdict to {', '.join(recipe.track.to)}"
        values = {"track": job.tracking}
        draft.add_worker("track", title, "orch/track.j2", values, env=env, inputs=(draft.run.track_json.name,))
    return Plan(
        name=recipe.name,
        run_dir=str(job.run_dir),
        task=recipe.task,
        backend=recipe.backend,
        smoke=job.smoke,
        # where it runs changes nothing that it does
        recipe=recipe.model_dump(
            mode="json",
            exclude={"cluster", "sweep", *(key for key in ("export", "track") if getattr(recipe, key) is None)},
        ),
        stages=tuple(draft.stages),
        files=(*draft.files, *training.files),
        notes=(*draft.notes, *training.notes),
        versions=job.versions,
    )


def shrink_job(job: Job) -> tuple[Job, SmokeScale]:
    """Return the smoke version of a job: same recipe, stages and templates, on a tiny model with few rows and steps."""
    scale = job.backend.smoke_scale(job)
    train = {name: value for name, value in job.recipe.train.items() if name not in scale.leave_out}
    changed: dict[str, Any] = {**scale.recipe, "train": train | scale.train, "gate": {}}
    export, evaluate = job.recipe.export, job.recipe.evaluate
    if export:
        changed["export"] = export.model_copy(update={"gate": {}})
    if evaluate.guard:
        guards = {name: guard.model_copy(update={"gate": {}}) for name, guard in evaluate.guard.items()}
        changed["evaluate"] = evaluate.model_copy(update={"guard": guards})
    return replace(job, recipe=job.recipe.model_copy(update=changed), smoke=True), scale


def _add_baselines(draft: Draft, measured: Measured, model: str, teacher_model: str | None) -> list[Stage]:
    """Add what is scored before the training: the untouched model, and last the teacher."""
    found = []
    for system in measured.baselines:
        is_teacher = system.name == TEACHER and teacher_model is not None
        name, loads = (teacher_model, draft.job.teacher) if is_teacher else (model, None)
        kind, data = f"baseline-{system.name}", stages.find_eval_files(draft)
        found.append(stages.add_score(draft, kind, system.title, data, by=system, model=name, loads=loads))
    return found


def _add_tuned(draft: Draft, training: Training, measured: Measured, model: str) -> list[Stage]:
    """Add what becomes of the trained weights: merge, package, evaluation and guards; nothing for a bare adapter."""
    weights, adapter = training.weights, None
    if training.lora:
        if not draft.job.recipe.merge:
            return []
        adapter, weights = weights, stages.add_merge(draft, model, weights)
    scoring = stages.add_scoring_file(draft, measured.packaged)
    stages.add_package(draft, weights=weights, base=model, adapter=adapter, scoring=scoring)
    data, before = stages.find_eval_files(draft), measured.reference_baseline
    scored = [stages.add_score(draft, "evaluate", "Score the packaged model as its user loads it", data)]
    scored += [stages.add_score(draft, f"baseline-{part.name}", part.title, data, by=part) for part in measured.parts]
    for guard in draft.job.guard_kinds:
        data, title = stages.find_eval_files(draft, guard), f"Score the untouched base model on the guard {guard}"
        scored.append(stages.add_score(draft, f"guard-{guard}-before", title, data, by=before, model=model))
        title = f"Score the packaged model on the guard {guard}"
        scored.append(stages.add_score(draft, f"guard-{guard}-after", title, data))
    return scored
