"""One worker in the foreground of a command: its progress is told while it runs, and nothing of it is left after."""

from __future__ import annotations

import os
import re
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.errors import InterruptedRunError, StageFailedError
from orchestrator.plan import Command
from orchestrator.secrets import rename_hub_token
from orchestrator.serving.artefact import WORKERS
from orchestrator.serving.foreground import POLL_S, find_exit_code, read_tail, started
from orchestrator.supervise.interrupts import counted_interrupts

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from orchestrator.serving.foreground import Started

_PROGRESS = re.compile(r"^orch-progress (\d+)/(\d+)\s*$", re.MULTILINE)


def run_worker(
    name: str,
    arguments: Sequence[object],
    *,
    offline: bool,
    on_progress: Callable[[int, int], None] | None = None,
    if_stopped: str = "nothing was left behind",
) -> None:
    """Run the worker of that name to its end, in this Python.

    With `offline` no hub is asked. Raises StageFailedError with its last words when it fails, and InterruptedRunError
    (whose sentence ends with `if_stopped`) when the user stops it.
    """
    env = {"PYTHONUNBUFFERED": "1", "TOKENIZERS_PARALLELISM": "false"} | ({"HF_HUB_OFFLINE": "1"} if offline else {})
    command = Command((sys.executable, str(WORKERS), name, *map(str, arguments)), cwd=str(Path.cwd()))
    with (
        counted_interrupts() as interrupts,
        started(command, rename_hub_token(dict(os.environ) | env), interrupts, quiet=True, split=True) as child,
    ):
        told = 0
        while (code := find_exit_code(child)) is None and not interrupts.count:
            told = _tell(child, told, on_progress)
            time.sleep(POLL_S)
        if code is None:
            raise InterruptedRunError(f"{name} was stopped; {if_stopped}")
        if code != 0:
            raise StageFailedError(f"{name} ended with exit code {code}", hint=read_tail(child) or None)
        _tell(child, told, on_progress)


def _tell(child: Started, told: int, on_progress: Callable[[int, int], None] | None) -> int:
    """Tell the newest progress beyond the first `told` bytes of the worker's output; return how many are read."""
    if on_progress is None or child.stdout is None or not child.stdout.exists():
        return told
    with child.stdout.open("rb") as stream:
        stream.seek(told)
        text = stream.read().decode(errors="replace")
    whole = text[: text.rfind("\n") + 1]
    if found := _PROGRESS.findall(whole):
        on_progress(int(found[-1][0]), int(found[-1][1]))
    return told + len(whole.encode())
