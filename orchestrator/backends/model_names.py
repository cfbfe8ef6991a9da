"""What a command calls a model → the model: a folder, a run's packaged model, an installed package, or a hub id."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from orchestrator.backends.models import BaseModel, find_model
from orchestrator.backends.score_heads import SCORE_HEAD_FORMATS
from orchestrator.errors import PreflightError, RecipeError
from orchestrator.machine.rundir import RunDir
from orchestrator.recipe.schema import ModelRef

_LLM_FORMATS = ("qwen3-native", "flag-llm-reranker", *SCORE_HEAD_FORMATS)


def find_named_model(
    name: str,
    *,
    family: str | None = None,
    format: str | None = None,  # noqa: A002  the word that users write
    trust_remote_code: bool = False,
) -> BaseModel:
    """Return the model that `name` means here, with paths from the working directory.

    `family` is decoder or encoder where the user says it; a `format` that only LLMs have says it too. Raises
    PreflightError for a name that means no model, and for one that cannot be used.
    """
    family = family or ("decoder" if format in _LLM_FORMATS else None)
    ref = ModelRef.model_validate({**_locate(name), "family": family, "trust_remote_code": trust_remote_code})
    try:
        return find_model(ref, Path.cwd())
    except RecipeError as error:  # nothing but the family is left open, and no recipe is there to say it in
        raise PreflightError(error.problems[0].message, hint="say it: --family decoder  (or encoder)") from None


def _locate(name: str) -> dict[str, str]:
    """Return the reference that a name means."""
    if not name:
        raise PreflightError("the model's name is empty", hint="name a folder, a run, a hub id or a package")
    try:
        return {"path": _find_folder(name)} if Path(name).expanduser().exists() else _find_elsewhere(name)
    except (OSError, RuntimeError):  # a name that is too long, the home of nobody: `find_model` says so
        return {"path": name}


def _find_folder(name: str) -> str:
    """Return the folder that is meant by one that is there: itself, or the packaged model of a run."""
    folder = Path(name).expanduser()
    if (folder / "adapter_config.json").is_file():
        raise PreflightError(
            f"{folder} is a LoRA adapter, not a whole model", hint=f"merge it first: orch merge {folder} -o FOLDER"
        )
    if not (folder / "plan.json").is_file():
        return name
    packaged = RunDir(folder.absolute()).model
    if not packaged.is_dir():
        raise PreflightError(f"the run {folder} has no packaged model", hint=f"finish it: orch resume {folder}")
    return str(packaged)


def _find_elsewhere(name: str) -> dict[str, str]:
    """Return what is meant by a name that is no folder: a package where one is installed, else a hub id."""
    return {"package": name} if name.isidentifier() and _is_installed(name) else {"path": name}


def _is_installed(package: str) -> bool:
    try:
        return importlib.util.find_spec(package) is not None
    except ValueError:  # __main__ has no spec
        return False
