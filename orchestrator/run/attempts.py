"""What a stage's next launch looks like: continue a checkpoint, or start fresh with leftovers out of the way."""

from __future__ import annotations

import shutil
import uuid
from dataclasses import dataclass
from pathlib import Path

from orchestrator.machine.rundir import RunDir, StageDir
from orchestrator.recipe.plan import Stage
from orchestrator.run.checkpoints import clear_for_resume, find_newest_complete
from orchestrator.run.digests import find_output
from orchestrator.run.state import LaunchRecord, load_launch

TRAIN = "train"  # the kind of stage whose leftovers cost hours


@dataclass(frozen=True)
class Attempt:
    """The launch to make, and what the user should know about it."""

    record: LaunchRecord
    notes: tuple[str, ...] = ()


def prepare_attempt(stage: Stage, run_dir: RunDir, digest: str, now: float, *, fallback: int | None = None) -> Attempt:
    """Return the stage's next launch, after clearing what an earlier attempt left.

    `fallback`: how many of the stage's smaller batches to go down; None stays where the earlier attempt was.

    A checkpoint is continued only when the earlier attempt had the same digest: a backend resumes other data or
    another learning rate without a word. A training's old output is renamed to output.attempt-N, never deleted;
    what Orch's own stages left is removed, because a leftover would pass for a result.
    """
    folder = run_dir.stage(stage.name)
    folder.root.mkdir(parents=True, exist_ok=True)
    folder.result_json.unlink(missing_ok=True)
    folder.exit_code.unlink(missing_ok=True)
    earlier = load_launch(folder)
    number = earlier.attempt + 1 if earlier else 1
    same = earlier is not None and earlier.digest == digest
    if fallback is None:
        fallback = earlier.fallback if earlier and same else 0
    fallback = min(fallback, len(stage.fallbacks))
    argv = stage.fallbacks[fallback - 1].argv if fallback else stage.command.argv
    resumed_from, notes = None, []
    if stage.resume and same:
        checkpoints = run_dir.root / stage.resume.checkpoints
        found = find_newest_complete(checkpoints, tried=earlier.resumed_from if earlier else None)
        notes = [f"{item.path.name} {item.why}: passed over" for item in found.incomplete]
        if found.newest:
            clear_for_resume(checkpoints, found, aside=folder.root, attempt=number - 1)
            resumed_from = str(found.newest)
            argv = (*argv, stage.resume.flag, resumed_from)
            notes.append(f"continues from {found.newest.name}")
    if resumed_from is None:
        if stage.kind == TRAIN and earlier:
            notes.append(f"the training starts anew: {_why_anew(stage, same=same)}")
        notes += _clear(stage, run_dir, folder, number)
    record = LaunchRecord(
        argv=argv,
        env=stage.command.env,
        cwd=str(run_dir.root / stage.command.cwd),
        digest=digest,
        attempt=number,
        token=str(uuid.uuid4()),
        started=now,
        stdout_offset=_size_of(folder.stdout_log),
        stderr_offset=_size_of(folder.stderr_log),
        resumed_from=resumed_from,
        fallback=fallback,
    )
    return Attempt(record, tuple(notes))


def _why_anew(stage: Stage, *, same: bool) -> str:
    if stage.resume is None:
        return "its trainer cannot continue what it has saved"
    return "no checkpoint of it is complete" if same else "its command or its inputs have changed"


def find_missing_outputs(stage: Stage, run_dir: RunDir) -> tuple[str, ...]:
    """Return the outputs that the stage should have written and that are not there, or are empty folders."""
    return tuple(output for output in stage.outputs if not any(map(_is_there, find_output(run_dir.root, output))))


def _clear(stage: Stage, run_dir: RunDir, folder: StageDir, number: int) -> list[str]:
    notes = []
    if stage.kind == TRAIN and _is_there(folder.output):
        aside = _free_name(folder.output, number - 1)
        folder.output.rename(aside)
        notes.append(f"the earlier output is kept as {aside.name}")
    root = run_dir.root.resolve()
    leftovers = [path for output in stage.outputs for path in find_output(run_dir.root, output)]
    for path in (folder.output, *leftovers):
        if root in path.resolve().parents:
            _remove(path)
    return notes


def _free_name(path: Path, number: int) -> Path:
    aside = path.with_name(f"{path.name}.attempt-{number}")
    while aside.exists():
        number += 1
        aside = path.with_name(f"{path.name}.attempt-{number}")
    return aside


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _is_there(path: Path) -> bool:
    return any(path.iterdir()) if path.is_dir() else path.exists()


def _size_of(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
