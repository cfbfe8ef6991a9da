"""The run folder's path: some trainers hand it to a library that reads some characters as patterns."""

from __future__ import annotations

from collections.abc import Iterator

from orchestrator.backends.protocol import Job
from orchestrator.errors import Problem
from orchestrator.recipe.plan import Plan

# datasets: `$NAME` is expanded (utils/file_utils.py: is_relative_path), `*`, `?` and `[` match other files
# (data_files.py: resolve_pattern), `::` parts a chain of archives (fsspec).
_PATTERNS = ("*", "?", "[", "$", "::")


def check_run_path(job: Job, plan: Plan) -> Iterator[Problem]:  # noqa: ARG001
    """Yield that the trainer would look for the prepared data under another name."""
    if not job.backend.reads_patterns:
        return
    path = str(job.run_dir)
    if found := [mark for mark in _PATTERNS if mark in path]:
        message = f"the run folder {path} holds {' and '.join(found)}, which would be read as a pattern of file names"
        yield Problem(message, "choose a folder without it with -o")
