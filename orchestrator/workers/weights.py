"""Check saved weights: whole safetensors files, every tensor finite, none empty, none absurd."""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from orchestrator.workers.failure import WorkerError

INDEX = "model.safetensors.index.json"
# a diverged run can end with finite weights up to 1e11
MAX_MAGNITUDE = 1e8
LONGEST_HEADER_BYTES = 100_000_000


@dataclass(frozen=True)
class WeightScan:
    """What a scan of every tensor found; names are cut to the first ten."""

    files: int
    tensors: int
    parameters: int
    dtypes: tuple[str, ...]
    max_magnitude: float
    not_finite: tuple[str, ...]
    empty: tuple[str, ...]
    absurd: tuple[str, ...]

    @property
    def problems(self) -> tuple[str, ...]:
        """One line a kind of damage."""
        lines = []
        if self.not_finite:
            lines.append(f"weights are NaN or infinite in {name_some(self.not_finite)}: the training diverged")
        if self.empty:
            lines.append(
                f"weights are empty in {name_some(self.empty)}: the checkpoint was not gathered when it was saved"
            )
        if self.absurd:
            lines.append(f"weights beyond {MAX_MAGNITUDE:g} in {name_some(self.absurd)}: the training diverged")
        return tuple(lines)

    def to_json(self) -> dict[str, Any]:
        """Return the scan as JSON-ready data (an infinite magnitude as None)."""
        found = asdict(self)
        if self.not_finite:
            found["max_magnitude"] = None
        return found


def name_some(names: tuple[str, ...]) -> str:
    """Return at most three names and how many more there are."""
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""  # noqa: PLR2004
    return ", ".join(names[:3]) + more


def require_safetensors(folder: Path) -> list[Path]:
    """Return the folder's safetensors files. Raises WorkerError when there are none or an index names a missing one."""
    found = sorted(folder.glob("*.safetensors"))
    index = folder / INDEX
    if index.is_file():
        named = {folder / name for name in json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()}
        missing = sorted(path.name for path in named if not path.is_file())
        if missing:
            raise WorkerError(
                f"{folder}: {INDEX} names {', '.join(missing)}, which is not there: the save is incomplete"
            )
        found = sorted(named)
    if found:
        return found
    pickles = sorted(path.name for path in folder.glob("pytorch_model*.bin"))
    if pickles:
        raise WorkerError(f"{folder} has its weights as pickles ({', '.join(pickles)}): only safetensors are packaged")
    raise WorkerError(f"{folder} holds no *.safetensors: there are no weights to package")


def require_whole(path: Path) -> None:
    """Raise WorkerError unless header and length of the safetensors file agree (a truncated file has less)."""
    size = path.stat().st_size
    with path.open("rb") as stream:
        prefix = stream.read(8)
        length = struct.unpack("<Q", prefix)[0] if len(prefix) == 8 else LONGEST_HEADER_BYTES  # noqa: PLR2004
        if length >= LONGEST_HEADER_BYTES or 8 + length > size:
            raise WorkerError(f"{path} is truncated: {size} bytes do not hold its header")
        try:
            header = json.loads(stream.read(length))
        except ValueError as error:
            raise WorkerError(f"{path} has a damaged header: {error}") from error
    ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
    expected = 8 + length + max(ends, default=0)
    if expected != size:
        raise WorkerError(f"{path} is truncated or padded: its header asks for {expected} bytes, it has {size}")


def read_tensors(files: list[Path]) -> Iterator[tuple[str, Any]]:
    """Yield name and tensor of every weight, one at a time. Raises WorkerError for a file that is not whole."""
    from safetensors import safe_open

    for path in files:
        require_whole(path)
        with safe_open(path, framework="pt") as archive:
            for name in archive.keys():  # noqa: SIM118  a safe_open is no mapping
                yield name, archive.get_tensor(name)


def scan_weights(files: list[Path]) -> WeightScan:
    """Look at every tensor of the files. Raises WorkerError for a file that is not whole."""
    tensors = parameters = 0
    largest = 0.0
    dtypes: set[str] = set()
    not_finite: list[str] = []
    empty: list[str] = []
    absurd: list[str] = []
    for name, tensor in read_tensors(files):
        tensors += 1
        parameters += tensor.numel()
        dtypes.add(str(tensor.dtype).removeprefix("torch."))
        if tensor.numel() == 0:
            empty.append(name)
            continue
        magnitude = float(tensor.float().abs().max())
        if not magnitude < float("inf"):  # NaN compares false
            not_finite.append(name)
            continue
        largest = max(largest, magnitude)
        if magnitude > MAX_MAGNITUDE:
            absurd.append(name)
    return WeightScan(
        files=len(files),
        tensors=tensors,
        parameters=parameters,
        dtypes=tuple(sorted(dtypes)),
        max_magnitude=largest,
        not_finite=tuple(not_finite[:10]),
        empty=tuple(empty[:10]),
        absurd=tuple(absurd[:10]),
    )


def hash_parameters(model: Any) -> dict[str, str]:
    """Return a hash of each parameter's values in float32, so that dtypes can be compared across."""
    return {
        name: hashlib.sha256(parameter.detach().float().contiguous().cpu().numpy().tobytes()).hexdigest()
        for name, parameter in model.named_parameters()
    }


def hash_file(path: Path) -> str:
    """Return the sha256 of a file."""
    with path.open("rb") as stream:
        digest = hashlib.sha256()
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
