"""The stages of a run: each function adds some to the draft of a plan. Their order stands in pipeline.py."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import msgspec
from msgspec.structs import replace

from orchestrator.backends.models import BaseModel
from orchestrator.backends.protocol import Job, SmokeScale, Training, eval_kind
from orchestrator.backends.render import format_command, render_text
from orchestrator.data.reading.file_sets import list_inputs, parse_hub_id
from orchestrator.plan.draft import Draft
from orchestrator.plan.measuring import System, build_teacher
from orchestrator.recipe.plan import Command, Fallback, Stage

_LIKE_TASKS = {"embedding": ("embedding", "qwen3"), "sft": ("chat", "qwen3")}
_LIKE_FAMILIES = {"encoder": ("encoder", "bert"), "decoder": ("decoder", "qwen3")}
TEACHER_SEED = 7  # another one than the student's, or both would be the same random model


class DataFiles(msgspec.Struct, frozen=True):
    """Every data file of a recipe, absolute: of both sides, of each guard, and of each further training set."""

    train: tuple[str, ...]
    eval: tuple[str, ...]
    guards: dict[str, tuple[str, ...]]
    more: dict[str, tuple[str, ...]]


def find_data_files(draft: Draft) -> DataFiles:
    """Return the recipe's files; what is no file is a data set of a hub, which a stage of its own fetches."""
    recipe = draft.job.recipe

    def find_all(names: Iterable[str]) -> tuple[str, ...]:
        return tuple(_find_file(draft, name) for name in names)

    guards = {name: find_all(guard.data) for name, guard in recipe.evaluate.guard.items()}
    more = {name: find_all(one.files) for name, one in recipe.data.more.items()}
    return DataFiles(find_all(recipe.data.train), find_all(recipe.data.eval or ()), guards, more)


def _find_file(draft: Draft, name: str) -> str:
    path = (draft.job.recipe_folder / name).expanduser()
    hub_id = None if path.is_file() else parse_hub_id(name)
    if hub_id is None:
        return str(path.resolve())
    out = f"{draft.output('fetch')}/rows.jsonl"
    values = {"kind": "dataset", "config": hub_id.config, "split": hub_id.split or "train", "out": out}
    _add_fetch(draft, "fetch", hub_id, values, (out,), env={})
    return out


def add_fetch_model(draft: Draft, model: BaseModel, kind: str = "fetch-model") -> str:
    """Return what a model is loaded from: its location, or the link to the hub's cache that a stage of its own makes.

    No trainer takes a revision or asks ModelScope by itself: what is trained is what is measured.
    """
    if model.fetched is None:
        return model.location
    folder = draft.output(kind)
    values = {"kind": "model", "config": None, "split": None, "out": f"{folder}/model"}
    outputs = (f"{folder}/model/config.json", f"{folder}/origin.json")
    env = {name: value for name, value in draft.job.environment(model).items() if name == "ORCH_ALLOW_PICKLE"}
    _add_fetch(draft, kind, model.fetched, values, outputs, env=env)
    return f"{folder}/model"


def _add_fetch(
    draft: Draft, kind: str, named: Any, values: dict[str, Any], outputs: tuple[str, ...], *, env: Mapping[str, str]
) -> None:
    """Add a download from a hub: it is not offline, as a stage that loads a model on this machine is."""
    env = {"PYTHONUNBUFFERED": "1", **env, **draft.job.recipe.launch.env}
    values = {"hub": named.hub, "id": named.id, "revision": named.revision, **values}
    draft.add_worker(kind, f"Fetch {named}", "orch/fetch.j2", values, env=env, outputs=outputs)


def _label_range_flags(draft: Draft, kind: str) -> dict[str, Any]:
    """Return the flags that say what labels are, and which become 0 and 1, for rows that have graded ones."""
    data, flags = draft.job.recipe.data, {}
    if kind == "labelled" and data.max_label is not None:
        flags = {"min-label": data.min_label or 0.0, "max-label": data.max_label}
    if kind == "labelled" and data.scores_as_labels is not None:
        flags["scores-as-labels" if data.scores_as_labels else "no-scores-as-labels"] = True
    return flags


