"""What users call their models → which model each is, and how it is scored, or every reason why it cannot be."""

from __future__ import annotations

import importlib.util
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.errors import PreflightError, Problem
from orchestrator.evaluate_model.request import MAX_LENGTH
from orchestrator.models import BaseModel, find_model
from orchestrator.recipe.schema import ModelRef
from orchestrator.rundir import RunDir
from orchestrator.scorers import DTYPES, build_scoring, load_own_spec

if TYPE_CHECKING:
    from orchestrator.evaluate_model.request import Reading, Request

_LLM_FORMATS = ("qwen3-native", "flag-llm-reranker")
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

    Raises PreflightError with every model that cannot be scored.
    """
    models = [_find(name, request.reading) for name in request.models]
    names = _tell_apart([_short_name(model.name) for model in models])
    reading = request.reading
    found, problems = [], []
    for name, model in zip(names, models, strict=True):
        packaged = load_own_spec(model) is not None
        spec = build_scoring(
            model,
            dtype=DTYPES[request.hardware.precision],
            name=name,
            max_length=reading.max_length or MAX_LENGTH,
            instruction=reading.instruction,
            batch_size=reading.batch_size,
            format=None if packaged else reading.format,
            vectors=vectors,
        )
        if isinstance(spec, Problem):
            problems.append(spec)
        else:
            found.append(Candidate(name, model, spec, packaged))
    if problems:
        raise PreflightError.from_problems(problems)
    return found


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


def _find(name: str, reading: Reading) -> BaseModel:
    family = reading.family or ("decoder" if reading.format in _LLM_FORMATS else None)
    return find_model(
        ModelRef.model_validate({**_locate(name), "family": family, "trust_remote_code": reading.trust_remote_code}),
        Path.cwd(),
    )


def _locate(name: str) -> dict[str, str]:
    """Return the reference that a name means: a run's packaged model, an installed package, else a folder or hub id."""
    folder = Path(name).expanduser()
    if (folder / "adapter_config.json").is_file():
        raise PreflightError(
            f"{folder} is a LoRA adapter, not a whole model", hint=f"merge it first: orch merge {folder} -o FOLDER"
        )
    if (folder / "plan.json").is_file():
        packaged = RunDir(folder.absolute()).model
        if not packaged.is_dir():
            raise PreflightError(f"the run {folder} has no packaged model", hint=f"finish it: orch resume {folder}")
        return {"path": str(packaged)}
    if not folder.exists() and name.isidentifier() and importlib.util.find_spec(name) is not None:
        return {"package": name}
    return {"path": name}


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
