"""What a machine has for a run and what it lacks, in one list: environments, hardware, limits, tools, disks, hub."""

from __future__ import annotations

import math
import os
import resource
import shutil
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from http.client import HTTPException
from pathlib import Path
from typing import Literal

from orchestrator.backends import BACKENDS
from orchestrator.checks import machine
from orchestrator.checks.environments import (
    environments_home,
    find_minimum,
    judge_version,
    list_environments,
    load_tested,
)
from orchestrator.checks.hub import ask
from orchestrator.checks.machine import find_disk_problem, find_existing
from orchestrator.checks.memory import show_gib
from orchestrator.machine.hardware import BF16_CAPABILITY, Gpu, find_gpus, find_memory
from orchestrator.machine.packages import DISTRIBUTIONS, find_versions, name_pip, normalise
from orchestrator.machine.places import find_endpoint, find_hub_cache, is_offline, is_web_address
from orchestrator.machine.secrets import redact_text

HUB_TIMEOUT_S = 3.0
_MIRROR = "a mirror: export HF_ENDPOINT=https://hf-mirror.com; or download elsewhere, and give a folder as model"
_AMPLE = 20 * 1024**3
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
_STANDINGS = {
    "tested": "{version}, tested",
    "supported": "{version}, supported (tested: {tested})",
    "unknown": "{version}, not known to work (tested: {tested})",
}


@dataclass(frozen=True)
class Finding:
    """One line: what was looked at, what was found, and what to do.

    `state` is ok, note (a run can start, and may meet this later) or missing (no run can start without it).
    """

    area: str
    name: str
    state: Literal["ok", "note", "missing"]
    value: str
    remedy: str | None = None


@dataclass(frozen=True)
class Interpreter:
    """One Python: whose it is, where it is, what is installed in it."""

    title: str
    python: str
    versions: dict[str, str]

    @property
    def backends(self) -> tuple[str, ...]:
        """The backends that have all they need in it."""
        return tuple(name for name in BACKENDS if not self.find_missing(name))

    def find_missing(self, backend: str) -> tuple[str, ...]:
        """Return what a backend needs and this Python lacks."""
        return tuple(name for name in BACKENDS[backend].distributions if name not in self.versions)


def examine(
    runs: Path, *, python: str | None = None, backend: str | None = None, downloads: tuple[str, ...] = ()
) -> tuple[Finding, ...]:
    """Return all findings; `python` is the backends' own and `backend` the one that is wanted, where they are known.

    `downloads` are the hub ids that a recipe names and this machine does not have: without a hub, it cannot start. The
    hub is asked first and heard last: it may take seconds.
    """
    hub = HubProbe()
    built = [found for found in list_environments(environments_home()) if found.complete and python is None]
    titles = {sys.executable: "Orch's Python"}
    for title, path in (("launch.python", python), *((f"built for {one.backend}", str(one.python)) for one in built)):
        titles.setdefault(path or sys.executable, title)
    interpreters = tuple(Interpreter(title, path, find_versions(path)) for path, title in titles.items())
    torch_home = python or next((found.python for found in interpreters if found.backends), interpreters[0].python)
    return (
        *examine_environments(interpreters, backend, python),
        *examine_machine(torch_home),
        *examine_places(runs),
        hub.finding(downloads),
    )


def can_start(findings: tuple[Finding, ...]) -> bool:
    """Tell whether nothing is missing that every run needs."""
    return all(finding.state != "missing" for finding in findings)