def add_prepare(draft: Draft, training: Training, files: DataFiles) -> None:
    """Add the stage that makes the run's data of the recipe's files."""
    data, job = draft.job.recipe.data, draft.job
    flags = dict(training.prepare) | _label_range_flags(draft, job.kind)
    inputs = list_inputs((*files.train, *files.eval))
    if job.model.has_tokenizer_json and not job.smoke:
        flags["tokenizer"] = str(job.model.folder)
        inputs = (*inputs, f"{job.model.folder}/tokenizer.json")
    flags["full-batch"] = training.full_batch_rows
    if draft.searches_corpus:
        flags["corpus"] = True
    if data.overlap == "keep":
        flags["allow-overlap"] = True
    if draft.scale:
        flags |= {"limit-train": draft.scale.limit_train, "limit-eval": draft.scale.limit_eval}
    values = {
        "data": data.model_dump() | {"train": list(files.train), "eval": list(files.eval)},
        "kind": job.kind,
        "form": job.backend.data_form(job),
        "out": str(draft.run.data),
        "flags": flags,
    }
    names = ["train.jsonl", "eval.jsonl", "ledger.json", "stats.json"]
    names += ["corpus.jsonl"] if draft.searches_corpus else []
    names += ["validation.jsonl"] if data.validation_ratio else []
    names += [f"{draft.run.train_sources.name}/{name}" for name in training.prepare.get("by-source", ())]
    outputs = tuple(f"data/{name}" for name in names)
    title = "Read, check and split the data"
    draft.add_own("prepare", title, "orch/prepare.j2", values, inputs=inputs, outputs=outputs)


def add_set_data(draft: Draft, training: Training, name: str, files: tuple[str, ...]) -> None:
    """Add the stage that makes the rows of a further training set, without those whose query is measured on."""
    data, facts, folder = draft.job.recipe.data, training.more[name], draft.run.train_sources / name
    flags = facts["flags"] | {"full-batch": training.full_batch_rows}
    measured = [draft.run.eval_jsonl, *([draft.run.validation_jsonl] if data.validation_ratio else [])]
    flags["seen"] = [str(path) for path in measured]
    if data.overlap == "keep":
        flags["allow-overlap"] = True
    if draft.scale:
        flags["limit-train"] = draft.scale.limit_train
    read = data.model_dump() | {"train": list(files), "eval": [], "eval_ratio": None}
    values = {"data": read, "kind": facts["kind"], "form": facts["form"], "out": str(folder), "flags": flags}
    outputs = draft.name_all(folder / one for one in ("train.jsonl", "ledger.json", "stats.json"))
    title = f"Read and check the training set {name}"
    draft.add_own(f"set-{name}", title, "orch/prepare.j2", values, inputs=list_inputs(files), outputs=outputs)


def add_guard_data(draft: Draft, guard: str, files: tuple[str, ...]) -> None:
    """Add the stage that makes a guard's evaluation set; its files are read as those of data.eval are."""
    kind, folder = draft.job.guard_kinds[guard], draft.run.guard(guard)
    made = find_eval_files(draft, guard)
    flags = _label_range_flags(draft, kind) | ({"corpus": True} if made.corpus else {})
    if draft.scale:
        flags["limit-eval"] = draft.scale.limit_eval
    values = {"files": list(files), "kind": kind, "data": draft.job.recipe.data, "out": str(folder), "flags": flags}
    own = (made.rows, folder / "ledger.json", folder / "stats.json", *made.paths[1:])
    title, inputs = f"Read and check the guard {guard}", list_inputs(files)
    draft.add_own(
        f"guard-{guard}-data", title, "orch/prepare_eval.j2", values, inputs=inputs, outputs=draft.name_all(own)
    )


