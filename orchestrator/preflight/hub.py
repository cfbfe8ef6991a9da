"""Whether a hub gives the models that are not on this machine, and whether what it says of them fits the job."""

from __future__ import annotations

import json
import os
import urllib.error
import urllib.request
from dataclasses import replace
from http import HTTPStatus
from http.client import HTTPException
from typing import TYPE_CHECKING, Any

from orchestrator.backends import BACKENDS
from orchestrator.errors import Problem
from orchestrator.measuring import find_teacher_spec
from orchestrator.models import learn_from_config

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from orchestrator.backends.protocol import Job
    from orchestrator.plan import Plan

_HUB_TIMEOUT_S = 6.0
_MAX_CONFIG_BYTES = 1_000_000
_UNREACHABLE = (OSError, ValueError, HTTPException)  # HTTPException: an address such as http://host:none


def check_hub(job: Job, plan: Plan) -> Iterator[Problem]:  # noqa: ARG001
    """Yield why the model or the teacher cannot be downloaded, and what does not fit in their config.json."""
    yield from _unreachable_model(job)
    yield from _unreachable_teacher(job)


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
    try:
        with urllib.request.urlopen(_request(url), timeout=_HUB_TIMEOUT_S) as answer:  # noqa: S310
            config = _parse_config(answer.read(_MAX_CONFIG_BYTES))
    except urllib.error.HTTPError as error:
        if error.code in {401, 403}:
            return [Problem(f"{location} is gated or private ({error.code})", "set HF_TOKEN in your environment")]
        return [Problem(f"{location} is not on the hub ({error.code} from {endpoint})", "check the model's name")]
    except _UNREACHABLE as error:
        reason = getattr(error, "reason", error)
        return [Problem(f"{location} is not on this machine, and {endpoint} cannot be reached: {reason}", hint)]
    if config is None:
        return []
    reference = job.recipe.teacher if key == "teacher" else job.recipe.model
    pickled = (
        reference is not None and not reference.allow_pickle and _has_only_pickles(url.removesuffix("config.json"))
    )
    return [*check(config), *([_refuse_pickles(location, key)] if pickled else [])]


def _has_only_pickles(folder: str) -> bool:
    """Tell whether a hub says that it has no safetensors of a model; any other answer is no verdict."""
    return all(_is_absent(f"{folder}{name}") for name in ("model.safetensors", "model.safetensors.index.json"))


def _is_absent(url: str) -> bool:
    request = _request(url)
    request.method = "HEAD"
    try:
        with urllib.request.urlopen(request, timeout=_HUB_TIMEOUT_S):  # noqa: S310
            return False
    except urllib.error.HTTPError as error:
        return error.code == HTTPStatus.NOT_FOUND
    except _UNREACHABLE:
        return False


def _refuse_pickles(location: str, key: str) -> Problem:
    message = f"{location} has no safetensors on the hub: loading a pickle runs code that it brings along"
    hint = f"take a model with safetensors, or say {key}: {{path: {location}, allow_pickle: true}}"
    return Problem(message, hint)


def _request(url: str) -> urllib.request.Request:
    request = urllib.request.Request(url)  # noqa: S310  (the scheme was checked by whoever asks)
    if token := os.environ.get("HF_TOKEN"):
        request.add_unredirected_header("Authorization", f"Bearer {token}")  # a redirect may lead to another host
    return request


def _parse_config(text: bytes) -> dict[str, Any] | None:
    """Return a config.json; None for anything else, such as a page in front of the hub."""
    try:
        config = json.loads(text)
    except ValueError:
        return None
    return config if isinstance(config, dict) else None
