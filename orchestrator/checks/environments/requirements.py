"""What a backend's own environment needs: the extras of orch-finetune's metadata, without Orch itself."""

from __future__ import annotations

import importlib.metadata
import re

from orchestrator.backends.protocol import Backend
from orchestrator.errors import PreflightError
from orchestrator.machine.packages import normalise

_ORCH = "orch-finetune"
_REPORT = "report"  # runs in Orch's own Python
_REQUIREMENT = re.compile(r"(?P<name>[A-Za-z0-9._-]+)(?P<rest>[^;]*)(?:;(?P<marker>.*))?")
_EXTRA = re.compile(r"""extra\s*==\s*['"](?P<extra>[^'"]+)['"]""")
_MINIMUM = re.compile(r">=\s*([^\s,]+)")


def find_requirements(backend: Backend) -> tuple[str, ...]:
    """Return what pip installs for a backend whose workers Orch runs by path: the backend, and not Orch.

    What the backend's extra names, less what only the report needs, and what the backend says it needs besides.
    Raises PreflightError when Orch's own metadata are not there.
    """
    extras = _load_extras()
    report = {_name(line) for line in extras.get(_REPORT, ())}
    named = [line for line in extras.get(backend.extra, ()) if _name(line) not in {*report, _ORCH}]
    there = {_name(line) for line in named}
    return (*named, *(name for name in backend.distributions if normalise(name) not in there))


def find_minimum(backend: Backend, distribution: str) -> str | None:
    """Return the lowest version of a distribution that the backend's extra allows, where it names one."""
    for line in _load_extras().get(backend.extra, ()):
        if _name(line) == normalise(distribution) and (found := _MINIMUM.search(line)):
            return found[1]
    return None


def _load_extras() -> dict[str, tuple[str, ...]]:
    """Return the requirements of each extra, without their markers."""
    try:
        lines = importlib.metadata.requires(_ORCH) or []
    except importlib.metadata.PackageNotFoundError:
        raise PreflightError(
            f"the distribution {_ORCH} is not installed here, so what a backend needs is not known",
            hint="install it: pip install orch-finetune, or pip install -e . in its checkout",
        ) from None
    found: dict[str, tuple[str, ...]] = {}
    for line in lines:
        parts = _REQUIREMENT.match(line)
        extra = _EXTRA.search(parts["marker"] or "") if parts else None
        if parts and extra:
            found[extra["extra"]] = (*found.get(extra["extra"], ()), f"{parts['name']}{parts['rest']}".strip())
    return found


def _name(requirement: str) -> str:
    found = _REQUIREMENT.match(requirement)
    return normalise(found["name"]) if found else requirement
