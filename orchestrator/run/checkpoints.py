"""Which checkpoint of a training can be continued: the newest that was written to its end.

No trainer saves atomically, and none falls back to an older checkpoint by itself, so a truncated one ends the resumed
run. `trainer_state.json` is written last, but a full disk can leave it empty beside files that look whole. What a
trainer does not find in a checkpoint (optimizer.pt, scheduler.pt, rng_state.pth) it starts afresh without a word, and
ends with exit code 0 and other losses: what the other checkpoints of a training have, each must have.
"""

from __future__ import annotations

import re
import zipfile
from dataclasses import dataclass
from pathlib import Path

from orchestrator.machine.json_files import find_object
from orchestrator.machine.regular_files import read_regular
from orchestrator.machine.safetensors_files import is_whole_safetensors

_NAME = re.compile(r"checkpoint-([0-9]{1,18})")
_TORCH_SUFFIXES = frozenset({".pt", ".pth", ".bin"})
_LONGEST_NAME = 4096  # bytes
_ZIP_MAGIC, _PICKLE_MAGIC = b"PK\x03\x04", b"\x80"  # torch.save: an archive; before torch 1.6, a pickle
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
class Found:
    """The newest complete checkpoint, if any, and the incomplete ones that are newer (newest first)."""

    newest: Path | None
    incomplete: tuple[Incomplete, ...] = ()


def find_newest_complete(folder: Path, *, tried: str | None = None) -> Found:
    """Look through `folder`/checkpoint-N, the highest N first.

    The last checkpoint of a training that was over is taken only when there is no other, and not again when an earlier
    attempt has `tried` it: no step would be taken from there, and ms-swift then writes no links to its best and its
    last checkpoint (swift/pipelines/train/sft.py, _handle_trainer_state).
    """
    passed: list[Incomplete] = []
    over: Found | None = None
    for path in list_checkpoint_folders(folder):
        why = find_resume_defect(path)
        if why:
            passed.append(Incomplete(path, f"is not complete ({why})"))
        elif not _is_over(path):
            return Found(path, tuple(passed))
        else:
            over = over or Found(path, tuple(passed))
            passed.append(Incomplete(path, "is the end of the training, which is done again"))
    return over if over and str(over.newest) != tried else Found(None, tuple(passed))


def find_resume_defect(checkpoint: Path) -> str | None:
    """Return why a training cannot go on from `checkpoint` as if nothing had happened, or None when it can."""
    return find_defect(checkpoint) or _find_torch_defect(checkpoint) or _find_missing(checkpoint)


def clear_for_resume(folder: Path, found: Found, *, aside: Path, attempt: int) -> None:
    """Take out of a trainer's sight what would harm its going on: incomplete checkpoints, moved to `aside`, and links.

    The resumed training saves the same steps again; killed in the middle of it, it would leave old and new files mixed.
    Links to checkpoints are made anew at its end, and ms-swift fails on those that are there
    (swift/pipelines/train/sft.py, _handle_trainer_state).
    """
    for item in found.incomplete:
        number = attempt
        while (target := aside / f"{item.path.name}.attempt-{number}").exists():
            number += 1
        item.path.rename(target)
    for path in folder.iterdir():
        if path.is_symlink():
            path.unlink()


def find_defect(checkpoint: Path) -> str | None:
    """Return why `checkpoint` is not a whole model, or None when it was saved to its end."""
    state = _load_object(checkpoint / "trainer_state.json")
    if state is None or "global_step" not in state:
        return "trainer_state.json is missing or cut off"
    return _find_weights_defect(checkpoint) or _find_index_defect(checkpoint) or _find_deepspeed_defect(checkpoint)


def _is_over(checkpoint: Path) -> bool:
    """Tell whether the checkpoint was saved at the last step of its training."""
    state = _load_object(checkpoint / "trainer_state.json") or {}
    step, last = state.get("global_step"), state.get("max_steps")
    return isinstance(step, int) and isinstance(last, int) and 0 < last <= step


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
        content = _load_object(index)
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
    files = [path for path in folder.rglob("*") if path.is_file()]
    if not files:
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


def _load_object(path: Path) -> dict[str, object] | None:
    return find_object(path, constants=True)
