"""DeepSpeed for trainers that take its configuration as a file: what the file says, what a CPU needs to run it."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from orchestrator.backends.protocol import Job
from orchestrator.errors import Problem


def load_deepspeed(job: Job) -> dict[str, Any] | Problem:
    """Return the job's configuration, empty without one, or what is wrong with it."""
    if not job.deepspeed_text:
        return {}
    try:
        config = json.loads(job.deepspeed_text)
    except ValueError as error:
        return Problem(f"not a DeepSpeed configuration: {error}", "name one that Orch brings along, or a JSON file")
    if not isinstance(config, dict) or not isinstance(config.get("zero_optimization", {}), dict):
        return Problem("not a DeepSpeed configuration: no object", "name one that Orch brings along, or a JSON file")
    return config


def zero_stage(config: dict[str, Any]) -> Any:
    """Return the ZeRO stage of a configuration; 0 where it names none."""
    return config.get("zero_optimization", {}).get("stage", 0)


def deepspeed_environment(job: Job) -> dict[str, str]:
    """Return what DeepSpeed needs where there is no GPU.

    On a CPU DeepSpeed compiles its communication once (deepspeed/comm/torch.py: build_shm_op). In the default folder a
    killed build of any tool leaves a lock on which every later run hangs; in this one Orch clears it.
    """
    if job.hardware.kind != "cpu" or not job.deepspeed_text:
        return {}
    return {"DS_ACCELERATOR": "cpu", "TORCH_EXTENSIONS_DIR": f"{job.cache_dir}/torch_extensions/{_build_id(job)}"}


def _build_id(job: Job) -> str:
    """Return what a compiled extension depends on: torch, DeepSpeed and the interpreter whose headers it includes."""
    parts = (job.versions.get("torch", ""), job.versions.get("deepspeed", ""), job.backend_python)
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:12]
