"""Packaged models and the bases of adapters: checked as a run checks its own models, before anything starts."""

from __future__ import annotations

from orchestrator.backends.scorers import find_use
from orchestrator.checks.model_loading import NamedModel, Permissions, find_loadable, require_loadable
from orchestrator.serving.artefact import Artefact

_PACKAGED = Permissions(allow="package its run again, which writes safetensors", trust="say --trust-remote-code")


def require_artefact_loads(artefact: Artefact) -> None:
    """Raise PreflightError with everything that keeps a packaged model from being loaded in its Python."""
    model = find_loadable(str(artefact.folder), trust_remote_code=artefact.trusts_remote_code)
    require_loadable([NamedModel(model, artefact.python, artefact.env, _PACKAGED, find_use(artefact.scorer))])


def require_base_loads(base: str, python: str, permissions: Permissions, *, trust: bool, use: str) -> None:
    """Raise PreflightError with everything that keeps an adapter's base model from being loaded in `python`."""
    model = find_loadable(base, trust_remote_code=trust)
    require_loadable([NamedModel(model, python, permissions.env, permissions, use)])
