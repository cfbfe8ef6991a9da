"""What a stage's next launch looks like: which checkpoint it continues, what its digest is, what is out of the way.

No trainer saves atomically, and none falls back to an older checkpoint by itself, so a truncated one ends the resumed
run. `trainer_state.json` is written last, but a full disk can leave it empty beside files that look whole. What a
trainer does not find in a checkpoint (optimizer.pt, scheduler.pt, rng_state.pth) it starts afresh without a word, and
ends with exit code 0 and other losses: what the other checkpoints of a training have, each must have.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import uuid
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path

from orchestrator.machine.files import hash_path, read_regular, write_bytes
from orchestrator.machine.json_files import find_object
from orchestrator.machine.rundir import RunDir, StageDir
from orchestrator.machine.weights import is_whole_safetensors, read_shapes
from orchestrator.recipe.plan import Plan, Stage
from orchestrator.run.state import LaunchRecord, load_launch, load_result, write_result

_NAME = re.compile(r"checkpoint-([0-9]{1,18})")
_TORCH_SUFFIXES = frozenset({".pt", ".pth", ".bin"})
_LONGEST_NAME = 4096  # bytes
_ZIP_MAGIC, _PICKLE_MAGIC = b"PK\x03\x04", b"\x80"  # torch.save: an archive; before torch 1.6, a pickle
_COPIED_BYTES = 1 << 20
_CHECKED_BYTES = 256 << 20  # of larger archives only the table of contents is read, not every checksum
# what transformers' Trainer saves to go on with (Trainer._save_optimizer_and_scheduler, _save_rng_state); `latest` is
# DeepSpeed's
_RESUME_FILE = re.compile(r"optimizer\.(pt|bin)|scheduler\.pt|scaler\.pt|rng_state(_\d+)?\.pth|latest")


@dataclass(frozen=True)
class Incomplete:
    """A checkpoint that must not be resumed from, and `why`: words to follow its name."""

    path: Path
    why: str


@dataclass(frozen=True)
class ResumePoint:
    """The newest complete checkpoint, if any, and the incomplete ones that are newer (newest first)."""

    newest: Path | None
    incomplete: tuple[Incomplete, ...] = ()


def find_newest_complete(folder: Path, *, tried: str | None = None) -> ResumePoint:
    """Look through `folder`/checkpoint-N, the highest N first.

    The last checkpoint of a training that was over is taken only when there is no other, and not again when an earlier
    attempt has `tried` it: no step would be taken from there, and ms-swift then writes no links to its best and its
    last checkpoint (swift/pipelines/train/sft.py, _handle_trainer_state).
    """
    passed: list[Incomplete] = []
    over: ResumePoint | None = None
    for path in list_checkpoint_folders(folder):
        why = find_resume_defect(path)
        state = find_object(path / "trainer_state.json", constants=True) or {}
        step, last = state.get("global_step"), state.get("max_steps")
        if why:
            passed.append(Incomplete(path, f"is not complete ({why})"))
        elif not (isinstance(step, int) and isinstance(last, int) and 0 < last <= step):
            return ResumePoint(path, tuple(passed))
        else:
            over = over or ResumePoint(path, tuple(passed))
            passed.append(Incomplete(path, "is the end of the training, which is done again"))
    return over if over and str(over.newest) != tried else ResumePoint(None, tuple(passed))


def find_resume_defect(checkpoint: Path) -> str | None:
    """Return why a training cannot go on from `checkpoint` as if nothing had happened, or None when it can."""
    return find_defect(checkpoint) or _find_torch_defect(checkpoint) or _find_missing(checkpoint)


def clear_for_resume(folder: Path, found: ResumePoint, *, aside: Path, attempt: int) -> None:
    """Take out of a trainer's sight what would harm its going on: incomplete checkpoints, moved to `aside`, and links.

    The resumed training saves the same steps again; killed in the middle of it, it would leave old and new files mixed.
    Links to checkpoints are made anew at its end, and ms-swift fails on those that are there
    (swift/pipelines/train/sft.py, _handle_trainer_state).
    """
    for item in found.incomplete:
        item.path.rename(_free_name(aside / item.path.name, attempt))
    for path in folder.iterdir():
        if path.is_symlink():
            path.unlink()


def find_defect(checkpoint: Path) -> str | None:
    """Return why `checkpoint` is not a whole model, or None when it was saved to its end."""
    state = find_object(checkpoint / "trainer_state.json", constants=True)
    if state is None or "global_step" not in state:
        return "trainer_state.json is missing or cut off"
    return _find_weights_defect(checkpoint) or _find_index_defect(checkpoint) or _find_deepspeed_defect(checkpoint)


def _find_weights_defect(checkpoint: Path) -> str | None:
    weights = [*checkpoint.glob("*.safetensors"), *checkpoint.glob("pytorch_model*.bin")]
    weights += [*checkpoint.glob("adapter_model.bin")]
    if not weights and not (checkpoint / "latest").exists():
        return "it holds no weights"
    for path in weights:
        if path.suffix == ".safetensors" and not is_whole_safetensors(path):
            return f"{path.name} is cut off"
        if path.stat().st_size == 0:
            return f"{path.name} is empty"
    return None


def list_checkpoint_folders(folder: Path) -> list[Path]:
    """Return the checkpoint-N in `folder`, whole or not, the highest N first."""
    if not folder.is_dir():
        return []
    named = [(int(match[1]), path) for path in folder.iterdir() if (match := _NAME.fullmatch(path.name))]
    return [path for _, path in sorted(named, reverse=True) if path.is_dir()]


def _find_index_defect(checkpoint: Path) -> str | None:
    """Sharded weights: every file that an index names must be there."""
    for index in checkpoint.glob("*.index.json"):
        content = find_object(index, constants=True)
        shards = content.get("weight_map") if content else None
        if not isinstance(shards, dict):
            return f"{index.name} is cut off"
        missing = sorted({str(name) for name in shards.values() if not (checkpoint / str(name)).is_file()})
        if missing:
            return f"{missing[0]} is missing"
    return None


def _find_deepspeed_defect(checkpoint: Path) -> str | None:
    """DeepSpeed: `latest` names the folder that holds model and optimizer; the folder is written before its name."""
    latest = checkpoint / "latest"
    if not latest.exists():
        return None
    name = read_regular(latest, most_bytes=_LONGEST_NAME).decode("utf-8", errors="replace").strip()
    folder = checkpoint / name
    if not name or not folder.is_dir():
        return "its DeepSpeed folder is missing"
    if not (files := [path for path in folder.rglob("*") if path.is_file()]):
        return f"{name} is empty"
    empty = sorted(path.name for path in files if path.stat().st_size == 0)
    return f"{name}/{empty[0]} is empty" if empty else None


def _find_torch_defect(checkpoint: Path) -> str | None:
    """Whatever torch.save wrote must be whole: told from its bytes, never by loading a pickle."""
    for path in sorted(checkpoint.rglob("*")):
        if path.suffix in _TORCH_SUFFIXES and path.is_file() and (fault := _find_archive_fault(path)):
            return f"{path.relative_to(checkpoint)} {fault}"
    return None


def _find_archive_fault(path: Path) -> str | None:
    size = path.stat().st_size
    if size == 0:
        return "is empty"
    with path.open("rb") as stream:
        magic = stream.read(len(_ZIP_MAGIC))
    if magic.startswith(_PICKLE_MAGIC):
        return None
    if magic != _ZIP_MAGIC:
        return "is damaged"
    try:
        with zipfile.ZipFile(path) as archive:
            return "is damaged" if size <= _CHECKED_BYTES and archive.testzip() else None
    except zipfile.BadZipFile:
        return "is cut off"


def _find_missing(checkpoint: Path) -> str | None:
    """Find a file to go on with that another checkpoint of this training has, or that goes with one that is here."""
    here = _resume_files(checkpoint)
    others = [path for path in list_checkpoint_folders(checkpoint.parent) if path != checkpoint]
    needed = set().union(*map(_resume_files, others))
    if here & {"optimizer.pt", "optimizer.bin", "scheduler.pt", "latest"} and not any(
        name.startswith("rng") for name in here
    ):
        needed.add("rng_state.pth")
    if here & {"optimizer.pt"}:
        needed.add("scheduler.pt")
    missing = sorted(needed - here)
    return f"{missing[0]} is missing" if missing else None


def _resume_files(checkpoint: Path) -> set[str]:
    return {path.name for path in checkpoint.iterdir() if _RESUME_FILE.fullmatch(path.name)}


DIGEST_VERSION = 1


def stage_digest(plan: Plan, stage: Stage) -> str:
    """Return what decides a stage's result, as one hash: its command, its rendered files, its inputs on disk now.

    Inputs are the paths that the stage declares, and every earlier stage's output that its command names (an argument
    that is, holds, or lies in that output), so a stage runs again when what it reads has changed.
    """
    return _digest_in(plan, stage, _hash_inputs(plan, stage), plan.run_dir)


def _hash_inputs(plan: Plan, stage: Stage) -> dict[str, list[str]]:
    root = Path(plan.run_dir)
    return {path: [hash_path(found) for found in find_output(root, path)] for path in list_inputs(plan, stage)}


def _digest_in(plan: Plan, stage: Stage, inputs: Mapping[str, list[str]], folder: str) -> str:
    """Return the digest that the stage would have in another run folder, where its inputs hold the same."""

    def text_of(path: str) -> str:
        if (file := plan.file(path)) is None:
            return hash_path(Path(plan.run_dir) / path)
        return hashlib.sha256(_moved(file.text, plan.run_dir, folder).encode()).hexdigest()

    content = {
        "version": DIGEST_VERSION,
        "argv": stage.command.argv,
        "env": sorted(stage.command.env),
        "cwd": stage.command.cwd,
        "files": {path: text_of(path) for path in sorted(stage.files)},
        "inputs": inputs,
    }
    return hashlib.sha256(_moved(json.dumps(content, sort_keys=True), plan.run_dir, folder).encode()).hexdigest()


def _moved(text: str, old: str, new: str) -> str:
    """Return a text, plain or of JSON, with every path into one run folder leading into another."""
    if old == new:
        return text
    for first, second in ((old, new), (json.dumps(old)[1:-1], json.dumps(new)[1:-1])):
        text = second.join(re.split(re.escape(first) + r"(?![\w.-])", text))  # /a-1 does not begin /a-10
    return text


def share_stage(plan: Plan, stage: Stage, run_dir: RunDir, others: Iterable[RunDir]) -> Path | None:
    """Give a stage what the same stage of another run has made; return that run's folder, None where there is none.

    The same: by command, rendered files and content of the inputs, told from the digest that the other's result has.
    Data and models are shared by hard links, since nothing writes into what a finished stage has left.
    """
    inputs = _hash_inputs(plan, stage)
    for other in others:
        result = load_result(other.stage(stage.name))
        if result is None or result.digest != _digest_in(plan, stage, inputs, str(other.root)):
            continue
        outputs = [_moved(output, plan.run_dir, str(other.root)) for output in stage.outputs]
        found = [find_output(other.root, output) for output in outputs]
        if not all(found):
            continue
        theirs, ours = other.stage(stage.name), run_dir.stage(stage.name)
        for path in (theirs.output, theirs.stdout_log, theirs.stderr_log, *chain(*found)):
            _link(path, run_dir.root / path.relative_to(other.root), other.root, run_dir.root)
        write_result(ours, replace(result, digest=_digest_in(plan, stage, inputs, plan.run_dir)))
        return other.root
    return None


def _link(path: Path, to: Path, old: Path, new: Path) -> None:
    """Share a file or a folder. What is written to again (logs) or names its run folder (small JSON) is a copy."""
    if path.is_dir() and not path.is_symlink():
        for inner in path.iterdir():
            _link(inner, to / inner.name, old, new)
        return
    if not os.path.lexists(path):
        return
    to.parent.mkdir(parents=True, exist_ok=True)
    if os.path.lexists(to):  # of an attempt that was killed
        _remove(to)
    if path.is_symlink():
        to.symlink_to(path.readlink())
    elif path.suffix in {".log", ".json"} and path.stat().st_size < _COPIED_BYTES:
        text = path.read_text(encoding="utf-8", errors="surrogateescape")
        write_bytes(to, _moved(text, str(old), str(new)).encode("utf-8", "surrogateescape"))
    else:
        try:
            to.hardlink_to(path)
        except OSError:  # a file system without hard links
            shutil.copy2(path, to)


def list_inputs(plan: Plan, stage: Stage) -> tuple[str, ...]:
    """Return the declared inputs, and the outputs of earlier stages that the command names."""
    root = Path(plan.run_dir)
    earlier = plan.stages[: plan.stages.index(stage)]
    outputs = [output for before in earlier for output in before.outputs]
    values = [re.sub(r"^-[^=]*=", "", word) for word in stage.command.argv]  # of --flag=VALUE too
    words = [path for path in map(Path, values) if path.is_absolute()]
    named = [
        output
        for output in outputs
        if any(word.is_relative_to(root / output) or (root / output).is_relative_to(word) for word in words)
    ]
    return tuple(sorted({*stage.inputs, *named}))


def find_output(root: Path, output: str) -> tuple[Path, ...]:
    """Return what there is of an output: the path, or what its last part matches where that is a pattern (`x*`)."""
    path = root / output
    if path.exists() or "*" not in path.name:
        return (path,) if path.exists() else ()
    return tuple(sorted(path.parent.glob(path.name)))


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
        notes = [f"{item.path.name} {item.why}: skipped" for item in found.incomplete]
        if found.newest:
            clear_for_resume(checkpoints, found, aside=folder.root, attempt=number - 1)
            resumed_from = str(found.newest)
            argv = (*argv, stage.resume.flag, resumed_from)
            notes.append(f"continues from {found.newest.name}")
    if resumed_from is None:
        if stage.kind == TRAIN and earlier:
            why = "its command or its inputs have changed"
            if stage.resume is None:
                why = "its trainer cannot continue what it has saved"
            elif same:
                why = "no checkpoint of it is complete"
            notes.append(f"the training starts anew: {why}")
        notes += _clear(stage, run_dir, folder, number)
    logs = (folder.stdout_log, folder.stderr_log)
    stdout_offset, stderr_offset = (path.stat().st_size if path.exists() else 0 for path in logs)
    record = LaunchRecord(
        argv=argv,
        env=stage.command.env,
        cwd=str(run_dir.root / stage.command.cwd),
        digest=digest,
        attempt=number,
        token=str(uuid.uuid4()),
        started=now,
        stdout_offset=stdout_offset,
        stderr_offset=stderr_offset,
        resumed_from=resumed_from,
        fallback=fallback,
    )
    return Attempt(record, tuple(notes))


def find_missing_outputs(stage: Stage, run_dir: RunDir) -> tuple[str, ...]:
    """Return the outputs that the stage should have written and that are not there, or are empty folders or weights."""
    there = {output: find_output(run_dir.root, output) for output in stage.outputs}
    missing = [output for output, found in there.items() if not any(map(_is_there, found))]
    if stage.kind == TRAIN and not missing:
        # tensors without numbers: what a sharded training saves that nobody gathers
        folders = {path.parent for found in there.values() for path in found}
        for path in (path for folder in sorted(folders) for path in sorted(folder.glob("*.safetensors"))):
            shapes = read_shapes(path)
            if isinstance(shapes, dict) and (empty := sum(0 in shape for shape in shapes.values())):
                name = path.relative_to(run_dir.root)
                missing.append(f"whole weights: {empty} of {len(shapes)} tensors in {name} are empty")
    return tuple(missing)


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
    while (aside := path.with_name(f"{path.name}.attempt-{number}")).exists():
        number += 1
    return aside


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _is_there(path: Path) -> bool:
    return any(path.iterdir()) if path.is_dir() else path.exists()
