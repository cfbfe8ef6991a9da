"""Fixtures that several test folders share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


@pytest.hookimpl(tryfirst=True)  # pytest-xdist reads the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keep a file's tests in one process, for they share fixtures; all of tests/e2e, for they share real runs."""
    for item in items:
        folder = item.path.parent
        item.add_marker(pytest.mark.xdist_group("e2e" if folder.name == "e2e" else str(item.path.relative_to(ROOT))))


@pytest.fixture(scope="session")
def root() -> Path:
    return ROOT


@pytest.fixture(scope="session")
def recipes(root: Path) -> Path:
    return root / "recipes"
