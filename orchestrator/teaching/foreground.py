"""One worker in the foreground of a command: its progress is told while it runs, and nothing of it is left after."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.errors import InterruptedRunError, StageFailedError
from orchestrator.plan import Command
from orchestrator.secrets import rename_hub_token
from orchestrator.serving.artefact import WORKERS
from orchestrator.serving.foreground import read_tail, started, wait_until_over
from orchestrator.supervise.interrupts import counted_interrupts

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence


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

    With `offline` no hub is asked; `env` is added to our environment. Raises StageFailedError with its last words when
    it fails, and InterruptedRunError (whose sentence ends with `if_stopped`) when the user stops it.
    """
    added = {"PYTHONUNBUFFERED": "1", "TOKENIZERS_PARALLELISM": "false"} | ({"HF_HUB_OFFLINE": "1"} if offline else {})
    inherited = rename_hub_token({**os.environ, **added, **(env or {})})
    command = Command((sys.executable, str(WORKERS), name, *map(str, arguments)), cwd=str(Path.cwd()))
    with (
        counted_interrupts() as interrupts,
        started(command, inherited, interrupts, quiet=True, split=True) as child,
    ):
        code = wait_until_over(child, interrupts, on_progress)
        if code is None:
            raise InterruptedRunError(f"{name} was stopped; {if_stopped}")
        if code != 0:
            raise StageFailedError(f"{name} ended with exit code {code}", hint=read_tail(child) or None)
