"""Variables of the user's shell that would change a training, or let it wait for processes that nobody starts."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping

from orchestrator.backends.protocol import Job
from orchestrator.errors import Problem
from orchestrator.recipe.plan import Plan

# A process that finds one of these believes that others have been started, and waits for them for ever; the values are
# those of a single process. torchrun takes PET_NNODES for its --nnodes where none are given.
# NPROC_PER_NODE is not among them: the launcher `swift` reads it, which Orch does not use. Nor is MASTER_ADDR: whoever
# reads it has read a rank before, and what Orch starts without a rank meets at an address of its own.
_ALONE = {
    "WORLD_SIZE": {"1"}, "LOCAL_WORLD_SIZE": {"1"}, "NNODES": {"1"}, "PET_NNODES": {"1", "1:1"},
    "RANK": {"0", "-1"}, "LOCAL_RANK": {"0", "-1"}, "NODE_RANK": {"0"},
}  # fmt: skip
_NO_RANK = "-1"  # what trainers take for a variable that is not set (swift/utils/env.py, accelerate/state.py)


def check_shell_variables(job: Job, plan: Plan) -> Iterator[Problem]:
    """Yield the variables of the shell (or of launch.env) that every stage inherits, where the plan sets no others."""
    train = plan.stage("train")
    recipe = job.recipe.launch.env
    planned = {name for name, _ in train.command.env if name not in recipe} if train else set()
    env = {name: value for name, value in {**os.environ, **recipe}.items() if name not in planned}
    for name in _find_group(env):
        message = f"{name}={env[name]} is set: every stage would wait for processes that nobody starts"
        where = "remove it from launch.env" if name in recipe else f"unset {name}"
        yield Problem(message, f"{where}; say launch: {{nproc_per_node: …}} for several processes")
    for name in job.backend.variables:
        if env.get(name):
            message = f"{name}={env[name]} is set in your shell, and {job.backend.title}'s loss would read it"
            yield Problem(message, f"unset {name}, and say it under loss: in the recipe")


def _find_group(env: Mapping[str, str]) -> list[str]:
    """Return the variables that announce other processes; the launcher of a single process sets them too."""
    found = [name for name, alone in _ALONE.items() if name in env and env[name].strip() not in alone]
    if not found and "WORLD_SIZE" not in env:  # a rank without a size: half of what a launcher sets
        found = [name for name in ("RANK", "LOCAL_RANK") if env.get(name, _NO_RANK).strip() != _NO_RANK]
    return found
