"""Stages that bring and prepare data: fetch, prepare, and the evaluation data of guards."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from orchestrator.backends import BACKENDS
from orchestrator.backends.protocol import Training, guard_eval_kind
from orchestrator.data.reading.file_sets import parse_hub_id
from orchestrator.plan.stages.draft import Draft


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
