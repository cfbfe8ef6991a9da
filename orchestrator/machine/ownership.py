"""Whose run folder it is: this user's own, by a seal over its plan.json that only this user's key can make.

A plan.json says which programs run, with which environment. The seal travels with a copy of the folder, and all
machines that share the user's home share the key; whoever else made or changed the plan cannot seal it.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import re
import secrets
from contextlib import suppress
from pathlib import Path

from orchestrator.machine.files import open_fresh, write_text
from orchestrator.machine.rundir import RunDir
from orchestrator.machine.user_folders import find_orch_config

_PURPOSE = b"orch plan.json\0"
_KEY = re.compile(r"[0-9a-f]{64}")
_SEAL_CHARS = 64


def seal(run: RunDir, plan_text: str) -> None:
    """Put this user's seal into a run folder, for the plan whose text is given.

    A user who can keep no key has runs without a seal. Raises OSError when the folder cannot be written.
    """
    key = _load_key() or _make_key()
    if key is not None:
        write_text(run.seal, _sign(key, plan_text) + "\n")


def is_own(run: RunDir, plan_text: str) -> bool:
    """Tell whether this user has made the run whose plan.json has this text."""
    key = _load_key()
    found = _read(run.seal)
    return key is not None and found is not None and hmac.compare_digest(found, _sign(key, plan_text))


def find_key() -> Path:
    """Return where this user's key lies, whether there is one or not."""
    return find_orch_config() / "key"


def _sign(key: str, text: str) -> str:
    return hmac.new(bytes.fromhex(key), _PURPOSE + text.encode("utf-8", "surrogatepass"), hashlib.sha256).hexdigest()


def _load_key() -> str | None:
    found = _read(find_key())
    return found if found and _KEY.fullmatch(found) else None


def _make_key() -> str | None:
    """Make the key, readable for its user alone; of several that are made at one moment the first stands.

    Returns None where it cannot be kept.
    """
    path = find_key()
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        # what lies there and is no key is replaced; a key that another process has just made stands
        with suppress(FileExistsError), open_fresh(path, replace=path.exists() and _load_key() is None) as stream:
            os.fchmod(stream.fileno(), 0o600)
            stream.write(secrets.token_hex(32).encode() + b"\n")
    except OSError:
        return None
    return _load_key()


def _read(path: Path) -> str | None:
    """Return the first letters of a regular file."""
    try:
        if not path.is_file():
            return None
        with path.open(encoding="ascii", errors="replace") as stream:
            return stream.read(_SEAL_CHARS)
    except OSError:
        return None
