"""Room for the run folder: that it can be written, and that the disk is not full."""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING

from orchestrator.errors import Problem

if TYPE_CHECKING:
    from collections.abc import Iterator

    from orchestrator.backends.protocol import Job
    from orchestrator.plan import Plan

_MIN_FREE_BYTES = 512 * 1024**2


def check_disk(job: Job, plan: Plan) -> Iterator[Problem]:  # noqa: ARG001
    """Yield that the run folder cannot be written, or that its disk is nearly full."""
    folder = job.run_dir
    while not folder.exists():
        folder = folder.parent
    if not os.access(folder, os.W_OK):
        yield Problem(f"{folder} cannot be written to", "choose another folder with -o")
        return
    free = shutil.disk_usage(folder).free
    if free < _MIN_FREE_BYTES:
        yield Problem(f"only {free // 1024**2} MiB are free under {folder}", "choose another disk with -o")