def examine_environments(
    interpreters: tuple[Interpreter, ...], wanted: str | None, home: str | None = None
) -> Iterator[Finding]:
    """Yield each Python's packages, and whether a backend (`wanted`, or any) can run in `home`, or in any of them."""
    for interpreter in interpreters:
        yield from _examine_packages(interpreter)
    if problem := machine.find_lacking_report():
        yield Finding("report", "packages", "missing", problem.message, problem.hint)
    else:
        yield Finding("report", "packages", "ok", ", ".join(machine.REPORT_MODULES))
    asked = [interpreter for interpreter in interpreters if home in {None, interpreter.python}]
    ready = {name for interpreter in asked for name in interpreter.backends}
    for name in BACKENDS:
        if homes := [interpreter.python for interpreter in asked if name in interpreter.backends]:
            yield Finding("backends", name, "ok", f"in {homes[0]}")
        else:
            needed = name == wanted or (wanted is None and not ready)
            said = f"not installed ({', '.join(asked[-1].find_missing(name))})"
            yield Finding("backends", name, "missing" if needed else "note", said, f"orch env create {name}")


def _examine_packages(interpreter: Interpreter) -> Iterator[Finding]:
    area, versions = f"{interpreter.title}: {interpreter.python}", interpreter.versions
    if not versions:
        yield Finding(area, "python", "missing", "it cannot be run", "name another one as launch.python")
        return
    yield Finding(area, "python", "ok", versions.get("python", "?"))
    for name in DISTRIBUTIONS:
        if (version := versions.get(name)) is not None:
            minimum = next((found for backend in BACKENDS.values() if (found := find_minimum(backend, name))), None)
            standing, tested = judge_version(name, version, minimum), load_tested().get(normalise(name))
            said = _STANDINGS[standing].format(version=version, tested=tested or "none")
            install = f"{name_pip(interpreter.python)} {name}=={tested}" if tested else None
            yield _judge(area, name, said, fine=standing != "unknown", remedy=install)


def examine_machine(python: str) -> Iterator[Finding]:
    """Yield GPUs (and whether the torch of `python` can use them), processors, memory, limits and tools."""
    gpus = find_gpus()
    yield from describe_gpus(gpus, machine.find_gpu_users() if machine.find_busy(gpus) else ())
    if gpus:
        yield describe_torch(machine.find_torch_build(python), python, len(gpus))
    yield Finding("hardware", "processors", "ok", f"{len(os.sched_getaffinity(0))} of {os.cpu_count()}")
    limits = [Path(name).read_text(encoding="ascii") for name in _CGROUP_LIMITS if os.access(name, os.R_OK)]
    yield describe_memory(find_memory(), limits)
    if _SHARED.is_dir():
        size = shutil.disk_usage(_SHARED).total
        said = f"{show_gib(size)}" + (": data workers and NCCL share memory there" if size < _LEAST_SHARED else "")
        remedy = "give the container more: docker run --shm-size=8g; or dataloader_num_workers: 0"
        yield _judge("limits", str(_SHARED), said, fine=size >= _LEAST_SHARED, remedy=remedy)
    open_files = resource.getrlimit(resource.RLIMIT_NOFILE)
    soft, hard = (math.inf if limit == resource.RLIM_INFINITY else limit for limit in open_files)
    more = "ulimit -n 65536" if hard > soft else "raise nofile in limits.conf"
    few = ": data workers of several processes may need more" if soft < _LEAST_OPEN_FILES else ""
    said = "no limit" if soft == math.inf else f"{soft}{few}"
    yield _judge("limits", "open files", said, fine=not few, remedy=more)
    for name, use, remedy in _TOOLS:
        path = shutil.which(name)
        yield _judge("tools", name, path or f"none: {use}", fine=path is not None, remedy=remedy)


def describe_gpus(gpus: tuple[Gpu, ...], users: tuple[machine.GpuUser, ...]) -> Iterator[Finding]:
    """Yield one finding a GPU, or that there is none."""
    if not gpus:
        remedy = "install NVIDIA's driver, where there is a GPU; orch run RECIPE --smoke needs none"
        yield Finding("hardware", "GPU", "note", "none that nvidia-smi shows", remedy)
    for gpu in gpus:
        half = "fp16" if gpu.capability is not None and gpu.capability < BF16_CAPABILITY else "bf16"
        said = f"{gpu.name}, {gpu.memory_mib} MiB, {half}" + (f", driver {gpu.driver}" if gpu.driver else "")
        busy = bool(machine.find_busy((gpu,)))
        said += f"; {machine.describe_use(gpu, users)}" if busy else ""
        choose = "choose others with CUDA_VISIBLE_DEVICES"
        yield _judge("hardware", f"GPU {gpu.index}", said, fine=not busy, remedy=choose)