def add_teacher(draft: Draft, teacher: BaseModel, rows: tuple[str, ...]) -> tuple[str, str]:
    """Add the stages that let the teacher score every pair of the training files: listed, scored once, joined again.

    Returns the training file with scores, and the model that gave them (a folder or an id).
    """
    system, inputs = build_teacher(draft.job), list_inputs(rows)
    read = {"rows": list(rows), "limit": _count_teacher_rows(draft.job, draft.scale) if draft.scale else None}
    out = draft.output("teacher-pairs")
    pairs, title = f"{out}/pairs.jsonl", "List the pairs for the teacher"
    values = {**read, "out": out}
    draft.add_own("teacher-pairs", title, "orch/teacher_pairs.j2", values, inputs=inputs, outputs=(pairs,))
    if draft.job.smoke:
        embeds = teacher.family == "decoder" and system.spec["scorer"] == "embedding"
        like = _LIKE_TASKS["embedding"] if embeds else _find_like("reranker", teacher)
        title = "Build a tiny model of the teacher's architecture"
        model = _add_tiny(draft, "tiny-teacher", title, like, texts=[pairs], inputs=[pairs], seed=TEACHER_SEED)
    else:
        model = add_fetch_model(draft, teacher, "fetch-teacher")
    scoring, out = add_scoring_file(draft, system), draft.output("teacher-scores")
    scores, title = f"{out}/scores.jsonl", "Let the teacher score the pairs"
    values = {
        "model": model, "scoring": draft.place(scoring), "pairs": pairs, "out": out, "cache": draft.cache("teacher"),
    }  # fmt: skip
    draft.add_worker(
        "teacher-scores", title, "orch/score_pairs.j2", values, loads=teacher, inputs=(pairs, *_local(model)),
        outputs=(scores, f"{out}/scoring.json"), files=(scoring,),
    )  # fmt: skip
    joined, title = f"{draft.output('teacher')}/train.jsonl", "Write the teacher's scores into the rows"
    values = {**read, "scores": scores, "out": joined}
    draft.add_own("teacher", title, "orch/teacher_join.j2", values, inputs=(*inputs, scores), outputs=(joined,))
    return joined, model


class EvalFiles(msgspec.Struct, frozen=True):
    """The evaluation set that is scored; `corpus` is what its queries search, where they search one."""

    rows: Path
    corpus: Path | None

    @property
    def paths(self) -> tuple[Path, ...]:
        """All files of the set."""
        return (self.rows, self.corpus) if self.corpus else (self.rows,)

    def values(self) -> dict[str, str | None]:
        """Return what templates call them."""
        return {"data": str(self.rows), "corpus": str(self.corpus) if self.corpus else None}


def find_eval_files(draft: Draft, guard: str | None = None) -> EvalFiles:
    """Return the evaluation set of the run, or of one of its guards."""
    run, folder = draft.run, draft.run.guard(guard) if guard else draft.run.data
    searched = eval_kind(draft.job, guard) == "retrieval"
    return EvalFiles(folder / run.eval_jsonl.name, folder / run.corpus_jsonl.name if searched else None)


def add_scoring_file(draft: Draft, system: System) -> str:
    """Add the scoring spec of a system to the plan's files; return its path."""
    text = json.dumps(system.spec, ensure_ascii=False, indent=2) + "\n"
    return draft.add_file(f"files/scoring.{system.name}.json", text)


def add_score(
    draft: Draft,
    kind: str,
    title: str,
    data: EvalFiles,
    *,
    by: System | None = None,
    model: str | None = None,
    loads: BaseModel | None = None,
) -> Stage:
    """Add the scoring of an untouched model (a folder or a hub id; `loads` where it is not the base) `by` a spec.

    Without `model` it is the packaged one, as its own scoring.json says, or `by` another of its ways. That is known by
    its scoring.json, which holds its hashes: its README changes with every report.
    """
    packaged = str(draft.run.model)
    known_by, cache = (_local(model), draft.cache("scores")) if model else ((f"{packaged}/scoring.json",), None)
    files, out = (add_scoring_file(draft, by),) if by else (), draft.output(kind)
    scoring = draft.place(next(iter(files), "model/scoring.json"))
    values = {"model": model or packaged, "scoring": scoring, "out": out, "cache": cache, **data.values()}
    inputs, outputs = (*draft.name_all(data.paths), *known_by), (f"{out}/scores.jsonl", f"{out}/scoring.json")
    return draft.add_worker(
        kind, title, "orch/score.j2", values, loads=loads, inputs=inputs, outputs=outputs, files=files
    )


