"""What users call their models → which model each is, and how it is scored, or every reason why it cannot be."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.backends.model_names import find_named_model
from orchestrator.backends.models import BaseModel
from orchestrator.backends.scorers import DTYPES, build_scoring, find_use, load_own_spec
from orchestrator.checks.named_models import NamedModel, Permissions, require_loadable
from orchestrator.errors import PreflightError, Problem
from orchestrator.serving.evaluate_model.request import MAX_LENGTH, Request

_GENERIC_NAMES = ("model", "output", "merged")
_EMBEDDING = "embedding"


@dataclass(frozen=True)
class Candidate:
    """One model to be measured: a short name of its own among the others, the model, and its scoring spec."""

    name: str
    model: BaseModel
    spec: dict[str, Any]
    packaged: bool = False

    @property
    def compares_vectors(self) -> bool:
        """Whether it can search a corpus and compare pairs of texts; others rank the candidates of a query."""
        return bool(self.spec["scorer"] == _EMBEDDING)


def find_candidates(request: Request, *, vectors: bool) -> list[Candidate]:
    """Return the models in the order given; `vectors` says that the data needs embedding models.

    Raises PreflightError with every model that cannot be found or scored.
    """
    models = _find_models(request)
    names = _tell_apart([_short_name(model.name) for model in models])
    found, problems = [], []
    for name, model in zip(names, models, strict=True):
        spec = _build_spec(request, model, name, vectors=vectors)
        if isinstance(spec, Problem):
            problems.append(spec)
        else:
            found.append(Candidate(name, model, spec, load_own_spec(model) is not None))
    if problems:
        raise PreflightError.from_problems(problems)
    return found


def require_candidates_load(request: Request, candidates: list[Candidate], *, vectors: bool) -> None:
    """Raise PreflightError with everything that keeps the models from being loaded, or scored as is planned."""

    def name_model(candidate: Candidate) -> NamedModel:
        def find_misfit(seen: BaseModel) -> Problem | None:
            spec = _build_spec(request, seen, candidate.name, vectors=vectors)
            return spec if isinstance(spec, Problem) else None

        return NamedModel(
            candidate.model,
            request.python,
            permissions=Permissions(request.reading.allow_pickle),
            use=find_use(candidate.spec["scorer"]),
            find_misfit=find_misfit,
        )

    require_loadable([name_model(candidate) for candidate in candidates])


def require_one_way(candidates: list[Candidate], *, vectors: bool) -> bool:
    """Return whether every model compares vectors. Raises PreflightError where some do and others cannot.

    With `vectors` (pairs of texts, or a corpus to search) all must.
    """
    able = [candidate for candidate in candidates if candidate.compares_vectors]
    unable = [candidate for candidate in candidates if not candidate.compares_vectors]
    if unable and vectors:
        raise PreflightError(
            f"{unable[0].name} is scored as {unable[0].spec['scorer']}, which ranks the candidates of a query: it "
            "gives no vectors to search a corpus or to compare pairs of texts with",
            hint="name an embedding model, or give ranking groups without --corpus",
        )
    if able and unable:
        raise PreflightError(
            f"{able[0].name} would search a corpus and {unable[0].name} would rank the candidates of a query: their "
            "numbers cannot be compared",
            hint="evaluate them apart, or rank with both: --format bi-encoder for an embedding model",
        )
    return not unable


def _find_models(request: Request) -> list[BaseModel]:
    """Return the models that the names mean. Raises PreflightError with every name that means none."""
    reading = request.reading
    found: list[BaseModel] = []
    problems: list[Problem] = []
    for name in request.models:
        try:
            found.append(
                find_named_model(
                    name,
                    family=reading.family,
                    format=reading.format,
                    trust_remote_code=reading.trust_remote_code,
                )
            )
        except PreflightError as error:
            problems += error.problems
    if problems:
        raise PreflightError.from_problems(problems)
    return found


def _build_spec(request: Request, model: BaseModel, name: str, *, vectors: bool) -> dict[str, Any] | Problem:
    reading = request.reading
    return build_scoring(
        model,
        dtype=DTYPES[request.hardware.precision],
        name=name,
        max_length=reading.max_length or MAX_LENGTH,
        instruction=reading.instruction,
        batch_size=reading.batch_size,
        format=None if load_own_spec(model) is not None else reading.format,
        vectors=vectors,
    )


def _short_name(name: str) -> str:
    """Return the last part of a path or hub id that says something, in letters that a file name may have."""
    parts = [part for part in Path(name).parts if re.search(r"\w", part)]
    while len(parts) > 1 and parts[-1] in _GENERIC_NAMES:
        parts.pop()
    return re.sub(r"[^\w.-]+", "-", parts[-1] if parts else "model")


def _tell_apart(names: list[str]) -> list[str]:
    """Return the names, those that come again with a number."""
    told: list[str] = []
    for name in names:
        number, unique = 1, name
        while unique in told:
            number, unique = number + 1, f"{name}-{number + 1}"
        told.append(unique)
    return told
