"""A good recipe in a folder of its own, and its plan: no model is loaded, nothing is run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import yaml

from orchestrator.machine.hardware import CPU
from orchestrator.plan.jobs import build_job
from orchestrator.plan.load import load_recipe
from tests.bad_input.case import RECIPE, BadInput

if TYPE_CHECKING:
    from orchestrator.backends.protocol import Job


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    BadInput("good", "", (), 0, "", "", "").write(tmp_path)
    return tmp_path


@pytest.fixture
def make_job(folder: Path) -> Callable[..., Job]:
    """Return the job of the good recipe with some keys replaced."""

    def make(**changes: object) -> Job:
        recipe = folder / "recipe.yaml"
        recipe.write_text(yaml.safe_dump({**yaml.safe_load(RECIPE), **changes}, allow_unicode=True), encoding="utf-8")
        return build_job(load_recipe(recipe), folder / "run", CPU)

    return make
