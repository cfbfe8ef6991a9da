"""What must be there before long work starts: packages, the model, room to write."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import sys
import urllib.error
import urllib.request
from dataclasses import replace
from typing import TYPE_CHECKING

from orchestrator.backends import BACKENDS
from orchestrator.errors import PreflightError, Problem
from orchestrator.models import learn_from_config

if TYPE_CHECKING:
    from pathlib import Path

    from orchestrator.backends.protocol import Job

_REPORT_MODULES = ("ir_measures", "numpy", "matplotlib")
_HUB_TIMEOUT_S = 6.0
_MAX_CONFIG_BYTES = 1_000_000
_MIN_FREE_BYTES = 512 * 1024**2


def require_ready(job: Job) -> None:
    """Raise PreflightError with everything that this machine lacks for the job."""
    problems = [*_missing_packages(job), *_missing_report_packages(), *_unreachable_model(job), *_no_room(job.run_dir)]
    if problems:
        raise PreflightError.from_problems(problems)


def _missing_packages(job: Job) -> list[Problem]:
    backend = BACKENDS[job.recipe.backend]
    needed = [*backend.distributions, *(["deepspeed"] if job.recipe.deepspeed else [])]
    missing = [name for name in needed if name not in job.versions]
    if not job.versions:
        return [Problem(f"{job.backend_python} cannot be run", "launch.python names the backend's interpreter")]
    if not missing:
        return []
    hint = (
        f"{job.backend_python} -m pip install {' '.join(missing)}\n"
        f"or, in Orch's checkout, with the tested versions: pip install -c constraints.txt -e '.[{backend.extra}]'"
    )
    return [Problem(f"the backend {backend.name} is not installed: {', '.join(missing)} missing", hint)]


def _missing_report_packages() -> list[Problem]:
    missing = [name for name in _REPORT_MODULES if importlib.util.find_spec(name) is None]
    names = " ".join(name.replace("_", "-") for name in missing)
    hint = f"{sys.executable} -m pip install {names}"
    return [Problem(f"the report needs {', '.join(missing)}", hint)] if missing else []


def _unreachable_model(job: Job) -> list[Problem]:
    if job.model.is_local or job.smoke:
        return []
    hint = "give a folder as model, set HF_ENDPOINT to a mirror such as https://hf-mirror.com, or try --smoke"
    if os.environ.get("HF_HUB_OFFLINE", "").lower() in {"1", "true", "yes", "on"}:
        return [Problem(f"{job.model.location} is not on this machine, and HF_HUB_OFFLINE forbids a download", hint)]
    endpoint = job.recipe.launch.env.get("HF_ENDPOINT") or os.environ.get("HF_ENDPOINT") or "https://huggingface.co"
    url = f"{endpoint.rstrip('/')}/{job.model.location}/resolve/main/config.json"
    if not url.startswith(("https://", "http://")):
        return [Problem(f"HF_ENDPOINT is no web address: {endpoint}", "it begins with https://")]
    request = urllib.request.Request(url)  # noqa: S310  (the scheme was checked above)
    if token := os.environ.get("HF_TOKEN"):
        request.add_header("Authorization", f"Bearer {token}")
    try:
        with urllib.request.urlopen(request, timeout=_HUB_TIMEOUT_S) as answer:  # noqa: S310
            return _check_config(job, answer.read(_MAX_CONFIG_BYTES))
    except urllib.error.HTTPError as error:
        if error.code in {401, 403}:
            return [
                Problem(f"{job.model.location} is gated or private ({error.code})", "set HF_TOKEN in your environment")
            ]
        return [
            Problem(f"{job.model.location} is not on the hub ({error.code} from {endpoint})", "check the model's name")
        ]
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        return [
            Problem(f"{job.model.location} is not on this machine, and {endpoint} cannot be reached: {reason}", hint)
        ]


def _check_config(job: Job, text: bytes) -> list[Problem]:
    """Return what a hub model's config.json shows not to fit: too few dimensions, code that nobody trusts."""
    try:
        config = json.loads(text)
    except ValueError:
        return []  # a page in front of the hub
    if not isinstance(config, dict):
        return []
    seen = replace(job, model=learn_from_config(job.model, config))
    return [problem for _, problem in BACKENDS[job.recipe.backend].check_job(seen)]


def _no_room(run_dir: Path) -> list[Problem]:
    folder = run_dir
    while not folder.exists():
        folder = folder.parent
    if not os.access(folder, os.W_OK):
        return [Problem(f"{folder} cannot be written to", "choose another folder with -o")]
    free = shutil.disk_usage(folder).free
    if free < _MIN_FREE_BYTES:
        return [Problem(f"only {free // 1024**2} MiB are free under {folder}", "choose another disk with -o")]
    return []
