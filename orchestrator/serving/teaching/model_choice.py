"""A model as options name it, and how it scores pairs or makes vectors."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from orchestrator.backends.model_names import find_named_model
from orchestrator.backends.models import BaseModel
from orchestrator.backends.scorers import DTYPES, build_scoring, find_format, find_use
from orchestrator.checks.named_models import NamedModel, Permissions, require_loadable
from orchestrator.errors import PreflightError, Problem
from orchestrator.machine.hardware import find_hardware


@dataclass(frozen=True)
class ModelChoice:
    """A model as options name it: a folder, a run, a hub id or an installed package, and how it is scored."""

    name: str
    format: str | None = None
    family: str | None = None
    max_length: int = 512
    instruction: str | None = None
    batch_size: int | None = None
    trust_remote_code: bool = False
    allow_pickle: bool = False

    @property
    def permissions(self) -> Permissions:
        """What its user lets it do, beside running code."""
        return Permissions(self.allow_pickle)


@dataclass(frozen=True)
class Chosen:
    """The model that a choice means, and its scoring spec."""

    choice: ModelChoice
    model: BaseModel
    spec: dict[str, Any]


def build_spec(choice: ModelChoice, name: str) -> Chosen:
    """Return a model and how it is scored, as `name`. Raises PreflightError when there is no way."""
    return _choose(choice, _find(choice), name, choice.format)


def build_embedder(choice: ModelChoice) -> Chosen:
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
    return _choose(choice, model, "embedder", "embedding")


def require_chosen_load(chosen: Sequence[Chosen]) -> None:
    """Raise PreflightError with everything that keeps the models from being loaded, or scored as is planned."""

    def name_model(item: Chosen) -> NamedModel:
        def find_misfit(seen: BaseModel) -> Problem | None:
            spec = _build(item.choice, seen, item.spec["name"], item.spec["scorer"])
            return spec if isinstance(spec, Problem) else None

        return NamedModel(
            item.model,
            sys.executable,
            permissions=item.choice.permissions,
            use=find_use(item.spec["scorer"]),
            find_misfit=find_misfit,
        )

    require_loadable([name_model(item) for item in chosen])


def _find(choice: ModelChoice) -> BaseModel:
    return find_named_model(
        choice.name, family=choice.family, format=choice.format, trust_remote_code=choice.trust_remote_code
    )


def _choose(choice: ModelChoice, model: BaseModel, name: str, form: str | None) -> Chosen:
    spec = _build(choice, model, name, form)
    if isinstance(spec, Problem):
        raise PreflightError.from_problems([spec])
    return Chosen(choice, model, spec)


def _build(choice: ModelChoice, model: BaseModel, name: str, form: str | None) -> dict[str, Any] | Problem:
    return build_scoring(
        model,
        dtype=DTYPES[find_hardware().precision],
        name=name,
        max_length=choice.max_length,
        instruction=choice.instruction,
        batch_size=choice.batch_size,
        format=form,
    )
