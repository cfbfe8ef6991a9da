"""The installed versions of the packages that decide what a worker computes."""

from __future__ import annotations

import contextlib
import importlib.metadata

PACKAGES = (
    "FlagEmbedding",
    "ms-swift",
    "transformers",
    "torch",
    "peft",
    "deepspeed",
    "accelerate",
    "sentence-transformers",
)


def read_versions() -> dict[str, str]:
    """Return name and version of each package that is installed."""
    versions = {}
    for name in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    return versions
