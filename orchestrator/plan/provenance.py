"""What a run was made with: versions, hardware, platform, git state, hashes."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from orchestrator import __version__
from orchestrator.backends.render import find_templates
from orchestrator.machine.content_hash import hash_path
from orchestrator.machine.git_state import find_git_state
from orchestrator.machine.hardware import Hardware, find_memory
from orchestrator.machine.installed import find_path, list_distributions, normalise
from orchestrator.machine.own_files import PACKAGE
from orchestrator.machine.process import run
from orchestrator.recipe.plan import Plan

PROVENANCE_VERSION = 2
DISTRIBUTIONS = (
    "FlagEmbedding", "ms-swift", "sentence-transformers", "transformers", "peft", "deepspeed", "accelerate",
    "datasets", "tokenizers", "safetensors", "torch", "numpy", "ir-measures",
    "flash-attn", "kernels", "liger-kernel", "bitsandbytes", "hqq", "eetq", "optimum-quanto",
)  # fmt: skip
# What single arguments of a trainer ask for (preflight/argument_packages.py).
OPTIONAL = (
    "tensorboard", "tensorboardX", "wandb", "swanlab", "mlflow", "comet-ml", "trackio",
    "galore-torch", "schedulefree", "lomo-optim", "apollo-torch", "evalscope", "jieba", "unsloth",
)  # fmt: skip
# What PYTHONPATH adds, and the user's own packages, are there for a stage too; the working directory is not.
_PROBE = """
import sys
sys.path[:] = filter(None, sys.path)
import importlib.metadata as m, json, platform
found = {"python": platform.python_version()}
if not sys.argv[1:]:
    found.update(sorted((d.name.lower().replace("-", "_").replace(".", "_"), d.version) for d in m.distributions()))
for name in sys.argv[1:]:
    try: found[name] = m.version(name)
    except m.PackageNotFoundError: pass
print(json.dumps(found))
"""


@cache
def find_versions(python: str, *, may_run: bool = True) -> dict[str, str]:
    """Return the versions of the ML packages that `python` has; empty when it cannot be told.

    They are read from its folders. Where those do not tell, the interpreter is asked, unless `may_run` forbids it.
    """
    known = _own_path() if python == sys.executable else find_path(python)
    if known is not None:
        found = _choose(*known)
        if len(found) > 1 or python == sys.executable or not may_run:  # more than Python's own version
            return found
    return _probe(python, *DISTRIBUTIONS, *OPTIONAL) if may_run else {}


def _own_path() -> tuple[str, list[str]]:
    return platform.python_version(), sys.path


def _choose(version: str, folders: list[str]) -> dict[str, str]:
    """Return Python's version and those of the ML packages in the folders of a path.

    importlib.metadata would parse each package's whole description for it, which takes longer than all of `orch check`.
    """
    wanted = {normalise(name): name for name in (*DISTRIBUTIONS, *OPTIONAL)}
    found = {"python": version}
    for name, number in list_distributions(folders):
        if name in wanted:
            found.setdefault(wanted[name], number)
    return found


@dataclass(frozen=True)
class Asked:
    """The command line that a run was asked for with: `orch reproduce` and readers of a report need it."""

    recipe: Path
    overrides: tuple[str, ...] = ()
    hardware: str = "auto"


def build_provenance(plan: Plan, hardware: Hardware, asked: Asked, *, may_run: bool = True) -> dict[str, Any]:
    """Return the content of provenance.json. Environment variables are named, never copied: they may hold secrets.

    Without `may_run` no interpreter of the plan is started.
    `inputs` has the hash of everything that the plan's stages read from outside the run folder: data, models.
    """
    recipe = asked.recipe.resolve()
    return {
        "version": PROVENANCE_VERSION,
        "orch": __version__,
        "orch_sha256": _hash_sources(),
        "templates_sha256": hash_path(find_templates()),
        "plan_sha256": plan.digest(),
        "recipe": str(recipe),
        "recipe_sha256": hash_path(recipe),
        "asked": {"smoke": plan.smoke, "hardware": asked.hardware, "set": list(asked.overrides)},
        "inputs": hash_inputs(plan),
        "versions": plan.versions,
        "environments": {python: find_packages(python, may_run=may_run) for python in find_interpreters(plan)},
        "platform": platform.platform(),
        "cpu": {"name": _cpu_name(), "count": os.cpu_count(), "memory_mib": _memory_mib()},
        "hardware": {
            "kind": hardware.kind,
            "count": hardware.count,
            "names": list(hardware.names),
            "memory_mib": list(hardware.memory_mib),
            "precision": hardware.precision,
        },
        "git": find_git_state(recipe.parent),
    }


def hash_inputs(plan: Plan) -> dict[str, str]:
    """Return path → hash of what the stages read from outside the run folder; "absent" for what is not there."""
    paths = sorted({path for stage in plan.stages for path in stage.inputs if Path(path).is_absolute()})
    outside = [path for path in paths if Path(plan.run_dir) not in Path(path).parents]
    return {path: hash_path(Path(path)) for path in outside}


def find_interpreters(plan: Plan) -> list[str]:
    """Return the Python of each stage, every one once: Orch's, and the backend's where it has its own."""
    return sorted({stage.command.argv[0] for stage in plan.stages})


@cache
def find_packages(python: str, *, may_run: bool = True) -> dict[str, str]:
    """Return name and version of every distribution that an interpreter has; empty when it cannot be told.

    As in `find_versions`, it is run only where its folders do not tell, and it may be.
    """
    known = _own_path() if python == sys.executable else find_path(python)
    if known is None:
        return _probe(python) if may_run else {}
    found = {} if python == sys.executable else {"python": known[0]}
    for name, version in list_distributions(known[1]):
        found.setdefault(name, version)
    return dict(sorted(found.items()))


def _probe(python: str, *names: str) -> dict[str, str]:
    """Return the versions of the distributions of another interpreter: those named, or all."""
    probe = run((python, "-c", _PROBE, *names), 20.0)
    try:
        found = json.loads(probe.stdout) if probe.exit_code == 0 else {}
    except ValueError:
        found = {}
    return {str(key): str(value) for key, value in found.items()}


def _hash_sources() -> str:
    """Return the hash of Orch's own modules: in a checkout the version alone says little."""
    rows = [(str(path.relative_to(PACKAGE)), hash_path(path)) for path in sorted(PACKAGE.rglob("*.py"))]
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()


def _cpu_name() -> str | None:
    """Return the processor's name as the kernel says it; None on other systems."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return None
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), None)


def _memory_mib() -> int | None:
    total = find_memory().get("MemTotal")
    return None if total is None else total // 1024**2
