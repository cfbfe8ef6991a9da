"""Whether the weights of a model fill the architecture that it is wanted for, as the backend's own Python sees it.

Asked once a folder, after all that files alone tell: names and shapes are compared, and no weight is read.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from orchestrator.backends.models import BaseModel
from orchestrator.backends.protocol import Job
from orchestrator.checks.model_files import find_uses, local_models
from orchestrator.checks.model_loading import DECIDING, Loader, find_loader, parse_answer
from orchestrator.errors import Problem
from orchestrator.machine.files import write_json
from orchestrator.machine.process import run
from orchestrator.recipe.plan import Plan

_TIMEOUT_S = 600.0  # a model of many layers takes a minute, and PyTorch's imports take another on a slow disk
_VERSION = 2  # of what the worker judges: an answer of another one is asked for again


def check_model_tensors(job: Job, plan: Plan) -> Iterator[Problem]:
    """Yield which tensors the models of a plan lack, and what to do about it."""
    for key, model, _ in local_models(job):
        yield from find_tensor_problems(model, find_loader(job, model), find_uses(plan, key))


def find_tensor_problems(model: BaseModel, loader: Loader, uses: Iterable[str]) -> list[Problem]:
    """Return what is missing from a folder's weights for what it is wanted for; a clean answer is kept."""
    wanted = sorted(set(uses))
    if model.folder is None or not wanted:
        return []
    known = Path(loader.cache_dir) / "models" / f"{_find_key(model, loader, wanted)}.json" if loader.cache_dir else None
    if known is not None and known.is_file():
        return []
    code = ("--trust-remote-code",) if model.trust_remote_code else ()
    argv = (loader.python, loader.workers, "inspect_tensors", "--model", str(model.folder), *code, "--use", *wanted)
    done = run(argv, _TIMEOUT_S, env={**os.environ, **loader.env})
    if done.exit_code is None:
        return [Problem(f"{model.folder} was not looked through within {_TIMEOUT_S:.0f} s", "is its disk slow?")]
    found = parse_answer(done.stdout)
    if done.exit_code != 0 or found is None:
        lines = [line for line in done.stderr.splitlines() if line.strip()] or ["it says nothing"]
        reason = lines[-1].removeprefix("inspect_tensors: ")
        return [Problem(f"{model.folder}: its weights cannot be looked at in {loader.python}: {reason}")]
    verdicts = found.get("verdicts") or []
    problems = [Problem(fault["message"], fault["hint"]) for verdict in verdicts for fault in verdict["faults"]]
    seen = all(not verdict.get("why_not") for verdict in verdicts)
    if seen and not problems and known is not None:
        with suppress(OSError):  # a cache that cannot be written is one that is not there
            write_json(known, {"model": str(model.folder), **found})
    return list(dict.fromkeys(problems))


def _find_key(model: BaseModel, loader: Loader, uses: list[str]) -> str:
    """Return a hash of all that decides the answer: the folder's files as they are on disk, and versions."""
    folder = model.folder or Path()
    files = sorted(path for path in folder.iterdir() if path.is_file())
    stats = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in files]
    versions = [loader.versions.get(name) for name in (*DECIDING, "torch", "accelerate")]
    parts: list[Any] = [_VERSION, str(folder), stats, versions, loader.python, model.trust_remote_code, uses]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]
