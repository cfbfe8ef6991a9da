"""Whether the backend's own Python loads the config and the tokenizer of a model folder; asked once a folder."""

from __future__ import annotations

import hashlib
import json
import os
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.errors import Problem
from orchestrator.preflight.model_files import local_models
from orchestrator.process import run
from orchestrator.rundir import write_json

if TYPE_CHECKING:
    from collections.abc import Iterator

    from orchestrator.backends.protocol import Job
    from orchestrator.models import BaseModel
    from orchestrator.plan import Plan

_TIMEOUT_S = 120.0
_WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".gguf", ".onnx", ".h5", ".msgpack")
_DECIDING = ("transformers", "tokenizers", "python")


def check_model_loading(job: Job, plan: Plan) -> Iterator[Problem]:  # noqa: ARG001
    """Yield what the backend's libraries say of a config or a tokenizer that does not load."""
    for _, model, _ in local_models(job):
        problem = _inspect(job, model)
        if problem is not None:
            yield problem


def _inspect(job: Job, model: BaseModel) -> Problem | None:
    """Return why the folder does not load; None where it does, or did when nothing of what decides it was different."""
    known = Path(job.cache_dir) / "models" / f"{_find_key(job, model)}.json" if job.cache_dir else None
    if known is not None and known.is_file():
        return None
    trust = ("--trust-remote-code",) if model.trust_remote_code else ()
    argv = (job.backend_python, job.workers, "inspect_model", "--model", str(model.folder), *trust)
    env = {**os.environ, **job.environment(model)}
    done = run((*argv, "--without-torch"), _TIMEOUT_S, env=env) if not model.trust_remote_code else None
    if done is None or done.exit_code != 0:  # a config or a tokenizer that does need PyTorch gets it
        done = run(argv, _TIMEOUT_S, env=env)
    if done.exit_code == 0 and (found := _parse(done.stdout)) is not None:
        if known is not None:
            with suppress(OSError):  # a cache that cannot be written is one that is not there
                write_json(known, {"model": str(model.folder), **found})
        return None
    if done.exit_code is None:
        return Problem(f"{model.folder} did not load within {_TIMEOUT_S:.0f} s", "is its disk slow, or not there?")
    lines = [line for line in done.stderr.splitlines() if line.strip()] or ["it says nothing"]
    reason = lines[-1].removeprefix("inspect_model: ")
    installed = ", ".join(f"{name} {job.versions[name]}" for name in _DECIDING if name in job.versions)
    hint = f"{job.backend_python} has {installed}: download the model again, or install the version that it asks for"
    return Problem(reason, hint)


def _find_key(job: Job, model: BaseModel) -> str:
    """Return a hash of all that decides whether a folder loads: its small files as they are on disk, and versions."""
    folder = model.folder or Path()
    files = sorted(path for path in folder.iterdir() if path.is_file() and path.suffix not in _WEIGHTS)
    stats = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in files]
    versions = [job.versions.get(name) for name in _DECIDING]
    parts: list[Any] = [str(folder), stats, versions, job.backend_python, model.trust_remote_code]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]


def _parse(text: str) -> dict[str, Any] | None:
    try:
        found = json.loads(text)
    except ValueError:
        return None
    return found if isinstance(found, dict) else None
