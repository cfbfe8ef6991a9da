"""The model hub as the environment names it: its address, the way there, the token, where its downloads lie."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.machine.places import find_cache_home

if TYPE_CHECKING:  # they take longer to import than all of this room
    from http.client import HTTPResponse
    from urllib.request import Request

_ENDPOINT = "https://huggingface.co"
_TRUE = frozenset({"1", "true", "yes", "on"})  # ENV_VARS_TRUE_VALUES of huggingface_hub/constants.py


def find_endpoint(*environments: Mapping[str, str]) -> str:
    """Return the hub's address: HF_ENDPOINT of the first environment that has one, Hugging Face's own otherwise."""
    return next((found for env in environments if (found := env.get("HF_ENDPOINT"))), _ENDPOINT)


def is_offline(env: Mapping[str, str]) -> bool:
    """Tell whether HF_HUB_OFFLINE forbids to ask the hub."""
    return env.get("HF_HUB_OFFLINE", "").lower() in _TRUE


def is_web_address(endpoint: str) -> bool:
    """Tell whether an address is one that a hub can be asked at."""
    return endpoint.startswith(("https://", "http://"))


def find_hub_cache() -> Path:
    """Return the folder where Hugging Face keeps downloads, as huggingface_hub/constants.py finds it."""
    return Path(_expand(os.environ.get("HF_HUB_CACHE") or str(_find_hub_home() / "hub")))


def find_token() -> str | None:
    """Return the token that a download would send: the environment's, or what `hf auth login` has stored.

    Source: huggingface_hub/utils/_auth.py and constants.py.
    """
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        if found := os.environ.get(name, "").strip():
            return found
    stored = Path(_expand(os.environ.get("HF_TOKEN_PATH") or str(_find_hub_home() / "token")))
    try:
        return stored.read_text(encoding="utf-8").strip() or None
    except (OSError, ValueError):
        return None


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


def _find_hub_home() -> Path:
    return Path(_expand(os.environ.get("HF_HOME") or str(find_cache_home() / "huggingface")))


def _expand(path: str) -> str:
    """Return a path with ~ and $NAME filled in; what cannot be, such as the home of nobody, is left as it is."""
    return os.path.expandvars(os.path.expanduser(path))  # noqa: PTH111  (Path.expanduser raises for nobody's home)