def describe_torch(torch: machine.TorchBuild, python: str, gpus: int) -> Finding:
    """Return whether a torch can use this machine's GPUs."""
    if torch.cpu_only:
        problem = machine.describe_cpu_torch(torch, python, gpus)
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


def examine_places(runs: Path) -> Iterator[Finding]:
    """Yield the disks of the runs, of the hub's cache and of temporary files: can they be written, what is free."""
    for name, folder, remedy in (
        ("runs", runs.absolute(), "keep runs elsewhere: --runs DIR, or ORCH_RUNS"),
        ("hub cache", find_hub_cache(), "set HF_HOME to a folder on another disk"),
        ("temporary", Path(tempfile.gettempdir()), "set TMPDIR"),
    ):
        if problem := find_disk_problem(folder):
            yield Finding("disk", name, "missing" if name == "runs" else "note", problem.message, remedy)
        else:
            usage = shutil.disk_usage(find_existing(folder))
            said = f"{folder}: {show_gib(usage.free)} of {show_gib(usage.total)} free"
            yield _judge("disk", name, said, fine=usage.free >= _AMPLE, remedy=remedy)


class HubProbe:
    """A question to the hub, whether it answers, that is under way while other things are looked at."""

    def __init__(self, env: Mapping[str, str] | None = None) -> None:
        """Ask the hub of `env` (HF_ENDPOINT); nobody is asked where HF_HUB_OFFLINE forbids it."""
        env = os.environ if env is None else env
        self._endpoint = find_endpoint(env).rstrip("/")
        self._offline = is_offline(env)
        self._said: str | None = None
        self._reached = False
        self._thread = threading.Thread(target=self._ask, daemon=True)  # a name that never resolves has no timeout
        if not self._offline:
            self._thread.start()

    def finding(self, wanted: tuple[str, ...] = ()) -> Finding:
        """Return what the hub said, after at most HUB_TIMEOUT_S seconds; `wanted` are hub ids that are not here yet."""
        shown = redact_text(self._endpoint, ())
        state: Literal["note", "missing"] = "missing" if wanted else "note"
        lacking = f", and {' and '.join(wanted)} must be downloaded" if wanted else ""
        if self._offline:
            said = f"not asked: HF_HUB_OFFLINE is set{lacking}"
            return Finding("hub", shown, state, said, "unset it to download models")
        self._thread.join(HUB_TIMEOUT_S)
        if self._reached:
            return Finding("hub", shown, "ok", self._said or "answers")
        said = self._said or f"no answer within {HUB_TIMEOUT_S:.0f} s"
        return Finding("hub", shown, state, f"cannot be reached: {said}{lacking}", _MIRROR)

    def _ask(self) -> None:
        if not is_web_address(self._endpoint):
            self._said = "HF_ENDPOINT is no web address: it begins with https://"
            return
        answer = ask(self._endpoint, "HEAD", timeout_s=HUB_TIMEOUT_S)
        if isinstance(answer, HTTPException):  # its words may repeat the address, password included
            self._said = "what answers there, or the address itself, is no HTTP"
        elif isinstance(answer, Exception):
            self._said = str(getattr(answer, "reason", answer))
        else:
            self._said = "answers" if isinstance(answer, bytes) else f"answers ({answer})"
            self._reached = isinstance(answer, bytes) or answer < HTTPStatus.INTERNAL_SERVER_ERROR


def _judge(area: str, name: str, said: str, *, fine: bool, remedy: str | None) -> Finding:
    return Finding(area, name, "ok", said) if fine else Finding(area, name, "note", said, remedy)
