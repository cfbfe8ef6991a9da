"""One worker in the foreground of a command: its progress is told while it runs, and nothing of it is left after."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from orchestrator.machine.places import WORKERS
from orchestrator.recipe.plan import Command
from orchestrator.serving import worker
from orchestrator.serving.worker import Words


def run_worker(
    name: str,
    arguments: Sequence[object],
    *,
    offline: bool,
    env: Mapping[str, str] | None = None,
    on_progress: Callable[[int, int], None] | None = None,
    if_stopped: str = "nothing was left behind",
) -> None:
    """Run the worker of that name to its end, in this Python.

    With `offline` no hub is asked; `env` is added to our environment. Raises what `serving.worker.run_worker` does;
    `if_stopped` ends the sentence when the user stops it.
    """
    added = {"PYTHONUNBUFFERED": "1", "TOKENIZERS_PARALLELISM": "false"} | ({"HF_HUB_OFFLINE": "1"} if offline else {})
    command = Command((sys.executable, str(WORKERS), name, *map(str, arguments)), cwd=str(Path.cwd()))
    words = Words(f"{name} has failed", f"{name} was stopped; {if_stopped}")
    worker.run_worker(command, words, env={**added, **(env or {})}, on_progress=on_progress)
