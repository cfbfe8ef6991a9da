"""A model as options name it, and how it scores pairs or makes vectors."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.errors import PreflightError, Problem
from orchestrator.hardware import find_hardware
from orchestrator.models import find_model
from orchestrator.recipe.schema import ModelRef
from orchestrator.scorers import DTYPES, build_scoring, find_format

if TYPE_CHECKING:
    from orchestrator.models import BaseModel


@dataclass(frozen=True)
class ModelChoice:
    """A model as options name it: a folder, a hub id or an installed package, and how it is scored."""

    name: str
    format: str | None = None
    family: str | None = None
    max_length: int = 512
    instruction: str | None = None
    batch_size: int | None = None
    trust_remote_code: bool = False


def build_spec(choice: ModelChoice, name: str, *, wanted: str | None = None) -> tuple[BaseModel, dict[str, Any]]:
    """Return a model and how it is scored. Raises PreflightError when there is no way."""
    model = _find(choice)
    spec = build_scoring(
        model,
        dtype=DTYPES[find_hardware().precision],
        name=name,
        max_length=choice.max_length,
        instruction=choice.instruction,
        batch_size=choice.batch_size,
        format=wanted or choice.format,
    )
    if isinstance(spec, Problem):
        raise PreflightError(spec.message, hint=spec.hint, where=spec.where)
    return model, spec


def build_embedder(choice: ModelChoice) -> tuple[BaseModel, dict[str, Any]]:
    """Return an embedding model and its spec. Raises PreflightError for a model that makes no vectors."""
    model = _find(choice)
    hint = "name an embedding model; a reranker goes with --cross-encoder"
    is_packaged = model.folder is not None and (model.folder / "scoring.json").is_file()
    if not is_packaged:
        if find_format(model) not in {None, "bi-encoder"}:
            raise PreflightError(f"{model.name} scores pairs and makes no vectors to search with", hint=hint)
        if model.folder is not None and not (model.folder / "modules.json").is_file():
            raise PreflightError(
                f"{model.name} has no modules.json that says how it makes a vector of a text", hint=hint
            )
    return build_spec(choice, "embedder", wanted="embedding")


def _find(choice: ModelChoice) -> BaseModel:
    is_package = choice.name.isidentifier() and not Path(choice.name).exists()
    source = {"package" if is_package else "path": choice.name}
    ref = ModelRef(**source, family=choice.family, trust_remote_code=choice.trust_remote_code)
    return find_model(ref, Path.cwd())
