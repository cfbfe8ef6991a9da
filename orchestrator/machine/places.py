"""Where things lie: Orch's own files, the user's caches and settings, what a recipe names, and the model hub."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from orchestrator.machine.files import find_text

PACKAGE = Path(__file__).resolve().parents[1]
WORKERS = PACKAGE / "workers"
_HUGGING_FACE = {"endpoints": ("HF_ENDPOINT",), "endpoint": "https://huggingface.co"}
_TRUE = frozenset({"1", "true", "yes", "on"})  # ENV_VARS_TRUE_VALUES of huggingface_hub/constants.py


def find_beside(name: str) -> Path:
    """Return the path of a file or folder: inside the package (a wheel), else beside it (a checkout)."""
    inside = PACKAGE / name
    return inside if inside.exists() else PACKAGE.parent / name


def find_home() -> Path:
    """Return the user's home, or a folder among the temporary ones.

    The user of a container may have no home: neither HOME nor a line in /etc/passwd.
    """
    try:
        return Path.home()
    except RuntimeError:
        return Path(tempfile.gettempdir()) / f"home-{os.getuid()}"


def find_cache_home() -> Path:
    """Return the folder of all caches: XDG_CACHE_HOME, or .cache in the user's home."""
    return Path(os.environ.get("XDG_CACHE_HOME") or find_home() / ".cache")


def find_orch_config() -> Path:
    """Return the folder of what Orch keeps for this user and cannot make a second time: orch in XDG_CONFIG_HOME."""
    return Path(os.environ.get("XDG_CONFIG_HOME") or find_home() / ".config") / "orch"


def find_orch_cache() -> Path:
    """Return the folder where Orch keeps what it need not find out, or compute, a second time."""
    return find_cache_home() / "orch"


def find_file(folder: Path, name: str) -> Path | None:
    """Return the regular file that `name` names from `folder`, the root or a home; None where there is none."""
    try:
        path = folder / Path(name).expanduser()
        return path if path.is_file() else None
    except (OSError, RuntimeError):  # a name that is too long, the home of nobody
        return None


def find_python(folder: Path, name: str) -> str | None:
    """Return an interpreter as an absolute path that is not resolved: a venv's link is its identity.

    A name without a slash is looked for in PATH, and a path starts from `folder`; None where there is none, or where it
    may not be executed.
    """
    path = name if "/" not in name else find_file(folder, name)
    found = shutil.which(path) if path else None
    return str(Path(found).absolute()) if found else None


def find_endpoint(*environments: Mapping[str, str], hub: Mapping[str, Any] = _HUGGING_FACE) -> str:
    """Return a hub's address: its variable in the first environment that has one, else its own.

    `hub` is its row in workers/hubs.json. ModelScope's client takes an address without https:// in front.
    """
    names = hub["endpoints"]
    found = next((said for env in environments for name in names if (said := env.get(name))), str(hub["endpoint"]))
    return found if len(names) == 1 or is_web_address(found) else f"https://{found}"


def is_offline(env: Mapping[str, str]) -> bool:
    """Tell whether HF_HUB_OFFLINE forbids to ask the hub."""
    return env.get("HF_HUB_OFFLINE", "").lower() in _TRUE


def is_web_address(endpoint: str) -> bool:
    """Tell whether an address is one that a hub can be asked at."""
    return endpoint.startswith(("https://", "http://"))


def find_hub_cache() -> Path:
    """Return the folder where Hugging Face keeps downloads, as huggingface_hub/constants.py finds it."""
    return Path(_expand(os.environ.get("HF_HUB_CACHE") or str(_find_hub_home() / "hub")))


def find_modelscope_cache() -> Path:
    """Return the folder where ModelScope keeps downloads, as modelscope_hub/config.py finds it."""
    return Path(_expand(os.environ.get("MODELSCOPE_CACHE") or str(find_home() / ".cache" / "modelscope")))


def find_token() -> str | None:
    """Return the token that a download would send: the environment's, or what `hf auth login` has stored.

    Source: huggingface_hub/utils/_auth.py and constants.py.
    """
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        if found := os.environ.get(name, "").strip():
            return found
    stored = Path(_expand(os.environ.get("HF_TOKEN_PATH") or str(_find_hub_home() / "token")))
    return (find_text(stored, errors="strict") or "").strip() or None


def _find_hub_home() -> Path:
    return Path(_expand(os.environ.get("HF_HOME") or str(find_cache_home() / "huggingface")))


def _expand(path: str) -> str:
    """Return a path with ~ and $NAME filled in; what cannot be, such as the home of nobody, is left as it is."""
    return os.path.expandvars(os.path.expanduser(path))  # noqa: PTH111  (Path.expanduser raises for nobody's home)
