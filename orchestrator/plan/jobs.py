"""A loaded recipe and a machine → a Job, or every reason why they do not fit."""

from __future__ import annotations

import os
import secrets
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from orchestrator.backends.embeddings import refuse_told
from orchestrator.backends.models import BaseModel, find_model
from orchestrator.backends.protocol import Found, Job, eval_kind, find_trainer
from orchestrator.backends.render import find_templates
from orchestrator.backends.scorers import find_export_problem
from orchestrator.backends.sharing import find_deepspeed_problems
from orchestrator.errors import OrchError, PreflightError, Problem, RecipeError, RunFolderError
from orchestrator.evaluation.measures import check_metrics
from orchestrator.machine.hardware import Hardware
from orchestrator.machine.packages import find_versions
from orchestrator.machine.places import WORKERS, find_file, find_orch_cache, find_python
from orchestrator.machine.rundir import RunDir
from orchestrator.plan.load import LoadedRecipe
from orchestrator.plan.measuring import find_teacher_spec
from orchestrator.recipe.schema import Launch, ModelRef, Recipe

# What a guard's rows may be; the first where its file lies on a hub, and nobody can look at it yet.
_GUARD_KINDS = {"reranker": ("group", "labelled"), "embedding": ("group", "pair")}


def new_run_dir(root: Path, name: str, *, smoke: bool = False) -> Path:
    """Return the absolute path of a run folder that does not exist yet: name, time and a short random id."""
    label = f"{name}-smoke" if smoke else name
    return root.resolve() / f"{label}-{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(2)}"


def build_job(
    loaded: LoadedRecipe, run_dir: Path, hardware: Hardware, *, smoke: bool = False, may_run: bool = True
) -> Job:
    """Return the job of a recipe on this hardware. Raises RecipeError with everything that does not fit together.

    Without `may_run` the backend's interpreter is not started, whose versions are read from its folders.
    """
    recipe = loaded.recipe
    if recipe.launch.nnodes == "auto":
        launch = recipe.launch.model_copy(update={"nnodes": count_hosts(recipe.launch)})
        recipe = recipe.model_copy(update={"launch": launch})
    backend = find_trainer(recipe)
    backend_python = find_backend_python(loaded)
    if any("\ud800" <= letter <= "\udfff" for letter in str(run_dir)):  # no JSON file and no script can hold it
        raise RunFolderError("the run folder's path is not UTF-8", hint="choose another one with -o")
    sniffed = sniff_rows(loaded)
    job = Job(
        recipe=recipe,
        recipe_folder=loaded.folder,
        run_dir=run_dir,
        model=_find_model(recipe.model, loaded, "model"),
        hardware=hardware,
        versions=find_versions(backend_python, may_run=may_run, also=backend.distributions),
        backend_python=backend_python,
        orch_python=sys.executable,
        workers=str(WORKERS),
        smoke=smoke,
        kind=find_kind(recipe, sniffed),
        deepspeed_text=load_deepspeed(loaded),
        cache_dir=str(find_orch_cache()),
        teacher=_find_model(recipe.teacher, loaded, "teacher") if recipe.teacher else None,
        guard_kinds=find_guard_kinds(recipe, sniffed),
        export_python=_find_python(
            loaded, "export", recipe.export.python if recipe.export else None, "the exporter's packages"
        ),
    )
    refused = [*backend.check_job(job)]
    found = [
        *refused,
        *_check_metrics(job),
        *_check_teacher(job, learnt=all(key != ("teacher",) for key, _ in refused)),
        *_check_sets(job),
        *_check_guards(job, sniffed),
    ]
    found = found or _check_package(job)
    problems = [Problem(problem.message, problem.hint, loaded.source.where(key)) for key, problem in found]
    if problems:
        raise RecipeError.from_problems(problems)
    return job


# What a scheduler, or torchrun's own environment, says of several hosts; the first that is set counts.
_COUNTS = ("NNODES", "PET_NNODES", "SLURM_NNODES")
_RANKS = ("NODE_RANK", "PET_NODE_RANK", "SLURM_NODEID")
_PORT = "29400"


def count_hosts(launch: Launch, env: Mapping[str, str] = os.environ) -> int:
    """Return how many hosts train together. Raises RecipeError where nothing says it."""
    if launch.nnodes != "auto":
        return launch.nnodes
    said = _find_number(_COUNTS, env)
    if not said:
        raise RecipeError("launch.nnodes: auto, and no scheduler says how many hosts", hint=f"set {_COUNTS[0]}")
    return said


