"""Whether the models that a command names can be loaded: what a run checks of its own, where there is no recipe."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from orchestrator.backends.models import BaseModel, find_model, learn_from_config
from orchestrator.checks.hub import HubQuestion, find_hub_problems
from orchestrator.checks.model_files import find_folder_problems
from orchestrator.checks.model_loading import Loader, find_loading_problem
from orchestrator.checks.model_tensors import find_tensor_problems
from orchestrator.errors import PreflightError, Problem
from orchestrator.machine.packages import find_versions
from orchestrator.machine.places import WORKERS, find_orch_cache
from orchestrator.recipe.schema import ModelRef

ALLOW_PICKLE = "ORCH_ALLOW_PICKLE"  # workers/pickles.py reads it
_ELSEWHERE = "name a folder, or set HF_ENDPOINT to a mirror such as https://hf-mirror.com"


@dataclass(frozen=True)
class Permissions:
    """What a user lets a model do, and the words that would let it."""

    allow_pickle: bool = False
    allow: str = "give --allow-pickle"
    trust: str = "give --trust-remote-code"

    @property
    def pickles(self) -> bool:
        """Whether pickled weights may be loaded: the environment may say it for every command."""
        return self.allow_pickle or os.environ.get(ALLOW_PICKLE) == "1"

    @property
    def env(self) -> dict[str, str]:
        """The variables that tell a worker so."""
        return {ALLOW_PICKLE: "1"} if self.pickles else {}


@dataclass(frozen=True)
class NamedModel:
    """A model that a command is about to load, in `python` with `env`.

    `use` is what it is wanted for (`scorers.find_use`), None where nobody knows. `find_misfit` says what is wrong with
    a model whose config.json is not here before a hub shows it.
    """

    model: BaseModel
    python: str
    env: Mapping[str, str] = field(default_factory=dict)
    permissions: Permissions = field(default_factory=Permissions)
    use: str | None = None
    find_misfit: Callable[[BaseModel], Problem | None] = lambda _: None

    @property
    def variables(self) -> dict[str, str]:
        """What its Python is started with."""
        return {**self.permissions.env, **self.env}

    @property
    def uses(self) -> tuple[str, ...]:
        """What is known of its use."""
        return () if self.use is None else (self.use,)


def require_loadable(named: Sequence[NamedModel]) -> None:
    """Raise PreflightError with everything that keeps the models from being loaded.

    Files are looked at, and a hub is asked; the Python that is to load the models is asked last, once a folder.
    """
    problems = [problem for item in named for problem in _find_problems(item)]
    problems = problems or [problem for item in named for problem in _find_loading_problems(item)]
    if problems:
        raise PreflightError.from_problems(list(dict.fromkeys(problems)))


def find_loadable(location: str, *, trust_remote_code: bool) -> BaseModel:
    """Return the model of a folder or a hub id, of which nothing is asked but that it loads.

    Raises PreflightError where there is none.
    """
    ref = ModelRef(path=location, trust_remote_code=trust_remote_code)
    # the family decides how a model is scored, and nothing here
    return find_model(ref, Path.cwd(), otherwise="decoder")


def _find_problems(named: NamedModel) -> Iterator[Problem]:
    model, permissions = named.model, named.permissions
    if model.folder is not None:
        yield from find_folder_problems(
            model, allow=permissions.allow, allow_pickle=permissions.pickles, uses=named.uses
        )
        return

    def find_misfits(config: dict[str, Any]) -> list[Problem]:
        seen = learn_from_config(model, config)
        found = [_find_untrusted(seen, permissions), named.find_misfit(seen)]
        return [problem for problem in found if problem is not None]

    allow = None if permissions.pickles else permissions.allow
    yield from find_hub_problems(HubQuestion(model.location, named.variables, _ELSEWHERE, allow), find_misfits)


def _find_untrusted(model: BaseModel, permissions: Permissions) -> Problem | None:
    """Return that a model on a hub brings code: whether it loads without, nobody can try before it is here."""
    if not model.brings_code or model.trust_remote_code:
        return None
    hint = (
        f"read that code, then {permissions.trust}; or download it (hf download {model.location}), and it is tried "
        "without that code"
    )
    return Problem(f"{model.location} brings Python code along", hint)


def _find_loading_problems(named: NamedModel) -> list[Problem]:
    if named.model.folder is None:
        return []
    env = {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", **named.variables}
    loader = Loader(named.python, str(WORKERS), find_versions(named.python), env, str(find_orch_cache()))
    problem = find_loading_problem(named.model, loader, trust=named.permissions.trust)
    return [problem] if problem is not None else find_tensor_problems(named.model, loader, named.uses)
