"""A loaded recipe and a machine → a Job, or every reason why they do not fit."""

from __future__ import annotations

import os
import secrets
import shutil
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.backends import BACKENDS
from orchestrator.backends.protocol import Found, Job, eval_kind
from orchestrator.data.rows.formats import sniff_kind
from orchestrator.errors import PreflightError, Problem, RecipeError
from orchestrator.evaluation.measures import check_metrics
from orchestrator.models import find_model
from orchestrator.provenance import find_versions
from orchestrator.render import find_templates

if TYPE_CHECKING:
    from orchestrator.hardware import Hardware
    from orchestrator.load import LoadedRecipe


def new_run_dir(root: Path, name: str, *, smoke: bool = False) -> Path:
    """Return the absolute path of a run folder that does not exist yet: name, time and a short random id."""
    label = f"{name}-smoke" if smoke else name
    return root.resolve() / f"{label}-{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(2)}"


def build_job(loaded: LoadedRecipe, run_dir: Path, hardware: Hardware, *, smoke: bool = False) -> Job:
    """Return the job of a recipe on this hardware. Raises RecipeError with everything that does not fit together."""
    recipe = loaded.recipe
    backend = BACKENDS[recipe.backend]
    backend_python = _find_python(recipe.launch.python, loaded.folder)
    job = Job(
        recipe=recipe,
        recipe_folder=loaded.folder,
        run_dir=run_dir,
        model=find_model(recipe.model, loaded.folder),
        hardware=hardware,
        versions=find_versions(backend_python),
        backend_python=backend_python,
        orch_python=sys.executable,
        workers=str(Path(__file__).resolve().parent / "workers"),
        smoke=smoke,
        kind=_find_kind(loaded),
        deepspeed_text=_load_deepspeed(loaded),
        cache_dir=str(Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "orch"),
    )
    found = [*backend.check_job(job), *_check_metrics(job)]
    problems = [Problem(problem.message, problem.hint, loaded.source.where(key)) for key, problem in found]
    if problems:
        raise RecipeError.from_problems(problems)
    return job


def _find_python(name: str | None, recipe_folder: Path) -> str:
    """Return the backend's interpreter as an absolute path that is not resolved: a venv's link is its identity."""
    if name is None:
        return sys.executable
    found = shutil.which(name) if "/" not in name else str(recipe_folder / Path(name).expanduser())
    if found is None or not Path(found).is_file():
        raise PreflightError(
            f"launch.python: no such interpreter: {name}", hint="name the python of the backend's environment"
        )
    return str(Path(found).absolute())


def _find_kind(loaded: LoadedRecipe) -> str:
    """Return the kind of the recipe's data: its task decides it, and for embeddings the first row of the first file."""
    recipe = loaded.recipe
    if recipe.task != "embedding":
        return {"reranker": "group", "sft": "chat"}[recipe.task]
    path = (loaded.folder / recipe.data.train[0]).expanduser()
    sniffed = sniff_kind(path, recipe.data.columns) if path.is_file() else None
    by_loss = "pair" if recipe.loss is not None and recipe.loss.type != "infonce" else "group"
    return sniffed if sniffed in {"group", "pair"} else by_loss


def _check_metrics(job: Job) -> list[Found]:
    """Return the metrics of the recipe and its gate that mean nothing for this kind of data."""
    kind = eval_kind(job)
    named = [*(job.recipe.evaluate.metrics or ()), *job.recipe.gate]
    return [(("evaluate", "metrics"), problem) for problem in check_metrics(list(dict.fromkeys(named)), kind)]


def _load_deepspeed(loaded: LoadedRecipe) -> str | None:
    name = loaded.recipe.deepspeed
    if name is None or name in BACKENDS[loaded.recipe.backend].deepspeed_names:
        return None
    shipped = {path.stem: path for path in (find_templates() / "deepspeed").glob("*.json")}
    path = shipped.get(name) or (loaded.folder / Path(name).expanduser())
    if not path.is_file():
        raise RecipeError(
            f"deepspeed: no such configuration: {name}",
            hint=f"name one of {', '.join(sorted(shipped))}, or a JSON file beside the recipe",
            where=loaded.source.where(("deepspeed",)),
        )
    return path.read_text(encoding="utf-8")
