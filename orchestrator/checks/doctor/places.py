"""The folders that a run writes to: can they be written, how much is free."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from orchestrator.checks.disk import find_disk_problem, find_existing
from orchestrator.checks.doctor.finding import Finding
from orchestrator.checks.memory import show_gib
from orchestrator.machine.hub import find_hub_cache

_AMPLE = 20 * 1024**3


def examine_places(runs: Path) -> Iterator[Finding]:
    """Yield the disks of the runs, of the hub's cache and of temporary files."""
    yield _examine("runs", runs.absolute(), needed=True, remedy="keep runs elsewhere: --runs DIR, or ORCH_RUNS")
    yield _examine("hub cache", find_hub_cache(), needed=False, remedy="set HF_HOME to a folder on another disk")
    yield _examine("temporary", Path(tempfile.gettempdir()), needed=False, remedy="set TMPDIR")


def _examine(name: str, folder: Path, *, needed: bool, remedy: str) -> Finding:
    if problem := find_disk_problem(folder):
        return Finding("disk", name, "missing" if needed else "note", problem.message, remedy)
    usage = shutil.disk_usage(find_existing(folder))
    said = f"{folder}: {show_gib(usage.free)} of {show_gib(usage.total)} free"
    return Finding("disk", name, "ok", said) if usage.free >= _AMPLE else Finding("disk", name, "note", said, remedy)
