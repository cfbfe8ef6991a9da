"""What a run was made with: versions, hardware, platform, git state, hashes."""

from __future__ import annotations

import json
import os
import platform
import sys
from functools import cache
from typing import TYPE_CHECKING, Any

from orchestrator import __version__
from orchestrator.process import run

if TYPE_CHECKING:
    from pathlib import Path

    from orchestrator.hardware import Hardware
    from orchestrator.plan import Plan

DISTRIBUTIONS = (
    "FlagEmbedding", "ms-swift", "sentence-transformers", "transformers", "peft", "deepspeed", "accelerate",
    "datasets", "tokenizers", "safetensors", "torch", "numpy", "ir-measures",
)  # fmt: skip
_PROBE = """
import importlib.metadata as m, json, platform, sys
found = {"python": platform.python_version()}
for name in sys.argv[1:]:
    try: found[name] = m.version(name)
    except m.PackageNotFoundError: pass
print(json.dumps(found))
"""


@cache
def find_versions(python: str) -> dict[str, str]:
    """Return the versions of the ML packages that `python` has; empty when it cannot be run."""
    if python == sys.executable:
        return _own_versions()
    probe = run((python, "-I", "-c", _PROBE, *DISTRIBUTIONS), 20.0)
    try:
        found = json.loads(probe.stdout) if probe.exit_code == 0 else {}
    except ValueError:
        found = {}
    return {str(key): str(value) for key, value in found.items()}


def _own_versions() -> dict[str, str]:
    """Return this interpreter's versions from the names of its dist-info folders.

    importlib.metadata would parse each package's whole description for it, which takes longer than all of `orch check`.
    """
    wanted = {_normal(name): name for name in DISTRIBUTIONS}
    found = {"python": platform.python_version()}
    for folder in dict.fromkeys(sys.path):
        try:
            entries = os.listdir(folder or ".")  # noqa: PTH208  (names are all that is needed)
        except OSError:
            continue
        for entry in entries:
            name, dash, version = entry.removesuffix(".dist-info").rpartition("-")
            if dash and entry.endswith(".dist-info") and _normal(name) in wanted:
                found.setdefault(wanted[_normal(name)], version)
    return found


def _normal(name: str) -> str:
    return name.lower().replace("-", "_").replace(".", "_")


def build_provenance(plan: Plan, hardware: Hardware, recipe_path: Path) -> dict[str, Any]:
    """Return the content of provenance.json. Environment variables are named, never copied: they may hold secrets."""
    return {
        "version": 1,
        "orch": __version__,
        "plan_sha256": plan.digest(),
        "recipe": str(recipe_path.resolve()),
        "versions": plan.versions,
        "platform": platform.platform(),
        "cpu_count": os.cpu_count(),
        "hardware": {
            "kind": hardware.kind,
            "count": hardware.count,
            "names": list(hardware.names),
            "memory_mib": list(hardware.memory_mib),
            "precision": hardware.precision,
        },
        "git": _git_state(recipe_path.resolve().parent),
    }


def _git_state(folder: Path) -> dict[str, Any] | None:
    commit = run(("git", "-C", str(folder), "rev-parse", "HEAD"), 10.0)
    if commit.exit_code != 0:
        return None
    status = run(("git", "-C", str(folder), "status", "--porcelain", "--untracked-files=no"), 10.0)
    return {"commit": commit.stdout.strip(), "changed": bool(status.stdout.strip())}
