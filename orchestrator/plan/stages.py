"""The stages of a run: each function adds some to the draft of a plan. Their order stands in pipeline.py."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from orchestrator.backends import BACKENDS
from orchestrator.backends.models import BaseModel
from orchestrator.backends.protocol import Training, guard_eval_kind
from orchestrator.backends.render import format_command, render_text
from orchestrator.data.reading.file_sets import parse_hub_id
from orchestrator.plan.draft import Draft
from orchestrator.plan.measuring import System, build_teacher
from orchestrator.plan.smoke import add_tiny_teacher, count_teacher_rows
from orchestrator.recipe.plan import Command, Fallback, Stage


@dataclass(frozen=True)
class DataFiles:
    """Every data file of a recipe, absolute: of both sides, and of each guard."""

    train: tuple[str, ...]
    eval: tuple[str, ...]
    guards: dict[str, tuple[str, ...]]


def find_data_files(draft: Draft) -> DataFiles:
    """Return the recipe's files; what is no file is a data set of a hub, which a stage of its own fetches."""
    recipe = draft.job.recipe
    return DataFiles(
        _find_all(draft, recipe.data.train),
        _find_all(draft, recipe.data.eval or ()),
        {name: _find_all(draft, guard.data) for name, guard in recipe.evaluate.guard.items()},
    )


def _find_all(draft: Draft, names: Iterable[str]) -> tuple[str, ...]:
    return tuple(_find_file(draft, name) for name in names)


def _find_file(draft: Draft, name: str) -> str:
    path = (draft.job.recipe_folder / name).expanduser()
    hub_id = None if path.is_file() else parse_hub_id(name)
    if hub_id is None:
        return str(path.resolve())
    out = f"{draft.output('fetch')}/rows.jsonl"
    command = draft.render_in(
        {"PYTHONUNBUFFERED": "1"} | draft.job.recipe.launch.env,  # not offline, as a model on this machine is
        "orch/fetch.j2",
        id=hub_id.id,
        config=hub_id.config,
        split=hub_id.split or "train",
        out=out,
    )
    draft.add("fetch", f"Fetch {hub_id}", command, outputs=(out,))
    return out


def label_range_flags(draft: Draft, kind: str) -> dict[str, Any]:
    """Return the flags that say what labels are, and which become 0 and 1, for rows that have graded ones."""
    data = draft.job.recipe.data
    if kind != "labelled":
        return {}
    flags: dict[str, Any] = {}
    if data.max_label is not None:
        flags |= {"min-label": data.min_label or 0.0, "max-label": data.max_label}
    if data.scores_as_labels is not None:
        flags["scores-as-labels" if data.scores_as_labels else "no-scores-as-labels"] = True
    return flags


def add_prepare(draft: Draft, training: Training, files: DataFiles) -> None:
    """Add the stage that makes the run's data of the recipe's files."""
    data, job = draft.job.recipe.data, draft.job
    flags = dict(training.prepare) | label_range_flags(draft, job.kind)
    if job.model.has_tokenizer_json and not job.smoke:
        flags["tokenizer"] = str(job.model.folder)
    flags["full-batch"] = training.full_batch_rows
    if draft.searches_corpus:
        flags["corpus"] = True
    if data.overlap == "keep":
        flags["allow-overlap"] = True
    if draft.scale:
        flags |= {"limit-train": draft.scale.limit_train, "limit-eval": draft.scale.limit_eval}
    command = draft.render_orch(
        "orch/prepare.j2",
        data={
            "train": list(files.train),
            "eval": list(files.eval),
            "eval_ratio": data.eval_ratio,
            "max_dropped": data.max_dropped,
            "seed": data.seed,
        },
        kind=job.kind,
        columns=draft.columns,
        ignore=draft.ignored,
        form=BACKENDS[job.recipe.backend].data_form(job),
        out=str(draft.run.data),
        flags=_list_flags(flags),
    )
    names = ["train.jsonl", "eval.jsonl", "ledger.json", "stats.json"]
    names += ["corpus.jsonl"] if draft.searches_corpus else []
    names += ["validation.jsonl"] if data.validation_ratio else []
    draft.add(
        "prepare",
        "Read, check and split the data",
        command,
        inputs=(*files.train, *files.eval),
        outputs=tuple(f"data/{name}" for name in names),
    )


def add_guard_data(draft: Draft, guard: str, files: tuple[str, ...]) -> None:
    """Add the stage that makes a guard's evaluation set; its files are read as those of data.eval are."""
    data, kind = draft.job.recipe.data, draft.job.guard_kinds[guard]
    searched = guard_eval_kind(draft.job, guard) == "retrieval"
    flags = label_range_flags(draft, kind)
    if searched:
        flags["corpus"] = True
    if draft.scale:
        flags["limit-eval"] = draft.scale.limit_eval
    folder = draft.run.guard(guard)
    command = draft.render_orch(
        "orch/prepare_eval.j2",
        files=list(files),
        kind=kind,
        columns=draft.columns,
        ignore=draft.ignored,
        out=str(folder),
        max_dropped=data.max_dropped,
        seed=data.seed,
        flags=_list_flags(flags),
    )
    names = ["eval.jsonl", "ledger.json", "stats.json", *(["corpus.jsonl"] if searched else [])]
    outputs = tuple(str((folder / name).relative_to(draft.run.root)) for name in names)
    draft.add(f"guard-{guard}-data", f"Read and check the guard {guard}", command, inputs=files, outputs=outputs)


