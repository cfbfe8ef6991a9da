"""One job for a machine that does not exist: plans made from it touch nothing and read the same everywhere."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.backends.protocol import Job
from orchestrator.plan.jobs import find_guard_kinds, find_kind, load_deepspeed, sniff_rows
from orchestrator.plan.load import load_recipe

if TYPE_CHECKING:
    from orchestrator.backends.models import BaseModel
    from orchestrator.machine.hardware import Hardware

RECIPES = Path(__file__).resolve().parent.parent / "recipes"
TESTED = {"transformers": "5.19.0", "FlagEmbedding": "1.4.2", "ms-swift": "4.6.0"}


def build_imagined_job(
    recipe: str,
    model: BaseModel,
    hardware: Hardware,
    *,
    overrides: tuple[str, ...] = (),
    versions: dict[str, str] = TESTED,
    smoke: bool = False,
    teacher: BaseModel | None = None,
) -> Job:
    """Return the job of a shipped recipe, for hardware and a model that need not be there."""
    loaded = load_recipe(RECIPES / f"{recipe}.yaml", overrides)
    return Job(
        recipe=loaded.recipe,
        recipe_folder=Path("/project/recipes"),
        run_dir=Path("/runs/golden"),
        model=model,
        hardware=hardware,
        versions=versions,
        backend_python="/env/bin/python",
        orch_python="/orch/bin/python",
        workers="/orch/orchestrator/workers",
        smoke=smoke,
        kind=find_kind(loaded.recipe, sniff_rows(loaded)),
        deepspeed_text=load_deepspeed(loaded),
        cache_dir="/cache/orch",
        teacher=teacher,
        guard_kinds=find_guard_kinds(loaded.recipe, sniff_rows(loaded)),
    )
