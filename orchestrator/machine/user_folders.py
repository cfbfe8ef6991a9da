"""Where programs keep caches and settings in a user's home, Orch among them (XDG Base Directory Specification)."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path


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