def _list_flags(flags: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"name": name, "value": value} for name, value in flags.items()]


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


def build_training(draft: Draft, model: str, output: str) -> Training:
    """Return the backend's training of the model (a folder or a hub id) on the run's data."""
    backend = BACKENDS[draft.job.recipe.backend]
    return backend.build_training(draft.job, model=model, data=str(draft.run.data), output=output)


def add_train(draft: Draft, training: Training, model: str) -> None:
    """Add the training."""
    recipe = draft.job.recipe
    data = ["data/train.jsonl", *(["data/validation.jsonl"] if recipe.data.validation_ratio else [])]
    fallbacks = add_fallbacks(draft, training, model)
    draft.add(
        "train",
        f"Fine-tune with {recipe.backend}" + (" and LoRA" if training.lora else ""),
        training.command,
        inputs=(*data, *((model,) if model.startswith("/") else ())),
        outputs=training.outputs,
        files=tuple(file.path for file in training.files),
        resume=training.resume,
        counts_rows=training.counts_rows,
        flat_loss=training.flat_loss,
        fallbacks=fallbacks,
    )


def add_merge(draft: Draft, base: str, adapter: str) -> str:
    """Add the merge of LoRA weights; return the folder of the whole model."""
    output = draft.output("merge")
    command = BACKENDS[draft.job.recipe.backend].build_merge(draft.job, base=base, adapter=adapter, output=output)
    draft.add(
        "merge",
        "Merge the LoRA weights into the base model",
        command,
        inputs=(f"{adapter}/adapter_model.safetensors", f"{adapter}/adapter_config.json"),
        outputs=(f"{output}/config.json",),
    )
    return output


def add_package(draft: Draft, *, weights: str, base: str, adapter: str | None, scoring: str) -> None:
    """Add the package: a whole model that describes itself, proved to be the one that was trained."""
    report = f"{draft.output('package')}/verification.json"
    command = draft.render_worker(
        "orch/package.j2",
        model=weights,
        base=base,
        adapter=adapter,
        scoring=str(draft.run.root / scoring),
        probes=str(draft.run.eval_jsonl),
        corpus=str(draft.run.corpus_jsonl) if draft.searches_corpus else None,
        test_prompt=draft.job.recipe.evaluate.test_prompt,
        out=str(draft.run.model),
        report=report,
    )
    draft.add(
        "package",
        "Make the model describe itself, and verify it",
        command,
        inputs=(weights, "data/eval.jsonl"),
        outputs=("model/config.json", "model/scoring.json", report),
        files=(scoring,),
    )


def list_batches(batch: int, accumulation: int) -> list[tuple[int, int]]:
    """Return (batch, accumulation) with the same product, each batch at most half of the one before, down to 1."""
    found = []
    smaller = batch
    while smaller > 1:
        smaller = next(size for size in range(smaller // 2, 0, -1) if batch % size == 0)
        found.append((smaller, batch // smaller * accumulation))
    return found


def add_fallbacks(draft: Draft, training: Training, model: str) -> tuple[Fallback, ...]:
    """Return what is tried in turn when memory runs out, and add its files; nothing unless the recipe asks for it."""
    if draft.job.recipe.watch.on_oom != "retry":
        return ()
    return tuple(
        _add_fallback(draft, training, model, batch, accumulation)
        for batch, accumulation in list_batches(training.batch, training.accumulation)
    )


def _add_fallback(draft: Draft, training: Training, model: str, batch: int, accumulation: int) -> Fallback:
    sizes = {"per_device_train_batch_size": batch, "gradient_accumulation_steps": accumulation}
    recipe = draft.job.recipe.model_copy(update={"train": draft.job.recipe.train | sizes})
    output = draft.output("train")
    smaller = BACKENDS[recipe.backend].build_training(
        replace(draft.job, recipe=recipe), model=model, data=str(draft.run.data), output=output
    )
    argv = _rename_files(draft, training, smaller, f"batch-{batch}")
    script = f"stages/{Path(output).parent.name}/command.batch-{batch}.sh"
    title = ", ".join(f"{name} {value}" for name, value in sizes.items())
    command = format_command(Command(argv, training.command.env, training.command.cwd))
    draft.add_file(script, render_text("run/fallback.sh.j2", run_dir=str(draft.run.root), title=title, command=command))
    return Fallback(title, argv, script)


def _rename_files(draft: Draft, training: Training, smaller: Training, name: str) -> tuple[str, ...]:
    """Return the argv with the files that differ under names of their own, which are added to the plan."""
    argv = smaller.command.argv
    for file in smaller.files:
        if file in training.files:
            continue
        folder, _, base = file.path.rpartition("/")
        path = draft.add_file(f"{folder}/{name}.{base}", file.text)
        old, new = str(draft.run.root / file.path), str(draft.run.root / path)
        argv = tuple(new if word == old else word for word in argv)
    return argv
