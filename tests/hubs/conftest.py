"""A fake hub, and workers that ask it with the real clients."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.hubs.fake_hub import WRITE, FakeHub, serving
from tests.workers.conftest import WORKERS

Done = subprocess.CompletedProcess[str]


@pytest.fixture
def hub() -> Iterator[FakeHub]:
    with serving() as found:
        yield found


@pytest.fixture
def hub_env(hub: FakeHub, tmp_path: Path) -> dict[str, str]:
    """Return an environment in which both clients know this hub alone, with caches and settings of their own."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "MODELSCOPE_"))}
    return kept | {
        "HF_ENDPOINT": hub.address, "HF_HOME": str(tmp_path / "hf"), "HF_HUB_DISABLE_XET": "1", "HF_TOKEN": WRITE,
        "MODELSCOPE_ENDPOINT": hub.address, "MODELSCOPE_CACHE": str(tmp_path / "ms"),
        "MODELSCOPE_HOME": str(tmp_path / "ms-home"), "MODELSCOPE_API_TOKEN": WRITE,
        "MODELSCOPE_DOWNLOAD_INTRA_CLOUD": "false", "no_proxy": "127.0.0.1",
    }  # fmt: skip


@pytest.fixture
def worker(hub_env: dict[str, str], tmp_path: Path) -> Callable[..., Done]:
    """Run a worker to its end, in that environment with changes; a variable that is None is left out."""

    def run(*words: object, **changes: str | None) -> Done:
        env = {name: value for name, value in {**hub_env, **changes}.items() if value is not None}
        argv = [sys.executable, str(WORKERS), *map(str, words)]
        done = subprocess.run(argv, env=env, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=120)
        assert "Traceback" not in done.stderr, done.stderr
        return done

    return run
