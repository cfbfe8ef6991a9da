"""Whether a hub gives the models that are not on this machine, and whether what it says of them fits the job."""

from __future__ import annotations

import json
import os
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from http import HTTPStatus
from http.client import HTTPException
from typing import Any

from orchestrator.backends import BACKENDS
from orchestrator.backends.models import learn_from_config
from orchestrator.backends.protocol import Job
from orchestrator.errors import Problem
from orchestrator.machine.hub import find_endpoint, find_token, is_offline, is_web_address, open_address
from orchestrator.plan.measuring import find_teacher_spec
from orchestrator.recipe.plan import Plan
from orchestrator.recipe.schema import ModelRef

FindMisfits = Callable[[dict[str, Any]], list[Problem]]

_HUB_TIMEOUT_S = 6.0
_MAX_CONFIG_BYTES = 1_000_000
_UNREACHABLE = (OSError, ValueError, HTTPException)  # HTTPException: an address such as http://host:none


@dataclass(frozen=True)
class HubQuestion:
    """What a hub is asked about: the hub id, the variables that its downloader gets, and the ways out.

    `otherwise` is what helps where the hub gives nothing. `allow` is how its user would let pickled weights be loaded;
    None where they are allowed.
    """

    hub_id: str
    env: Mapping[str, str]
    otherwise: str
    allow: str | None


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

    return find_hub_problems(_ask_for(job, job.model.location, job.recipe.model, "model"), check)


def _unreachable_teacher(job: Job) -> list[Problem]:
    teacher, said = job.teacher, job.recipe.teacher
    if teacher is None or said is None or teacher.is_local or job.smoke:
        return []

    def check(config: dict[str, Any]) -> list[Problem]:
        """Return what does not fit: no head that scores, code that nobody trusts."""
        spec = find_teacher_spec(replace(job, teacher=learn_from_config(teacher, config)))
        return [spec] if isinstance(spec, Problem) else []

    return find_hub_problems(_ask_for(job, teacher.location, said, "teacher"), check)


def _ask_for(job: Job, hub_id: str, said: ModelRef, key: str) -> HubQuestion:
    """Return the question about the model that the recipe names at `key`."""
    otherwise = f"give a folder as {key}, set HF_ENDPOINT to a mirror such as https://hf-mirror.com, or try --smoke"
    allow = None if said.allow_pickle else f"say {key}: {{path: {hub_id}, allow_pickle: true}}"
    return HubQuestion(hub_id, job.recipe.launch.env, otherwise, allow)


def find_hub_problems(question: HubQuestion, check: FindMisfits) -> list[Problem]:
    """Return why a hub does not give the model, or what `check` says of its config.json."""
    location, hint = question.hub_id, question.otherwise
    if is_offline(os.environ):
        return [Problem(f"{location} is not on this machine, and HF_HUB_OFFLINE forbids a download", hint)]
    endpoint = find_endpoint(question.env, os.environ)
    url = f"{endpoint.rstrip('/')}/{location}/resolve/main/config.json"
    if not is_web_address(url):
        return [Problem(f"HF_ENDPOINT is no web address: {endpoint}", "it begins with https://")]
    try:
        with open_address(_request(url), _HUB_TIMEOUT_S) as answer:
            config = _parse_config(answer.read(_MAX_CONFIG_BYTES))
    except urllib.error.HTTPError as error:
        return [_explain_refusal(location, endpoint, error.code, hint)]
    except _UNREACHABLE as error:
        reason = getattr(error, "reason", error)
        return [Problem(f"{location} is not on this machine, and {endpoint} cannot be reached: {reason}", hint)]
    if config is None:
        return []
    problems = check(config)
    if question.allow is not None and _has_only_pickles(url.removesuffix("config.json")):
        problems = [*problems, _refuse_pickles(location, question.allow)]
    return problems


def _explain_refusal(location: str, endpoint: str, code: int, otherwise: str) -> Problem:
    """Return what a hub's HTTP status means for a model. A hub that is busy or broken says nothing about the model."""
    if code in {HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN}:
        way = "ask for access on its page, then set HF_TOKEN in your environment or run: hf auth login"
        return Problem(f"{location} is gated or private, or there is none of that name ({code} from {endpoint})", way)
    if code in {HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.REQUEST_TIMEOUT} or code >= HTTPStatus.INTERNAL_SERVER_ERROR:
        return Problem(
            f"{endpoint} does not give {location} at the moment ({code})", f"try again later; or {otherwise}"
        )
    return Problem(f"{location} is not on the hub ({code} from {endpoint})", "check the model's name")


def _has_only_pickles(folder: str) -> bool:
    """Tell whether a hub says that it has no safetensors of a model; any other answer is no verdict."""
    return all(_is_absent(f"{folder}{name}") for name in ("model.safetensors", "model.safetensors.index.json"))


def _is_absent(url: str) -> bool:
    request = _request(url)
    request.method = "HEAD"
    try:
        with open_address(request, _HUB_TIMEOUT_S):
            return False
    except urllib.error.HTTPError as error:
        return error.code == HTTPStatus.NOT_FOUND
    except _UNREACHABLE:
        return False


def _refuse_pickles(location: str, allow: str) -> Problem:
    message = f"{location} has no safetensors on the hub: loading a pickle runs code that it brings along"
    return Problem(message, f"take a model with safetensors, or {allow}")


def _request(url: str) -> urllib.request.Request:
    request = urllib.request.Request(url)  # noqa: S310  (the scheme was checked by whoever asks)
    if token := find_token():
        request.add_unredirected_header("Authorization", f"Bearer {token}")  # a redirect may lead to another host
    return request


def _parse_config(text: bytes) -> dict[str, Any] | None:
    """Return a config.json; None for anything else, such as a page in front of the hub."""
    try:
        config = json.loads(text)
    except ValueError:
        return None
    return config if isinstance(config, dict) else None
