"""Which packages a job needs that are not there: the backend's, a scorer's, the report's."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path

from orchestrator.backends import BACKENDS
from orchestrator.backends.protocol import Job
from orchestrator.errors import Problem
from orchestrator.machine.process import run
from orchestrator.recipe.plan import Plan

_TIMEOUT_S = 20.0
REPORT_MODULES = ("ir_measures", "numpy", "scipy", "matplotlib")


def check_packages(job: Job, plan: Plan) -> Iterator[Problem]:  # noqa: ARG001
    """Yield what is not installed, with the command that installs it."""
    yield from _missing_packages(job)
    yield from _missing_report_packages()


def _missing_packages(job: Job) -> list[Problem]:
    backend = BACKENDS[job.recipe.backend]
    needed = [*backend.distributions, *(["deepspeed"] if job.recipe.deepspeed else [])]
    missing = [name for name in needed if name not in job.versions]
    if not job.versions:
        return [Problem(f"{job.backend_python} cannot be run", "launch.python names the backend's interpreter")]
    if not _can_be_run(job.backend_python):
        return [Problem(f"{job.backend_python} cannot be run", "launch.python names the backend's interpreter")]
    if not missing:
        return _missing_scorer(job)
    hint = (
        f"{job.backend_python} -m pip install {' '.join(missing)}\n"
        f"or, in Orch's checkout, with the tested versions: pip install -c constraints.txt -e '.[{backend.name}]'\n"
        f"or, in an environment of its own: orch env create {backend.name}"
    )
    return [Problem(f"the backend {backend.name} is not installed: {', '.join(missing)} missing", hint)]


def _can_be_run(python: str) -> bool:
    """Tell whether an interpreter starts: its packages are read from its folders, which says nothing of it."""
    if python == sys.executable or not Path(python).exists():
        return True
    return run((python, "-I", "-c", ""), _TIMEOUT_S).exit_code == 0


def _missing_scorer(job: Job) -> list[Problem]:
    """Return that FlagLLMReranker is not there, where the base or the teacher is scored with it."""
    wanted = {
        "model": job.model.native == "flag-llm-reranker" and "native" in job.recipe.evaluate.baselines,
        "teacher": job.teacher is not None and job.teacher.native == "flag-llm-reranker",
    }
    named = [name for name, found in wanted.items() if found]
    if not named or "FlagEmbedding" in job.versions:
        return []
    hint = f"{job.backend_python} -m pip install FlagEmbedding"
    return [Problem(f"the {' and the '.join(named)} is scored with FlagEmbedding, which is not installed", hint)]


def _missing_report_packages() -> list[Problem]:
    missing = find_missing_report_modules()
    return [Problem(f"the report needs {', '.join(missing)}", name_installation(missing))] if missing else []


def find_missing_report_modules() -> tuple[str, ...]:
    """Return what the report imports and Orch's own Python lacks."""
    return tuple(name for name in REPORT_MODULES if importlib.util.find_spec(name) is None)


def name_installation(modules: tuple[str, ...]) -> str:
    """Return the command that installs modules of the report for Orch's own Python."""
    return f"{sys.executable} -m pip install {' '.join(name.replace('_', '-') for name in modules)}"
