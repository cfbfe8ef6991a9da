"""The machine itself: GPUs, processors, memory, limits, tools."""

from __future__ import annotations

import os
import resource
import shutil
from collections.abc import Iterator
from pathlib import Path

from orchestrator.checks.devices import (
    GpuUser,
    TorchBuild,
    describe_cpu_torch,
    describe_use,
    find_busy,
    find_gpu_users,
    find_torch_build,
)
from orchestrator.checks.doctor.finding import Finding
from orchestrator.checks.memory import show_gib
from orchestrator.machine.hardware import BF16_CAPABILITY, Gpu, find_gpus, find_memory

_LEAST_OPEN_FILES = 4096
_LEAST_SHARED = 1024**3
_NO_LIMIT = 1 << 60  # cgroup v1 says "none" by a number near 2^63
_CGROUP_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")
_SHARED = Path("/dev/shm")  # noqa: S108  (looked at, never written)
_TOOLS = (
    ("py-spy", "shows where a stalled training stands", "pip install py-spy"),
    ("g++", "DeepSpeed compiles an operation with it on a CPU", "install it: apt install g++, or its like"),
    ("git", "it tells each run whether files differ from their commit", "install it: apt install git, or its like"),
)


def examine_machine(python: str) -> Iterator[Finding]:
    """Yield GPUs (and whether the torch of `python` can use them), processors, memory, limits and tools."""
    gpus = find_gpus()
    yield from describe_gpus(gpus, find_gpu_users() if find_busy(gpus) else ())
    if gpus:
        yield describe_torch(find_torch_build(python), python, len(gpus))
    yield Finding("hardware", "processors", "ok", f"{len(os.sched_getaffinity(0))} of {os.cpu_count()}")
    yield describe_memory(find_memory(), [_read(Path(name)) for name in _CGROUP_LIMITS])
    yield from _examine_limits()
    for name, use, remedy in _TOOLS:
        path = shutil.which(name)
        yield Finding("tools", name, "ok", path) if path else Finding("tools", name, "note", f"none: {use}", remedy)


def describe_gpus(gpus: tuple[Gpu, ...], users: tuple[GpuUser, ...]) -> Iterator[Finding]:
    """Yield one finding a GPU, or that there is none."""
    if not gpus:
        remedy = "install NVIDIA's driver, where there is a GPU; orch run RECIPE --smoke needs none"
        yield Finding("hardware", "GPU", "note", "none that nvidia-smi shows", remedy)
    for gpu in gpus:
        half = "fp16" if gpu.capability is not None and gpu.capability < BF16_CAPABILITY else "bf16"
        said = f"{gpu.name}, {gpu.memory_mib} MiB, {half}" + (f", driver {gpu.driver}" if gpu.driver else "")
        if find_busy((gpu,)):
            yield Finding("hardware", f"GPU {gpu.index}", "note", f"{said}; {describe_use(gpu, users)}",
                          "choose others with CUDA_VISIBLE_DEVICES")  # fmt: skip
        else:
            yield Finding("hardware", f"GPU {gpu.index}", "ok", said)


def describe_torch(torch: TorchBuild, python: str, gpus: int) -> Finding:
    """Return whether a torch can use this machine's GPUs."""
    if torch.cpu_only:
        problem = describe_cpu_torch(torch, python, gpus)
        return Finding("hardware", "torch", "missing", problem.message, problem.hint)
    built = f"CUDA {torch.cuda}" if torch.cuda else f"ROCm {torch.hip}" if torch.hip else "not installed"
    return Finding("hardware", "torch", "ok", built)


def describe_memory(sizes: dict[str, int], limits: list[str]) -> Finding:
    """Return how much memory there is, and how much of it the control group allows.

    `sizes` are those of `find_memory`, `limits` the texts of the group's memory.max.
    """
    if "MemTotal" not in sizes:
        return Finding("hardware", "memory", "note", "not known: /proc/meminfo cannot be read")
    said = f"{show_gib(sizes['MemTotal'])}, {show_gib(sizes.get('MemAvailable', 0))} of it free"
    numbers = [int(text) for text in (limit.strip() for limit in limits) if text.isdigit()]
    allowed = min((number for number in numbers if number < _NO_LIMIT), default=None)
    if allowed is not None and allowed < sizes["MemTotal"]:
        said += f"; this control group may take {show_gib(allowed)}"
    return Finding("hardware", "memory", "ok", said)


def _examine_limits() -> Iterator[Finding]:
    if _SHARED.is_dir():
        size = shutil.disk_usage(_SHARED).total
        said = f"{show_gib(size)}"
        if size < _LEAST_SHARED:
            remedy = "give the container more: docker run --shm-size=8g; or dataloader_num_workers: 0"
            yield Finding("limits", str(_SHARED), "note", f"{said}: data workers and NCCL share memory there", remedy)
        else:
            yield Finding("limits", str(_SHARED), "ok", said)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < _LEAST_OPEN_FILES:
        more = "ulimit -n 65536" if hard == resource.RLIM_INFINITY or hard > soft else "raise nofile in limits.conf"
        yield Finding("limits", "open files", "note", f"{soft}: data workers of several processes may need more", more)
    else:
        yield Finding("limits", "open files", "ok", "no limit" if soft == resource.RLIM_INFINITY else str(soft))


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii", errors="replace")
    except OSError:
        return ""
