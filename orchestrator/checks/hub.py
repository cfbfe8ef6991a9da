"""Whether a hub gives the models that are not on this machine, and whether what it says of them fits the job."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from msgspec.structs import replace

from orchestrator.backends.models import HUBS, BaseModel, HubName, learn_from_config
from orchestrator.backends.protocol import Job
from orchestrator.checks.machine import find_existing
from orchestrator.checks.memory import show_gib
from orchestrator.checks.model_files import list_models
from orchestrator.errors import Problem
from orchestrator.machine import places
from orchestrator.machine.json_files import DamagedJsonError, parse_json
from orchestrator.machine.places import find_endpoint, is_offline, is_web_address
from orchestrator.plan.measuring import find_teacher_spec
from orchestrator.recipe.plan import Plan

if TYPE_CHECKING:  # they take longer to import than all of this room
    from http.client import HTTPResponse
    from urllib.request import Request

FindMisfits = Callable[[dict[str, Any]], Iterable[Problem]]

_HUB_TIMEOUT_S = 6.0
_MAX_BYTES = 4_000_000  # of a config, or of a listing of thousands of files


def check_hub(job: Job, plan: Plan) -> Iterator[Problem]:  # noqa: ARG001
    """Yield why the model or the teacher cannot be downloaded, and what does not fit in their config.json."""

    def check_model(config: dict[str, Any]) -> list[Problem]:  # too few dimensions, code that nobody trusts
        seen = replace(job, model=learn_from_config(job.model, config))
        return [problem for _, problem in job.backend.check_job(seen)]

    def check_teacher(config: dict[str, Any]) -> list[Problem]:  # no head that scores, code that nobody trusts
        seen = replace(job, teacher=job.teacher and learn_from_config(job.teacher, config))
        spec = find_teacher_spec(seen)
        return [spec] if isinstance(spec, Problem) else []

    for key, model, said in list_models(job, local=False):
        check = check_model if key == "model" else check_teacher
        row = HUBS[model.fetched.hub if model.fetched else "hf"]
        way = f"give a folder as {key}, set {row['endpoints'][0]} to a mirror{row['mirror']}, or try --smoke"
        allow = None if said.allow_pickle else f"say {key}: {{path: {model.location}, allow_pickle: true}}"
        yield from find_hub_problems(model, check, env=job.recipe.launch.env, otherwise=way, allow=allow)


def advise_offline(job: Job, plan: Plan) -> Iterator[Problem]:
    """Yield what a run would have to fetch, where the environment forbids to ask a hub; no hub is asked here."""
    if not is_offline(job.recipe.launch.env) and not is_offline(os.environ):
        return
    names = [model.location for _, model, _ in list_models(job, local=False)]
    names += [stage.title.removeprefix("Fetch ") for stage in plan.stages if stage.kind == "fetch"]
    hint = "it works where an earlier fetch left it in the cache; else unset the variable, or name a folder or a file"
    for name in dict.fromkeys(names):
        yield Problem(f"HF_HUB_OFFLINE is set, and the run has to fetch {name}", hint)


def find_hub_problems(
    model: BaseModel, check: FindMisfits, *, env: Mapping[str, str], otherwise: str, allow: str | None
) -> list[Problem]:
    """Return why a hub does not give the model, or what `check` says of its config.json.

    `env` are the variables that its downloader gets, `otherwise` what helps where the hub gives nothing, `allow` how
    its user would let pickled weights be loaded; None where they are allowed.
    """
    name = model.fetched or HubName("hf", model.location)
    row = HUBS[name.hub]
    if is_offline(os.environ):
        return [Problem(f"{name} is not on this machine, and HF_HUB_OFFLINE forbids a download", otherwise)]
    endpoint = find_endpoint(env, os.environ, hub=row).rstrip("/")
    if not is_web_address(endpoint):
        return [Problem(f"{row['endpoints'][0]} is no web address: {endpoint}", "it begins with https://")]
    token = places.find_token() if name.hub == "hf" else os.environ.get(row["tokens"][0])
    asked = {"endpoint": endpoint, "id": name.id, "revision": quote(name.revision or row["branch"], safe="")}
    answer = ask(row["file"].format(file="config.json", **asked), token=token)
    if isinstance(answer, int):
        return [_explain_refusal(name, endpoint, answer, otherwise)]
    if isinstance(answer, Exception):
        reason = getattr(answer, "reason", answer)
        return [Problem(f"{name} is not on this machine, and {endpoint} cannot be reached: {reason}", otherwise)]
    if (config := _parse_object(answer, constants=True)) is None:
        return []
    files = _list_files(ask(row["listing"].format(**asked), token=token))
    return [*check(config), *_find_file_problems(name, files, allow)]


def _parse_object(answer: bytes | int | Exception, *, constants: bool = False) -> dict[str, Any] | None:
    """Return the object that a hub gave; None for a page in front of it, and for more than is read of an answer."""
    with suppress(DamagedJsonError):
        said = parse_json(answer, constants=constants) if isinstance(answer, bytes) else None
        return said if isinstance(said, dict) else None
    return None


def _list_files(answer: bytes | int | Exception) -> dict[str, int]:
    """Return the size in bytes of every file, as either hub lists them; {} where it does not say."""
    said = _parse_object(answer) or {}
    data = said.get("Data")
    rows = said.get("siblings") or (data.get("Files") if isinstance(data, dict) else None) or []
    named = ((row.get("rfilename") or row.get("Path"), row.get("size") or row.get("Size") or 0) for row in rows)
    return {str(path): int(size) for path, size in named if path}


def _find_file_problems(name: HubName, files: Mapping[str, int], allow: str | None) -> Iterator[Problem]:
    """Yield that a model's weights are pickles, or that the cache has no room for them. An empty list says nothing."""
    weights = {path: size for path, size in files.items() if ".safetensors" in path}
    if files and not weights and allow is not None:
        message = f"{name} has no safetensors on the hub: loading a pickle runs code that it brings along"
        yield Problem(message, f"take a model with safetensors, or {allow}")
    cache = find_existing(places.find_hub_cache() if name.hub == "hf" else places.find_modelscope_cache())
    size, free = sum(weights.values()), shutil.disk_usage(cache).free
    if size > free:
        hint = f"free some, or set {'HF_HOME' if name.hub == 'hf' else 'MODELSCOPE_CACHE'} to a folder on another disk"
        yield Problem(f"{name} is {show_gib(size)} to download, and {show_gib(free)} are free under {cache}", hint)


def _explain_refusal(name: HubName, endpoint: str, code: int, otherwise: str) -> Problem:
    """Return what a hub's HTTP status means for a model. A hub that is busy or broken says nothing about the model."""
    token = HUBS[name.hub]["tokens"][0]
    if code in {HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN}:
        way = f"ask for access on its page, then set {token} in your environment or run: {HUBS[name.hub]['login']}"
        return Problem(f"{name} is gated or private, or there is none of that name ({code} from {endpoint})", way)
    if code in {HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.REQUEST_TIMEOUT} or code >= HTTPStatus.INTERNAL_SERVER_ERROR:
        message = f"{endpoint} does not give {name} at the moment ({code})"
        return Problem(message, f"try again later; or {otherwise}")
    what = "check the model's name" + (" and its revision" if name.revision else "")
    return Problem(f"{name} is not on the hub ({code} from {endpoint})", what)


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
            return answer.read(_MAX_BYTES)
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