def add_export(draft: Draft, form: str, data: EvalFiles) -> Stage:
    """Add the packaged model in another form, and the scores of both; the report holds them against one another."""
    out, scores = draft.run.export(form), draft.output(f"export-{form}")
    values = {
        "model": str(draft.run.model), "scoring": draft.place("model/scoring.json"), "form": form, **data.values(),
        "out": str(out), "scores": scores, "trust_remote_code": draft.job.model.trust_remote_code,
    }  # fmt: skip
    return draft.add_worker(
        f"export-{form}", f"Export to {form}, and score it beside its source", "orch/export.j2", values,
        python=draft.job.export_python, inputs=(*draft.name_all(data.paths), "model/scoring.json"),
        outputs=(*draft.name_all([out / "scoring.json"]), f"{scores}/scores.jsonl", f"{scores}/scoring.json"),
    )  # fmt: skip


def build_training(draft: Draft, model: str, output: str) -> Training:
    """Return the backend's training of the model (a folder or a hub id) on the run's data."""
    return draft.job.backend.build_training(draft.job, model=model, data=str(draft.run.data), output=output)


def add_train(draft: Draft, training: Training, model: str) -> None:
    """Add the training; where the recipe asks for it, with what is tried in turn when memory runs out."""
    recipe, title = draft.job.recipe, f"Fine-tune with {draft.job.recipe.backend}"
    title += " and LoRA" if training.lora else ""
    if training.world_size > 1:
        title += f": {training.world_size} processes, {training.step_rows} rows a step"
    data = ["data/train.jsonl", *(["data/validation.jsonl"] if recipe.data.validation_ratio else [])]
    smaller = list_batches(training.batch, training.accumulation) if recipe.watch.on_oom == "retry" else []
    draft.add(
        "train",
        title,
        training.command,
        inputs=(*data, *_local(model, *training.reads)),
        outputs=training.outputs,
        files=tuple(file.path for file in training.files),
        resume=training.resume,
        counts_rows=training.counts_rows,
        flat_loss=training.flat_loss,
        fallbacks=tuple(_add_fallback(draft, training, model, *sizes) for sizes in smaller),
    )


