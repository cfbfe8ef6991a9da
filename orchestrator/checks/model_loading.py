"""Whether the backend's own Python loads the config and the tokenizer of a model folder; asked once a folder."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.backends.models import BaseModel
from orchestrator.backends.protocol import Job
from orchestrator.checks.model_files import local_models
from orchestrator.errors import Problem
from orchestrator.machine.files import write_json
from orchestrator.machine.process import run
from orchestrator.recipe.plan import Plan

_TIMEOUT_S = 300.0  # the imports alone take a minute on a slow disk
_WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".gguf", ".onnx", ".h5", ".msgpack")
DECIDING = ("transformers", "tokenizers", "python")
_NEEDS_CODE = "contains custom code"  # resolve_trust_remote_code of transformers/dynamic_module_utils.py (4.57, 5.19)


@dataclass(frozen=True)
class Loader:
    """The Python that is to load models: its libraries, its variables, Orch's workers, and where answers are kept.

    `cache_dir` is empty where they are not.
    """

    python: str
    workers: str
    versions: Mapping[str, str]
    env: Mapping[str, str]
    cache_dir: str


def check_model_loading(job: Job, plan: Plan) -> Iterator[Problem]:  # noqa: ARG001
    """Yield what the backend's libraries say of a config or a tokenizer that does not load."""
    for key, model, _ in local_models(job):
        trust = f"say {key}: {{path: …, trust_remote_code: true}}"
        problem = find_loading_problem(model, find_loader(job, model), trust=trust)
        if problem is not None:
            yield problem


def find_loader(job: Job, model: BaseModel) -> Loader:
    """Return what a job's models are loaded in."""
    return Loader(job.backend_python, job.workers, job.versions, job.environment(model), job.cache_dir)


def find_loading_problem(model: BaseModel, loader: Loader, *, trust: str) -> Problem | None:
    """Return why the folder does not load; None where it does, or did when nothing of what decides it was different.

    `trust` is how its user would let the code run that the folder brings along.
    """
    known = Path(loader.cache_dir) / "models" / f"{_find_key(model, loader)}.json" if loader.cache_dir else None
    if known is not None and known.is_file():
        return None
    code = ("--trust-remote-code",) if model.trust_remote_code else ()
    argv = (loader.python, loader.workers, "inspect_model", "--model", str(model.folder), *code)
    env = {**os.environ, **loader.env}
    done = run((*argv, "--without-torch"), _TIMEOUT_S, env=env) if not model.trust_remote_code else None
    if done is not None and _NEEDS_CODE in done.stderr:
        hint = f"read that code, then {trust}; or take a model without code"
        return Problem(f"{model.folder} brings Python code along, and does not load without it", hint)
    if done is None or done.exit_code != 0:  # a config or a tokenizer that does need PyTorch gets it
        done = run(argv, _TIMEOUT_S, env=env)
    if done.exit_code == 0 and (found := parse_answer(done.stdout)) is not None:
        if known is not None:
            with suppress(OSError):  # a cache that cannot be written is one that is not there
                write_json(known, {"model": str(model.folder), **found})
        return None
    if done.exit_code is None:
        return Problem(f"{model.folder} did not load within {_TIMEOUT_S:.0f} s", "is its disk slow, or not there?")
    lines = [line for line in done.stderr.splitlines() if line.strip()] or ["it says nothing"]
    reason = lines[-1].removeprefix("inspect_model: ")
    installed = ", ".join(f"{name} {loader.versions[name]}" for name in DECIDING if name in loader.versions)
    hint = f"{loader.python} has {installed}: download the model again, or install the version that it asks for"
    return Problem(reason, hint)


def _find_key(model: BaseModel, loader: Loader) -> str:
    """Return a hash of all that decides whether a folder loads: its small files as they are on disk, and versions."""
    folder = model.folder or Path()
    files = sorted(path for path in folder.iterdir() if path.is_file() and path.suffix not in _WEIGHTS)
    stats = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in files]
    versions = [loader.versions.get(name) for name in DECIDING]
    parts: list[Any] = [str(folder), stats, versions, loader.python, model.trust_remote_code]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]


def parse_answer(text: str) -> dict[str, Any] | None:
    """Return what the worker printed; None for anything else. What a site's own start-up prints stands before it."""
    try:
        found = json.loads(text.strip().rpartition("\n")[2])
    except ValueError:
        return None
    return found if isinstance(found, dict) else None
