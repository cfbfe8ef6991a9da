"""A run's plan in another folder: the same commands, files and environment, with that folder's paths."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from orchestrator.recipe.plan import Plan, plan_from_json


def move_plan(plan: Plan, folder: Path) -> Plan:
    """Return the plan with every path into its run folder leading into `folder` (absolute).

    It is the plan of that run and not one made anew from its recipe, so that another version of Orch, or a recipe that
    has been edited since, cannot change a flag unseen.
    """
    # The folder is a whole path: /runs/a is not the beginning of /runs/a-2.
    pattern = re.compile(re.escape(plan.run_dir) + r"(?![\w.-])")
    return plan_from_json(json.dumps(_map_texts(json.loads(plan.to_json()), lambda text: _put(pattern, folder, text))))


def _put(pattern: re.Pattern[str], folder: Path, text: str) -> str:
    return pattern.sub(lambda _: str(folder), text)


def _map_texts(value: Any, change: Callable[[str], str]) -> Any:
    if isinstance(value, str):
        return change(value)
    if isinstance(value, list):
        return [_map_texts(item, change) for item in value]
    if isinstance(value, dict):
        return {key: _map_texts(item, change) for key, item in value.items()}
    return value
