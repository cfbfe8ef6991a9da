"""The tested set of versions, constraints.txt, and how an installed version stands to it."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import Literal

from orchestrator.errors import PreflightError
from orchestrator.machine.json_files import load_json
from orchestrator.machine.packages import normalise, parse_release
from orchestrator.machine.places import PACKAGE, find_beside

Standing = Literal["tested", "supported", "unknown"]

_PIN = re.compile(r"\s*([A-Za-z0-9._-]+)\s*==\s*([^\s;#]+)")
_SNAPSHOTS = PACKAGE / "backends" / "arguments"


def find_constraints() -> Path:
    """Return constraints.txt: inside the wheel, or beside the package in a checkout. Raises PreflightError."""
    path = find_beside("constraints.txt")
    if path.is_file():
        return path
    raise PreflightError(
        f"constraints.txt, the tested set of versions, is missing from {PACKAGE}", hint="install orch-finetune again"
    )


@cache
def load_tested() -> dict[str, str]:
    """Return the tested version of each distribution, by its normalised name."""
    lines = find_constraints().read_text(encoding="utf-8").splitlines()
    return {normalise(found[1]): found[2] for line in lines if (found := _PIN.match(line))}


def judge_version(name: str, version: str, minimum: str | None = None) -> Standing:
    """Return how a version stands: tested, supported or unknown.

    Supported are versions whose arguments Orch ships, and those from `minimum` (the extras') to the tested one.
    """
    tested = load_tested().get(normalise(name))
    release = parse_release(version)
    if tested is not None and release == parse_release(tested):
        return "tested"
    if release in _snapshot_versions().get(normalise(name), ()):
        return "supported"
    if minimum is None or tested is None:
        return "unknown"
    return "supported" if parse_release(minimum) <= release <= parse_release(tested) else "unknown"


@cache
def _snapshot_versions() -> dict[str, set[tuple[int, ...]]]:
    """Return the versions whose arguments are shipped, by normalised name."""
    found: dict[str, set[tuple[int, ...]]] = {}
    for path in sorted(_SNAPSHOTS.rglob("*.json")):
        content = load_json(path)
        for versions in content["sets"]:
            for name, version in versions.items():
                found.setdefault(normalise(name), set()).add(parse_release(version))
    return found
