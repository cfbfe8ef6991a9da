"""Which checkpoint of a training can be continued: the newest that was written to its end.

No trainer saves atomically, and none falls back to an older checkpoint by itself, so a truncated one ends the resumed
run. `trainer_state.json` is written last, but a full disk can leave it empty beside files that look whole.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

_NAME = re.compile(r"checkpoint-(\d+)")
_HEADER_LENGTH_BYTES = 8  # safetensors: little-endian length, JSON header, data
_MAX_HEADER_BYTES = 100_000_000


@dataclass(frozen=True)
class Incomplete:
    """A checkpoint that must not be resumed from, and why."""

    path: Path
    why: str


@dataclass(frozen=True)
class Found:
    """The newest complete checkpoint, if any, and the incomplete ones that are newer (newest first)."""

    newest: Path | None
    incomplete: tuple[Incomplete, ...] = ()


def find_newest_complete(folder: Path) -> Found:
    """Look through `folder`/checkpoint-N, the highest N first."""
    incomplete: list[Incomplete] = []
    for path in list_checkpoint_folders(folder):
        why = find_defect(path)
        if why is None:
            return Found(path, tuple(incomplete))
        incomplete.append(Incomplete(path, why))
    return Found(None, tuple(incomplete))


def find_defect(checkpoint: Path) -> str | None:
    """Return why `checkpoint` cannot be resumed from, or None when it is complete."""
    state = _load_object(checkpoint / "trainer_state.json")
    if state is None or "global_step" not in state:
        return "trainer_state.json is missing or cut off"
    weights = [*checkpoint.glob("*.safetensors"), *checkpoint.glob("pytorch_model*.bin")]
    weights += [*checkpoint.glob("adapter_model.bin")]
    latest = checkpoint / "latest"
    if not weights and not latest.exists():
        return "it holds no weights"
    for path in weights:
        if path.suffix == ".safetensors" and not is_whole_safetensors(path):
            return f"{path.name} is cut off"
        if path.stat().st_size == 0:
            return f"{path.name} is empty"
    return _find_index_defect(checkpoint) or (_find_deepspeed_defect(checkpoint, latest) if latest.exists() else None)


def is_whole_safetensors(path: Path) -> bool:
    """Tell whether a safetensors file has its header and is as long as the header says."""
    try:
        size = path.stat().st_size
        with path.open("rb") as stream:
            length = int.from_bytes(stream.read(_HEADER_LENGTH_BYTES), "little")
            if not 0 < length <= min(_MAX_HEADER_BYTES, size):
                return False
            header = json.loads(stream.read(length))
        ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
    except (OSError, ValueError, KeyError, TypeError, IndexError, AttributeError):
        return False
    return size == _HEADER_LENGTH_BYTES + length + max(ends, default=0)


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


def _find_deepspeed_defect(checkpoint: Path, latest: Path) -> str | None:
    """DeepSpeed: `latest` names the folder that holds model and optimizer; the folder is written before its name."""
    name = latest.read_text(encoding="utf-8", errors="replace").strip()
    folder = checkpoint / name
    if not name or not folder.is_dir():
        return "its DeepSpeed folder is missing"
    files = [path for path in folder.rglob("*") if path.is_file()]
    if not files:
        return f"{name} is empty"
    empty = sorted(path.name for path in files if path.stat().st_size == 0)
    return f"{name}/{empty[0]} is empty" if empty else None


def _load_object(path: Path) -> dict[str, object] | None:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return value if isinstance(value, dict) else None
