"""The header of a safetensors file: which tensors it holds, and whether the file is as long as it says.

Format: eight bytes of length (little-endian), a JSON header of that length, the data
(https://huggingface.co/docs/safetensors). No weight is read.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.machine.json_files import parse_json
from orchestrator.machine.regular_files import open_regular

_LENGTH_BYTES = 8
_MAX_HEADER_BYTES = 100_000_000  # the format's own limit
_LONGEST_SIDE = 2**48
_LFS_START = b"version https://git-lfs"

Shapes = dict[str, tuple[int, ...]]


@dataclass(frozen=True)
class Damage:
    """Why a file is not a whole safetensors file."""

    why: str


def read_shapes(path: Path) -> Shapes | Damage:
    """Return the shape of every tensor of a whole safetensors file, or why it is none."""
    try:
        size = path.stat().st_size
        with open_regular(path) as stream:
            start = stream.read(_LENGTH_BYTES)
            length = int.from_bytes(start, "little")
            if len(start) < _LENGTH_BYTES or not 0 < length <= min(_MAX_HEADER_BYTES, size):
                return Damage("it has no safetensors header")
            header = parse_json(stream.read(length))
        end = max(_list_ends(header), default=0)
        shapes = {name: tuple(map(int, entry["shape"])) for name, entry in header.items() if name != "__metadata__"}
        if any(not 0 <= length < _LONGEST_SIDE for shape in shapes.values() for length in shape):
            return Damage("its safetensors header gives a tensor a size that none has")
    except OSError as error:
        return Damage(f"it cannot be read: {error.strerror or error}")
    except (ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError):
        return Damage("its safetensors header is cut off or damaged")
    expected = _LENGTH_BYTES + length + end
    return shapes if size == expected else Damage(f"it has {size:,} bytes, and its header says {expected:,}")


def is_whole_safetensors(path: Path) -> bool:
    """Tell whether a safetensors file has its header and is as long as the header says."""
    return not isinstance(read_shapes(path), Damage)


def is_lfs_pointer(path: Path) -> bool:
    """Tell whether git stored a file's name here and not the file: what a clone without git-lfs leaves."""
    try:
        with open_regular(path) as stream:
            return stream.read(len(_LFS_START)) == _LFS_START
    except OSError:
        return False


def _list_ends(header: dict[str, Any]) -> list[int]:
    return [int(entry["data_offsets"][1]) for name, entry in header.items() if name != "__metadata__"]