def list_batches(batch: int, accumulation: int) -> list[tuple[int, int]]:
    """Return (batch, accumulation) with the same product, each batch at most half of the one before, down to 1."""
    found = []
    smaller = batch
    while smaller > 1:
        smaller = next(size for size in range(smaller // 2, 0, -1) if batch % size == 0)
        found.append((smaller, batch // smaller * accumulation))
    return found


def _add_fallback(draft: Draft, training: Training, model: str, batch: int, accumulation: int) -> Fallback:
    """Add the files of the same training in smaller batches; those that differ from its own have names of their own."""
    sizes = {"per_device_train_batch_size": batch, "gradient_accumulation_steps": accumulation}
    launch = draft.job.recipe.launch.model_copy(update={"keep_global_batch": False})  # it is in the sizes already
    recipe = draft.job.recipe.model_copy(update={"train": draft.job.recipe.train | sizes, "launch": launch})
    output = draft.output("train")
    smaller = build_training(replace(draft, job=replace(draft.job, recipe=recipe)), model, output)
    argv = smaller.command.argv
    for file in smaller.files:
        if file not in training.files:
            folder, _, base = file.path.rpartition("/")
            new = draft.place(draft.add_file(f"{folder}/batch-{batch}.{base}", file.text))
            argv = tuple(new if word == draft.place(file.path) else word for word in argv)
    script = f"stages/{Path(output).parent.name}/command.batch-{batch}.sh"
    title = ", ".join(f"{name} {value}" for name, value in sizes.items())
    command = format_command(Command(argv, training.command.env, training.command.cwd))
    draft.add_file(script, render_text("run/fallback.sh.j2", run_dir=str(draft.run.root), title=title, command=command))
    return Fallback(title, argv, script)


def add_merge(draft: Draft, base: str, adapter: str) -> str:
    """Add the merge of LoRA weights; return the folder of the whole model."""
    output = draft.output("merge")
    command = draft.job.backend.build_merge(draft.job, base=base, adapter=adapter, output=output)
    inputs = (f"{adapter}/adapter_model.safetensors", f"{adapter}/adapter_config.json", *_local(base))
    title = "Merge the LoRA weights into the base model"
    draft.add("merge", title, command, inputs=inputs, outputs=(f"{output}/config.json",))
    return output


def add_package(draft: Draft, *, weights: str, base: str, adapter: str | None, scoring: str) -> None:
    """Add the package: a whole model that describes itself, proved to be the one that was trained."""
    report, probes = f"{draft.output('package')}/verification.json", find_eval_files(draft).values()
    values = {
        "model": weights, "base": base, "adapter": adapter, "scoring": draft.place(scoring), "probes": probes["data"],
        "corpus": probes["corpus"], "test_prompt": draft.job.recipe.evaluate.test_prompt, "out": str(draft.run.model),
        "report": report,
    }  # fmt: skip
    draft.add_worker(
        "package", "Make the model describe itself, and verify it", "orch/package.j2", values,
        inputs=(weights, "data/eval.jsonl", *_local(base)),
        outputs=("model/config.json", "model/scoring.json", report), files=(scoring,),
    )  # fmt: skip


def _local(*models: str) -> tuple[str, ...]:
    """Return the folders by whose content models are known; nothing for those of a hub."""
    return tuple(model for model in models if model.startswith("/"))


def _count_teacher_rows(job: Job, scale: SmokeScale) -> int:
    """Return how many raw rows the teacher scores, so that `prepare` finds its few rows on every side among them.

    Sides are drawn by query, so that a share of few rows varies: twice as many are scored where sides are split off.
    """
    data = job.recipe.data
    held_out, validation = data.eval_ratio or 0.0, data.validation_ratio or 0.0
    if not held_out and not validation:
        return scale.limit_train
    wanted = [scale.limit_train / ((1 - held_out) * (1 - validation))]
    if held_out:
        wanted.append(scale.limit_eval / held_out)
    if validation:
        wanted.append(1 / (validation * (1 - held_out)))
    return 2 * math.ceil(max(wanted))


def add_tiny_model(draft: Draft) -> str:
    """Add the stage that builds the tiny base model from the prepared texts; return its folder."""
    like = draft.scale.like if draft.scale else None
    texts = [draft.run.train_jsonl, *find_eval_files(draft).paths]
    return _add_tiny(
        draft, "tiny-model", "Build a tiny model of the same architecture",
        like or _find_like(draft.job.recipe.task, draft.job.model),
        texts=[str(path) for path in texts], inputs=[f"data/{path.name}" for path in texts],
    )  # fmt: skip


def _add_tiny(
    draft: Draft, kind: str, title: str, like: tuple[str, str], *, texts: list[str], inputs: list[str], seed: int = 0
) -> str:
    out = draft.output(kind)
    values = {"like": like[0], "model_type": like[1], "texts": texts, "out": out, "seed": seed}
    outputs = (f"{out}/config.json",)
    draft.add_worker(kind, title, "orch/tiny_model.j2", values, inputs=tuple(inputs), outputs=outputs)
    return out


def _find_like(task: str, model: BaseModel) -> tuple[str, str]:
    """Return kind and model type of the tiny model in a model's place: a reward model is asked in a chat template."""
    if task == "embedding" and model.family == "encoder":
        return _LIKE_FAMILIES["encoder"]
    chats = task == "reranker" and model.native == "reward-model"
    return _LIKE_TASKS["sft"] if chats else _LIKE_TASKS.get(task) or _LIKE_FAMILIES[model.family]
