"""What must be there before long work starts: packages, the model and its teacher, room to write."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import sys
import urllib.error
import urllib.request
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from orchestrator.backends import BACKENDS
from orchestrator.errors import PreflightError, Problem
from orchestrator.measuring import find_teacher_spec
from orchestrator.models import learn_from_config

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from orchestrator.backends.protocol import Job

_REPORT_MODULES = ("ir_measures", "numpy", "matplotlib")
_HUB_TIMEOUT_S = 6.0
_MAX_CONFIG_BYTES = 1_000_000
_MIN_FREE_BYTES = 512 * 1024**2


def require_ready(job: Job) -> None:
    """Raise PreflightError with everything that this machine lacks for the job."""
    problems = [
        *_missing_packages(job),
        *_missing_report_packages(),
        *_unreachable_model(job),
        *_unreachable_teacher(job),
        *_no_room(job.run_dir),
    ]
    if problems:
        raise PreflightError.from_problems(problems)


def _missing_packages(job: Job) -> list[Problem]:
    backend = BACKENDS[job.recipe.backend]
    needed = [*backend.distributions, *(["deepspeed"] if job.recipe.deepspeed else [])]
    missing = [name for name in needed if name not in job.versions]
    if not job.versions:
        return [Problem(f"{job.backend_python} cannot be run", "launch.python names the backend's interpreter")]
    if not missing:
        return _missing_scorer(job)
    hint = (
        f"{job.backend_python} -m pip install {' '.join(missing)}\n"
        f"or, in Orch's checkout, with the tested versions: pip install -c constraints.txt -e '.[{backend.extra}]'"
    )
    return [Problem(f"the backend {backend.name} is not installed: {', '.join(missing)} missing", hint)]


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
    missing = [name for name in _REPORT_MODULES if importlib.util.find_spec(name) is None]
    names = " ".join(name.replace("_", "-") for name in missing)
    hint = f"{sys.executable} -m pip install {names}"
    return [Problem(f"the report needs {', '.join(missing)}", hint)] if missing else []


def _unreachable_model(job: Job) -> list[Problem]:
    if job.model.is_local or job.smoke:
        return []

    def check(config: dict[str, Any]) -> list[Problem]:
        """Return what does not fit: too few dimensions, code that nobody trusts."""
        seen = replace(job, model=learn_from_config(job.model, config))
        return [problem for _, problem in BACKENDS[job.recipe.backend].check_job(seen)]

    return _ask_hub(job, job.model.location, "model", check)


def _unreachable_teacher(job: Job) -> list[Problem]:
    if job.teacher is None or job.teacher.is_local or job.smoke:
        return []
    teacher = job.teacher

    def check(config: dict[str, Any]) -> list[Problem]:
        """Return what does not fit: no head that scores, code that nobody trusts."""
        spec = find_teacher_spec(replace(job, teacher=learn_from_config(teacher, config)))
        return [spec] if isinstance(spec, Problem) else []

    return _ask_hub(job, teacher.location, "teacher", check)


def _ask_hub(job: Job, location: str, key: str, check: Callable[[dict[str, Any]], list[Problem]]) -> list[Problem]:
    """Return why a hub does not give the model, or what `check` says of its config.json; `key` is the recipe's."""
    hint = f"give a folder as {key}, set HF_ENDPOINT to a mirror such as https://hf-mirror.com, or try --smoke"
    if os.environ.get("HF_HUB_OFFLINE", "").lower() in {"1", "true", "yes", "on"}:
        return [Problem(f"{location} is not on this machine, and HF_HUB_OFFLINE forbids a download", hint)]
    endpoint = job.recipe.launch.env.get("HF_ENDPOINT") or os.environ.get("HF_ENDPOINT") or "https://huggingface.co"
    url = f"{endpoint.rstrip('/')}/{location}/resolve/main/config.json"
    if not url.startswith(("https://", "http://")):
        return [Problem(f"HF_ENDPOINT is no web address: {endpoint}", "it begins with https://")]
    request = urllib.request.Request(url)  # noqa: S310  (the scheme was checked above)
    if token := os.environ.get("HF_TOKEN"):
        request.add_header("Authorization", f"Bearer {token}")
    try:
        with urllib.request.urlopen(request, timeout=_HUB_TIMEOUT_S) as answer:  # noqa: S310
            config = _parse_config(answer.read(_MAX_CONFIG_BYTES))
    except urllib.error.HTTPError as error:
        if error.code in {401, 403}:
            return [Problem(f"{location} is gated or private ({error.code})", "set HF_TOKEN in your environment")]
        return [Problem(f"{location} is not on the hub ({error.code} from {endpoint})", "check the model's name")]
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        return [Problem(f"{location} is not on this machine, and {endpoint} cannot be reached: {reason}", hint)]
    return [] if config is None else check(config)


def _parse_config(text: bytes) -> dict[str, Any] | None:
    """Return a config.json; None for anything else, such as a page in front of the hub."""
    try:
        config = json.loads(text)
    except ValueError:
        return None
    return config if isinstance(config, dict) else None


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
