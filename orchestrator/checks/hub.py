"""Whether a hub gives the models that are not on this machine, and whether what it says of them fits the job."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.backends.models import learn_from_config
from orchestrator.backends.protocol import Job
from orchestrator.errors import Problem
from orchestrator.machine.json_files import DamagedJsonError, parse_json
from orchestrator.machine.places import find_endpoint, find_token, is_offline, is_web_address
from orchestrator.plan.measuring import find_teacher_spec
from orchestrator.recipe.plan import Plan

if TYPE_CHECKING:  # they take longer to import than all of this room
    from http.client import HTTPResponse
    from urllib.request import Request

FindMisfits = Callable[[dict[str, Any]], list[Problem]]

_HUB_TIMEOUT_S = 6.0
_MAX_CONFIG_BYTES = 1_000_000


def check_hub(job: Job, plan: Plan) -> Iterator[Problem]:  # noqa: ARG001
    """Yield why the model or the teacher cannot be downloaded, and what does not fit in their config.json."""

    def check_model(config: dict[str, Any]) -> list[Problem]:
        """Return what does not fit: too few dimensions, code that nobody trusts."""
        seen = replace(job, model=learn_from_config(job.model, config))
        return [problem for _, problem in job.backend.check_job(seen)]

    def check_teacher(config: dict[str, Any]) -> list[Problem]:
        """Return what does not fit: no head that scores, code that nobody trusts."""
        seen = replace(job, teacher=job.teacher and learn_from_config(job.teacher, config))
        spec = find_teacher_spec(seen)
        return [spec] if isinstance(spec, Problem) else []

    for key, model, said, check in (
        ("model", job.model, job.recipe.model, check_model),
        ("teacher", job.teacher, job.recipe.teacher, check_teacher),
    ):
        if model is not None and said is not None and not model.is_local and not job.smoke:
            name = model.location
            way = f"give a folder as {key}, set HF_ENDPOINT to a mirror such as https://hf-mirror.com, or try --smoke"
            allow = None if said.allow_pickle else f"say {key}: {{path: {name}, allow_pickle: true}}"
            yield from find_hub_problems(name, check, env=job.recipe.launch.env, otherwise=way, allow=allow)


def find_hub_problems(
    hub_id: str, check: FindMisfits, *, env: Mapping[str, str], otherwise: str, allow: str | None
) -> list[Problem]:
    """Return why a hub does not give the model, or what `check` says of its config.json.

    `env` are the variables that its downloader gets, `otherwise` what helps where the hub gives nothing, `allow` how
    its user would let pickled weights be loaded; None where they are allowed.
    """
    if is_offline(os.environ):
        return [Problem(f"{hub_id} is not on this machine, and HF_HUB_OFFLINE forbids a download", otherwise)]
    endpoint = find_endpoint(env, os.environ)
    url = f"{endpoint.rstrip('/')}/{hub_id}/resolve/main/config.json"
    if not is_web_address(url):
        return [Problem(f"HF_ENDPOINT is no web address: {endpoint}", "it begins with https://")]
    token = find_token()
    answer = ask(url, token=token)
    if isinstance(answer, int):
        return [_explain_refusal(hub_id, endpoint, answer, otherwise)]
    if isinstance(answer, Exception):
        reason = getattr(answer, "reason", answer)
        return [Problem(f"{hub_id} is not on this machine, and {endpoint} cannot be reached: {reason}", otherwise)]
    try:
        config = parse_json(answer, constants=True)
    except DamagedJsonError:
        return []  # such as a page in front of the hub
    if not isinstance(config, dict):
        return []
    problems, whole = check(config), f"{url.removesuffix('config.json')}model.safetensors"
    gone = HTTPStatus.NOT_FOUND  # any other answer is no verdict
    if allow is not None and all(ask(f"{whole}{end}", "HEAD", token=token) == gone for end in ("", ".index.json")):
        message = f"{hub_id} has no safetensors on the hub: loading a pickle runs code that it brings along"
        problems = [*problems, Problem(message, f"take a model with safetensors, or {allow}")]
    return problems


def _explain_refusal(location: str, endpoint: str, code: int, otherwise: str) -> Problem:
    """Return what a hub's HTTP status means for a model. A hub that is busy or broken says nothing about the model."""
    if code in {HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN}:
        way = "ask for access on its page, then set HF_TOKEN in your environment or run: hf auth login"
        return Problem(f"{location} is gated or private, or there is none of that name ({code} from {endpoint})", way)
    if code in {HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.REQUEST_TIMEOUT} or code >= HTTPStatus.INTERNAL_SERVER_ERROR:
        message = f"{endpoint} does not give {location} at the moment ({code})"
        return Problem(message, f"try again later; or {otherwise}")
    return Problem(f"{location} is not on the hub ({code} from {endpoint})", "check the model's name")


def ask(
    url: str, method: str = "GET", *, token: str | None = None, timeout_s: float = _HUB_TIMEOUT_S
) -> bytes | int | Exception:
    """Return the first bytes that a hub gives, its HTTP status where it refuses, or why there is no answer."""
    import urllib.error  # it takes longer to import than all other checks
    import urllib.request
    from http.client import HTTPException

    try:
        request = urllib.request.Request(url, method=method)  # noqa: S310  (the scheme was checked by whoever asks)
        if token:
            request.add_unredirected_header("Authorization", f"Bearer {token}")  # a redirect may lead to another host
        with open_address(request, timeout_s) as answer:
            return answer.read(_MAX_CONFIG_BYTES)
    except urllib.error.HTTPError as error:
        return error.code
    except (OSError, ValueError, HTTPException) as error:  # HTTPException: an address such as http://host:none
        return error


def open_address(request: Request, timeout_s: float) -> HTTPResponse:
    """Send a request to a hub as a download would: through the environment's proxy, trusting its certificates.

    REQUESTS_CA_BUNDLE and CURL_CA_BUNDLE name those of a company's proxy, which urllib alone would not read. Raises
    URLError (an OSError), HTTPError, HTTPException, ValueError.
    """
    import ssl
    import urllib.request

    bundle = Path(os.environ.get("REQUESTS_CA_BUNDLE") or os.environ.get("CURL_CA_BUNDLE") or os.devnull)
    context = ssl.create_default_context()
    if bundle.is_file():
        context.load_verify_locations(cafile=bundle)
    elif bundle.is_dir():
        context.load_verify_locations(capath=bundle)
    answer: HTTPResponse = urllib.request.urlopen(request, timeout=timeout_s, context=context)  # noqa: S310
    return answer
