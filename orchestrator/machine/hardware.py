"""What the machine can compute on: GPUs and the precision they support, or a CPU, and its memory."""

from __future__ import annotations

import os
import re
from functools import cache
from pathlib import Path

import msgspec
from msgspec.structs import replace

from orchestrator.errors import PreflightError
from orchestrator.machine.files import find_text

BF16_CAPABILITY = 8.0  # Ampere and later have bfloat16 units
_QUERY = "index,uuid,name,compute_cap,memory.total,memory.used,driver_version"
_LEAST_COLUMNS = 5
_ASK_TIMEOUT_S = 60.0  # without persistence mode the driver starts anew for each question, GPU by GPU
_SLICE = "MIG-"  # of a GPU: nvidia-smi lists only whole ones, under other names
_MEMINFO = Path("/proc/meminfo")


class Hardware(msgspec.Struct, frozen=True):
    """The devices that a plan is made for."""

    kind: str  # cuda | cpu
    count: int = 1
    bf16: bool = False
    names: tuple[str, ...] = ()
    memory_mib: tuple[int, ...] = ()

    @property
    def precision(self) -> str:
        """bf16 where the hardware has it, fp16 on other GPUs, fp32 on a CPU."""
        if self.kind == "cpu":
            return "fp32"
        return "bf16" if self.bf16 else "fp16"

    def __str__(self) -> str:
        """Return the hardware in words."""
        if self.kind == "cpu":
            return "CPU (fp32)"
        name = self.names[0] if self.names else "GPU"
        return f"{self.count} × {name} ({self.precision})"


CPU = Hardware("cpu")


class Gpu(msgspec.Struct, frozen=True):
    """One GPU as nvidia-smi reports it; memory in MiB, None where the driver does not say."""

    index: str
    uuid: str
    name: str
    capability: float | None
    memory_mib: int | None
    used_mib: int | None = None
    driver: str = ""


def parse_hardware(text: str) -> Hardware:
    """Return the hardware that a text names: `cpu`, `gpu`, `gpu:4`, `gpu:1:40g` (GiB of each) or `gpu:2:fp16`.

    Raises PreflightError for other text.
    """
    found = re.fullmatch(r"(cpu)|gpu(?::(\d{1,4}))?(?::(\d{1,4})g)?(?::(bf16|fp16))?", text)
    if not found or "0" in (found[2], found[3]):
        raise PreflightError(f"no such hardware: {text!r}", hint="auto, cpu, gpu, gpu:4, gpu:1:40g or gpu:2:fp16")
    if found[1]:
        return CPU
    count = int(found[2] or 1)
    memory = (int(found[3]) * 1024,) * count if found[3] else ()
    return Hardware("cuda", count, found[4] != "fp16", memory_mib=memory)


def find_hardware() -> Hardware:
    """Return this machine's hardware, as CUDA_VISIBLE_DEVICES restricts it; CPU where nvidia-smi finds nothing."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None and visible.strip() in {"", "-1"}:
        return CPU
    if not (gpus := select_visible(find_gpus(), visible)):
        return CPU
    has_bf16 = all(gpu.capability >= BF16_CAPABILITY for gpu in gpus if gpu.capability is not None)
    memory = tuple(gpu.memory_mib for gpu in gpus if gpu.memory_mib is not None)
    return Hardware("cuda", len(gpus), has_bf16, tuple(gpu.name for gpu in gpus), memory)


@cache
def find_gpus() -> tuple[Gpu, ...]:
    """Return all GPUs of this machine, whatever CUDA_VISIBLE_DEVICES says; none where nvidia-smi finds nothing.

    nvidia-smi is asked once a process: where nothing else holds the driver, each answer takes seconds.
    """
    from orchestrator.machine.process import run

    # a damaged InfoROM, or one lost GPU of many, is said beside the rows and by an exit code of its own
    return parse_gpus(
        run(("nvidia-smi", f"--query-gpu={_QUERY}", "--format=csv,noheader,nounits"), _ASK_TIMEOUT_S).stdout
    )


def find_memory() -> dict[str, int]:
    """Return the kernel's sizes of this machine's memory in bytes, such as MemTotal; empty on other systems."""
    return parse_memory(find_text(_MEMINFO) or "")


def parse_memory(text: str) -> dict[str, int]:
    """Return the sizes in the text of /proc/meminfo, in bytes; rows that count something else are left out."""
    return {found[1]: int(found[2]) * 1024 for found in re.finditer(r"^(\S+): +(\d+) kB$", text, re.MULTILINE)}


def parse_gpus(text: str) -> tuple[Gpu, ...]:
    """Return the GPUs of nvidia-smi's CSV: index, uuid, name, compute capability, MiB in all, MiB in use, driver."""
    rows = [[field.strip() for field in line.split(",")] for line in text.splitlines()]
    return tuple(
        Gpu(
            index=row[0],
            uuid=row[1],
            name=row[2],
            capability=float(row[3]) if re.fullmatch(r"\d+(\.\d+)?", row[3]) else None,
            memory_mib=int(row[4]) if row[4].isdigit() else None,
            used_mib=int(row[5]) if len(row) > _LEAST_COLUMNS and row[5].isdigit() else None,
            driver=row[6] if len(row) > _LEAST_COLUMNS + 1 else "",
        )
        for row in rows
        if len(row) >= _LEAST_COLUMNS and row[0].isdigit()
    )


def select_visible(gpus: tuple[Gpu, ...], visible: str | None) -> tuple[Gpu, ...]:
    """Return the GPUs that a value of CUDA_VISIBLE_DEVICES names, by number or by the beginning of their UUID.

    In its order, and up to the first name of none: so CUDA reads it (CUDA C++ Programming Guide, CUDA_VISIBLE_DEVICES).
    Of slices of GPUs a process sees the first alone (MIG User Guide, CUDA Device Enumeration); its memory is not known.
    """
    if visible is None:
        return gpus
    if gpus and visible.strip().startswith(_SLICE):
        name = visible.partition(",")[0].strip()
        return (replace(gpus[0], index=name, uuid=name, memory_mib=None, used_mib=None),)
    found: list[Gpu] = []
    for name in (part.strip() for part in visible.split(",")):
        gpu = next((gpu for gpu in gpus if name and (gpu.index == name or gpu.uuid.startswith(name))), None)
        if gpu is None:
            break
        found.append(gpu)
    return tuple(found)
