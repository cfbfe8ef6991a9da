"""Room for what a run writes, on its own disk and in the hub's cache, and a path that trainers can read."""

from __future__ import annotations

import errno
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from orchestrator.backends.protocol import Job
from orchestrator.checks.memory import find_training_size, show_gib
from orchestrator.checks.model_size import find_model_size
from orchestrator.checks.settings import is_on, read_train_values
from orchestrator.errors import Problem
from orchestrator.machine.places import find_hub_cache
from orchestrator.recipe.plan import Plan

MIN_FREE_BYTES = 512 * 1024**2
_MIN_FREE_INODES = 2000  # a run makes some hundreds of files
_PROBE_BYTES = 1024**2
_COPIES_OF_DATA = 3  # canonical, as the trainer reads it, its cache
_REFUSALS = {
    errno.EROFS: "it is mounted read-only",
    errno.EDQUOT: "your quota there is used up",
    errno.ENOSPC: "no space or no inode is left there",
    errno.EACCES: "you may not write there",
    errno.EPERM: "you may not write there",
}
_BILLIONS = re.compile(r"(?<![\d.])(\d+(?:\.\d+)?)\s?b(?![a-z])", re.IGNORECASE)
# datasets: `$NAME` is expanded (utils/file_utils.py: is_relative_path), `*`, `?` and `[` match other files
# (data_files.py: resolve_pattern), `::` parts a chain of archives (fsspec).
_PATTERNS = ("*", "?", "[", "$", "::")


@dataclass(frozen=True)
class Need:
    """What a run writes, in bytes: `checkpoints` of one size each at the same time, and the rest."""

    checkpoint: int
    checkpoints: int
    models: int  # merge and package
    data: int

    @property
    def total(self) -> int:
        """All together."""
        return self.checkpoint * self.checkpoints + self.models + self.data

    def __str__(self) -> str:
        """Return the parts in words."""
        return (
            f"{self.checkpoints} checkpoints of {show_gib(self.checkpoint)}, "
            f"{show_gib(self.models)} for merge and package, {show_gib(self.data)} of data"
        )


def check_disk(job: Job, plan: Plan) -> Iterator[Problem]:
    """Yield why the run folder cannot be written, or that its disk or the hub's cache is too small."""
    if problem := find_disk_problem(job.run_dir):
        yield problem
        return
    values, need = read_train_values(plan), estimate_need(job, plan)
    # of a model that is not here the name says the size: half precision, as most are
    download = 0 if job.smoke or job.model.is_local else 2 * _guess_parameters(job.model.name)
    runs, cache = find_existing(job.run_dir), find_existing(find_hub_cache())
    shared = download > 0 and runs.stat().st_dev == cache.stat().st_dev
    free = shutil.disk_usage(runs).free
    written = need.total + (download if shared else 0)
    if written > free:
        what = f"{need}" + (f", {show_gib(download)} to download to {cache}" if shared else "")
        message = f"the run writes about {show_gib(written)} ({what}), and {show_gib(free)} are free under {runs}"
        yield Problem(message, "\n".join(_list_remedies(need, values)))
    if download and not shared and (left := shutil.disk_usage(cache).free) < download:
        size = f"{job.model.location} is about {show_gib(download)} to download"
        hint = "free some, or set HF_HOME to a folder on another disk"
        yield Problem(f"{size}, and {show_gib(left)} are free under {cache}", hint)


def find_disk_problem(folder: Path) -> Problem | None:
    """Return why a folder, or the one that it would be made in, cannot take a run's files; None where it can."""
    folder = find_existing(folder)
    hint = "choose another folder with -o"
    if not folder.is_dir():
        return Problem(f"{folder} is a file, not a folder", hint)
    try:
        with tempfile.TemporaryFile(dir=folder) as probe:  # a quota shows itself only here
            probe.write(bytes(_PROBE_BYTES))
            probe.flush()
            os.fsync(probe.fileno())
        status, free = os.statvfs(folder), shutil.disk_usage(folder).free
    except OSError as error:
        why = _REFUSALS.get(error.errno or 0, error.strerror)
        return Problem(f"{folder} cannot be written to: {why}", hint)
    if status.f_files and status.f_favail < _MIN_FREE_INODES:
        message = f"the disk of {folder} takes only {status.f_favail} more files (inodes), however short they are"
        return Problem(message, "remove folders of many small files there, or choose another disk with -o")
    if free < MIN_FREE_BYTES:
        return Problem(f"only {free // 1024**2} MiB are free under {folder}", "choose another disk with -o")
    return None


def find_existing(path: Path) -> Path:
    """Return the path, or the nearest folder above it that exists."""
    while not path.exists() and path != path.parent:
        path = path.parent
    return path


def estimate_need(job: Job, plan: Plan) -> Need:
    """Return what the run writes; a model that is not here counts by the size in its name, such as 0.6B."""
    given = job.recipe.data
    names = [*given.train, *(name for one in given.more.values() for name in one.files)]
    data = _COPIES_OF_DATA * sum(_size(job.recipe_folder / name) for name in names)
    model = None if job.smoke else find_model_size(job.model)
    values = read_train_values(plan)
    if model is None:
        parameters = 0 if job.smoke else _guess_parameters(job.model.name)
        return Need(0, _count_checkpoints(values), 2 * 2 * parameters, data)
    training = find_training_size(job, values, model)
    trained = model.parameters if training.adapter is None else training.adapter
    width = training.weight_bytes if training.adapter is None else training.trained_bytes
    optimizer = trained * (training.moment_bytes + training.master_bytes)
    if is_on(values, "save_only_model"):
        optimizer = 0
    merged = 0 if training.adapter is None else model.parameters * model.dtype_bytes
    return Need(
        checkpoint=trained * width + optimizer,
        checkpoints=_count_checkpoints(values),
        models=merged + model.parameters * (model.dtype_bytes if merged else width),
        data=data,
    )


def _count_checkpoints(values: Mapping[str, str]) -> int:
    """Return how many lie there at the same time: a new one is written before the oldest is removed."""
    kept = int(limit) if (limit := values.get("save_total_limit", "")).isdigit() else 10
    if values.get("save_strategy") == "no":
        return 1
    if values.get("save_strategy") == "epoch":
        try:
            return min(kept + 1, max(1, int(float(values["num_train_epochs"]))))
        except (KeyError, ValueError):
            return kept + 1
    return kept + 1


def _guess_parameters(name: str) -> int:
    found = _BILLIONS.findall(name.rsplit("/", 1)[-1])
    return int(float(found[-1]) * 1e9) if found else 0


def _list_remedies(need: Need, values: Mapping[str, str]) -> list[str]:
    lines = []
    limit = values.get("save_total_limit", "")
    if need.checkpoint and limit.isdigit() and int(limit) > 1 and need.checkpoints > 2:  # noqa: PLR2004
        saved = need.checkpoint * (need.checkpoints - 2)
        lines.append(f"train.save_total_limit: 1 instead of {limit} saves {show_gib(saved)}")
    return [*lines, "free some space, or choose another disk with -o"]


def _size(path: Path) -> int:
    try:
        return path.expanduser().stat().st_size
    except OSError:
        return 0


def check_run_path(job: Job, plan: Plan) -> Iterator[Problem]:  # noqa: ARG001
    """Yield that the trainer would look for the prepared data under another name."""
    if not job.backend.reads_patterns:
        return
    path = str(job.run_dir)
    if found := [mark for mark in _PATTERNS if mark in path]:
        message = f"the run folder {path} holds {' and '.join(found)}, which would be read as a pattern of file names"
        yield Problem(message, "choose a folder without it with -o")