def find_place(launch: Launch, env: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Return NODE_RANK, MASTER_ADDR and MASTER_PORT of this host, by which the launcher finds the others.

    Empty for a run on one host. Raises RecipeError or PreflightError where something is not said.
    """
    hosts = count_hosts(launch, env)
    if hosts == 1:
        return {}
    rank = _find_number(_RANKS, env) if launch.node_rank == "auto" else launch.node_rank
    address, _, port = (launch.rdzv.endpoint or env.get("PET_RDZV_ENDPOINT") or "").partition(":")
    address = address or env.get("MASTER_ADDR") or env.get("PET_MASTER_ADDR") or ""
    if rank is None or rank >= hosts:
        which = "nothing says which host this is" if rank is None else f"this is host {rank}, counted from 0"
        raise PreflightError(f"{hosts} hosts train together, and {which}", hint="set NODE_RANK=0 on one, 1 on the next")
    if not address:
        hint = "say launch: {rdzv: {endpoint: 'HOST:29400'}}, or set MASTER_ADDR; HOST is host 0"
        raise PreflightError(f"{hosts} hosts train together, and nothing says where they meet", hint=hint)
    port = port or env.get("MASTER_PORT") or env.get("PET_MASTER_PORT") or _PORT
    return {"NODE_RANK": str(rank), "MASTER_ADDR": address, "MASTER_PORT": port}


def _find_number(names: Iterable[str], env: Mapping[str, str]) -> int | None:
    """Return the number that the first of these variables holds; of PET_NNODES=MIN:MAX the most."""
    found = (env[name].rpartition(":")[2] for name in names if env.get(name))
    return next((int(value) for value in found if value.isdigit()), None)


def _find_model(ref: ModelRef, loaded: LoadedRecipe, key: str) -> BaseModel:
    """Return the model that the recipe names at `key`. Raises OrchError with its line where it cannot be used."""
    otherwise = find_trainer(loaded.recipe).family if key == "model" else None
    try:
        return find_model(ref, loaded.folder, otherwise=otherwise)
    except OrchError as error:
        where = loaded.source.where((key,))
        problems = [replace(problem, where=problem.where or where) for problem in error.problems]
        raise type(error).from_problems(problems) from None


def find_backend_python(loaded: LoadedRecipe) -> str:
    """Return the absolute path of the backend's interpreter. Raises PreflightError where there is none."""
    return _find_python(loaded, "launch", loaded.recipe.launch.python, "the backend's environment") or sys.executable


def _find_python(loaded: LoadedRecipe, part: str, name: str | None, whose: str) -> str | None:
    """Return the absolute path of an interpreter that the recipe names. Raises PreflightError where there is none."""
    if name is None or (found := find_python(loaded.folder, name)):
        return found if name else None
    message, where = f"{part}.python: no such interpreter: {name}", loaded.source.where((part, "python"))
    raise PreflightError(message, hint=f"name the python of {whose}", where=where)


def find_downloads(loaded: LoadedRecipe) -> tuple[str, ...]:
    """Return the hub ids of the recipe's models that are not on this machine. Raises OrchError for unusable ones."""
    named = [(loaded.recipe.model, "model"), (loaded.recipe.teacher, "teacher")]
    models = (_find_model(ref, loaded, key) for ref, key in named if ref is not None)
    return tuple(dict.fromkeys(model.location for model in models if not model.is_local))


def sniff_rows(loaded: LoadedRecipe) -> dict[str, str | None]:
    """Return the kind of the first row of each guard's first file, and of an embedding model's data under "".

    None for a file that lies on a hub, or does not tell.
    """
    recipe = loaded.recipe
    named = {name: guard.data[0] for name, guard in recipe.evaluate.guard.items()}
    if recipe.task == "embedding":
        named[""] = recipe.data.train[0]
    if not named:  # as in most recipes, which then need no reader of data
        return {}
    from orchestrator.data.reading.readers import sniff_kind

    paths = {key: (loaded.folder / name).expanduser() for key, name in named.items()}
    return {
        key: sniff_kind(path, recipe.data.columns, recipe.data.encoding) if path.is_file() else None
        for key, path in paths.items()
    }


def find_kind(recipe: Recipe, sniffed: dict[str, str | None]) -> str:
    """Return the kind of the recipe's data: its task decides it, for embeddings the first row, else the loss."""
    if recipe.task == "sft":
        return "chat"
    if (own := find_trainer(recipe).kind) or recipe.task == "reranker":
        return own or "group"
    kinds = ("group",) if recipe.loss is None else recipe.loss.facts.kinds
    by_loss = next((kind for kind in ("group", "class") if kind in kinds), "pair")
    return found if (found := sniffed[""]) in {"group", "pair"} else by_loss


def find_guard_kinds(recipe: Recipe, sniffed: dict[str, str | None]) -> dict[str, str]:
    """Return the kind of each guard's rows."""
    known = _GUARD_KINDS.get(recipe.task, ("chat",))
    return {name: kind if (kind := sniffed[name]) and kind in known else known[0] for name in recipe.evaluate.guard}


def _check_metrics(job: Job) -> list[Found]:
    """Return the metrics of the recipe, its gate and its guards' gates that mean nothing for this kind of data."""
    recipe = job.recipe
    named, exported = dict.fromkeys([*(recipe.evaluate.metrics or ()), *recipe.gate]), recipe.export
    found: list[Found] = [(("evaluate", "metrics"), problem) for problem in check_metrics(named, eval_kind(job))]
    wrong = check_metrics(exported.gate if exported else (), eval_kind(job))
    found += [(("export", "gate"), problem) for problem in wrong]
    for name, guard in recipe.evaluate.guard.items():
        wrong = check_metrics(guard.gate, eval_kind(job, name))
        found += [(("evaluate", "guard", name, "gate"), problem) for problem in wrong]
    return found


def _check_teacher(job: Job, *, learnt: bool) -> Iterator[Found]:
    """Return why the teacher cannot score; whether anybody learns from it the backend has said."""
    if job.recipe.teacher is not None:
        yield from refuse_told(job.recipe.teacher, "a teacher is asked as its own files or its authors say", "teacher")
    if job.teacher is None or job.recipe.task == "sft" or not learnt:
        return
    if isinstance(spec := find_teacher_spec(job), Problem):
        yield ("teacher",), spec


def _check_sets(job: Job) -> Iterator[Found]:
    """Return that a trainer knows one training set only; what is wrong with the sets is for the other to say."""
    if job.recipe.data.more and not job.backend.takes_sets:
        message = "several training sets with a loss each are for embedding models with sentence-transformers"
        yield ("data", "more"), Problem(message, "name the files in data.train: they are read as one set")


def _check_guards(job: Job, sniffed: dict[str, str | None]) -> Iterator[Found]:
    """Return the guards that cannot be measured: of a task that has none, or with rows of another kind."""
    known = _GUARD_KINDS.get(job.recipe.task)
    for name in job.recipe.evaluate.guard:
        key, kind = ("evaluate", "guard", name), sniffed[name]
        if known is None:
            yield key, Problem("guards are measured for rerankers and embedding models only", "remove it")
            continue
        if kind is not None and kind not in known:
            message = f"the guard {name} holds {kind} rows, and this task is measured on {' or '.join(known)} rows"
            yield (*key, "data"), Problem(message, "name other files, or convert them: orch data convert")


def _check_package(job: Job) -> list[Found]:
    """Return that guards and exports have no model, as a bare adapter is not packaged; and the forms that it lacks."""
    exported, guard = job.recipe.export, job.recipe.evaluate.guard
    if not guard and exported is None:
        return []
    model, data = job.model.location, str(RunDir(job.run_dir).data)
    training = job.backend.build_training(job, model=model, data=data, output=data)
    if training.lora and not job.recipe.merge:
        who = "guards" if guard else "exports"
        hint = f"say merge: true, or remove the {who}"
        return [(("merge",), Problem(f"{who} need a measured model, and LoRA weights are measured merged", hint))]
    forms, scorer = exported.forms if exported else (), training.scoring["scorer"]
    wrong = (find_export_problem(form, scorer, job.model.family) for form in forms)
    return [(("export",), problem) for problem in wrong if problem]


def load_deepspeed(loaded: LoadedRecipe) -> str | None:
    """Return the text of the recipe's DeepSpeed configuration; None without one, or for one of the backend's own.

    Raises RecipeError where there is none of that name, or it cannot be used.
    """
    name = loaded.recipe.deepspeed
    shipped = {path.stem: path for path in (find_templates() / "deepspeed").glob("*.json")}
    if name is None or (name not in shipped and name in find_trainer(loaded.recipe).deepspeed_names):
        return None
    path = shipped.get(name) or find_file(loaded.folder, name)
    where = loaded.source.where(("deepspeed",))
    if path is None:
        hint = f"name one of {', '.join(sorted(shipped))}, or a JSON file beside the recipe"
        raise RecipeError(f"deepspeed: no such configuration: {name}", hint=hint, where=where)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        hint = "check its permissions"
        raise RecipeError(f"{path} cannot be read: {error.strerror}", hint=hint, where=where) from None
    except UnicodeDecodeError:
        raise RecipeError(f"{path} is not UTF-8 text", hint="save it as UTF-8", where=where) from None
    if problems := find_deepspeed_problems(text):
        found = [replace(problem, message=f"{path}: {problem.message}", where=where) for problem in problems]
        raise RecipeError.from_problems(found)
    return text
