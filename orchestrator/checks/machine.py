"""This machine, and the Python of the backend: packages, GPUs, ports, disks, and the variables of the user's shell.

A disk needs room for what a run writes, and so does the hub's cache; the run's path must be one that trainers can read.
"""

from __future__ import annotations

import errno
import importlib.util
import json
import os
import re
import shutil
import socket
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from shlex import quote

import msgspec

from orchestrator.backends.protocol import Job
from orchestrator.backends.scorers import EXPORT_WAYS, EXPORTS
from orchestrator.checks.memory import find_training_size, show_gib
from orchestrator.checks.model_size import find_model_size
from orchestrator.checks.settings import is_on, read_train_values
from orchestrator.errors import Problem
from orchestrator.machine.hardware import Gpu, find_gpus, select_visible
from orchestrator.machine.packages import find_versions, name_pip
from orchestrator.machine.places import find_beside, find_hub_cache
from orchestrator.machine.process import run
from orchestrator.recipe.plan import Plan

_START_TIMEOUT_S = 20.0
_FLAG_SCORED = "flag-llm-reranker"
REPORT_MODULES = ("ir_measures", "numpy", "scipy", "matplotlib")
_TORCH_TIMEOUT_S = 30.0  # the first Python of the day on a slow disk
_BUSY_MIB = 1024  # a desktop or an idle driver takes less
_GPU_USER = re.compile(r"\s*([^,]*?)\s*, \s*(\d+)\s*, \s*(.*?)\s*, \s*([^,]*?)\s*")
# torch/version.py names what torch was built for; importing torch to ask would take seconds.
# It is looked for where a stage would find it: what the shell adds by PYTHONPATH and the user's own packages count.
_PROBE = """
import sys
sys.path[:] = filter(None, sys.path)
import importlib.util, json, re, pathlib
spec = importlib.util.find_spec("torch")
text = (pathlib.Path(spec.origin).parent / "version.py").read_text() if spec and spec.origin else ""
found = dict(re.findall(r"^(__version__|cuda|hip)\\b[^=\\n]*= *'([^']+)'", text, re.M))
print(json.dumps(found))
"""
_PORT = "MASTER_PORT"
# A process that finds one of these believes that others have been started, and waits for them for ever; the values are
# those of a single process. torchrun takes PET_NNODES for its --nnodes where none are given.
# NPROC_PER_NODE is not among them: the launcher `swift` reads it, which Orch does not use. Nor is MASTER_ADDR: whoever
# reads it has read a rank before, and what Orch starts without a rank meets at an address of its own.
_ALONE = {
    "WORLD_SIZE": {"1"}, "LOCAL_WORLD_SIZE": {"1"}, "NNODES": {"1"}, "PET_NNODES": {"1", "1:1"},
    "RANK": {"0", "-1"}, "LOCAL_RANK": {"0", "-1"}, "NODE_RANK": {"0"},
}  # fmt: skip
_NO_RANK = "-1"  # what trainers take for a variable that is not set (swift/utils/env.py, accelerate/state.py)


def check_packages(job: Job, plan: Plan) -> Iterator[Problem]:  # noqa: ARG001
    """Yield what is not installed, with the command that installs it: the backend's, a scorer's, the report's."""
    backend, python, versions = job.backend, job.backend_python, job.versions
    needed = [*backend.distributions, *(["deepspeed"] if job.recipe.deepspeed else [])]
    missing = [name for name in needed if name not in versions]
    # its packages are read from its folders, which does not say that it starts
    asked = python != sys.executable and Path(python).exists()
    if not versions or (asked and run((python, "-I", "-c", ""), _START_TIMEOUT_S).exit_code != 0):
        yield Problem(f"{python} cannot be run", "launch.python names the backend's interpreter")
    elif missing:
        hint = (
            f"{name_pip(python)} {' '.join(missing)}\n"
            f"or, with the tested versions: {name_pip(python)} -c {quote(str(find_beside('constraints.txt')))} "
            f"'orch-finetune[{backend.name}]'\n"
            f"or, in an environment of its own: orch env create {backend.name}"
        )
        yield Problem(f"the backend {backend.name} is not installed: {', '.join(missing)} missing", hint)
    elif "FlagEmbedding" not in versions:
        base = job.model.native == _FLAG_SCORED and "native" in job.recipe.evaluate.baselines
        teacher = job.teacher is not None and job.teacher.native == _FLAG_SCORED
        if scored := [name for name, is_scored in (("model", base), ("teacher", teacher)) if is_scored]:
            message = f"the {' and the '.join(scored)} is scored with FlagEmbedding, which is not installed"
            yield Problem(message, f"{name_pip(python)} FlagEmbedding")
    for form in job.recipe.export.forms if job.recipe.export else ():
        if problem := find_lacking_exporter(form, job.export_python or python):
            yield problem
    if problem := find_lacking_report():
        yield problem


def find_lacking_exporter(form: str, python: str) -> Problem | None:
    """Return which packages that write a form a Python lacks."""
    packages = EXPORT_WAYS[EXPORTS[form]["way"]]["packages"]
    have = find_versions(python, also=tuple(packages))
    if not (lacking := [name for name in packages if name not in have]):
        return None
    wishes = ": optimum has its own wishes of transformers" if any("optimum" in name for name in lacking) else ""
    hint = (
        f"install them there: {name_pip(python)} {' '.join(lacking)}\n"
        f"or name a Python that has them (--python, export.python){wishes}"
    )
    return Problem(f"{python} has no {', '.join(lacking)}, which {form} is written with", hint)


def find_lacking_report() -> Problem | None:
    """Return what the report imports and Orch's own Python lacks."""
    lacking = [name for name in REPORT_MODULES if importlib.util.find_spec(name) is None]
    install = f"{name_pip(sys.executable)} {' '.join(name.replace('_', '-') for name in lacking)}"
    return Problem(f"the report needs {', '.join(lacking)}", install) if lacking else None


class GpuUser(msgspec.Struct, frozen=True):
    """A process that computes on a GPU: memory in MiB, None where the driver does not say."""

    uuid: str
    pid: int
    name: str
    used_mib: int | None


class TorchBuild(msgspec.Struct, frozen=True):
    """What a Python's torch was built for; all None where there is no torch."""

    version: str | None = None
    cuda: str | None = None
    hip: str | None = None

    @property
    def cpu_only(self) -> bool:
        """Whether it can use no GPU."""
        return self.version is not None and self.cuda is None and self.hip is None


def check_devices(job: Job, plan: Plan) -> Iterator[Problem]:  # noqa: ARG001
    """Yield that there are GPUs and a torch that cannot use them: the trainer would fail or crawl on the CPU."""
    if job.hardware.kind != "cuda" or job.smoke or not (gpus := find_gpus()):
        return
    torch = find_torch_build(job.backend_python)
    if torch.cpu_only:
        yield describe_cpu_torch(torch, job.backend_python, len(gpus))


def advise_devices(job: Job, plan: Plan) -> Iterator[Problem]:  # noqa: ARG001
    """Yield which GPUs are in use, by whom, and which ones are free."""
    if job.hardware.kind != "cuda" or job.smoke:
        return
    gpus = find_gpus()
    visible = job.recipe.launch.env.get("CUDA_VISIBLE_DEVICES") or os.environ.get("CUDA_VISIBLE_DEVICES")
    if busy := find_busy(select_visible(gpus, visible)):
        users, taken = find_gpu_users(), find_busy(gpus)
        free = [gpu.index for gpu in gpus if gpu not in taken]
        hint = f"choose free ones: CUDA_VISIBLE_DEVICES={','.join(free)}" if free else "wait, or end what uses them"
        yield Problem("; ".join(describe_use(gpu, users) for gpu in busy), hint)


def find_busy(gpus: tuple[Gpu, ...]) -> tuple[Gpu, ...]:
    """Return the GPUs of which others use a noticeable part."""
    return tuple(gpu for gpu in gpus if (gpu.used_mib or 0) >= _BUSY_MIB)


def describe_use(gpu: Gpu, users: tuple[GpuUser, ...]) -> str:
    """Return in words how much of a GPU is used, and by whom."""
    mine = [user for user in users if user.uuid == gpu.uuid]
    names = ", ".join(f"{user.name} (pid {user.pid})" for user in mine[:3])
    return f"GPU {gpu.index} has {gpu.used_mib} of {gpu.memory_mib} MiB in use" + (f" by {names}" if names else "")


def describe_cpu_torch(torch: TorchBuild, python: str, gpus: int) -> Problem:
    """Return that torch was built without CUDA, and what to install."""
    message = f"torch {torch.version} of {python} is built for the CPU only, and this machine has {gpus} GPU(s)"
    install = "then install the CUDA build that https://pytorch.org/get-started names"
    return Problem(message, f"{python} -m pip uninstall torch, {install}\nor plan for the CPU: --hardware cpu")


def find_gpu_users() -> tuple[GpuUser, ...]:
    """Return the processes that compute on GPUs, as far as nvidia-smi shows them."""
    query = "--query-compute-apps=gpu_uuid,pid,process_name,used_memory"
    probe = run(("nvidia-smi", query, "--format=csv,noheader,nounits"), 10.0)
    return parse_gpu_users(probe.stdout) if probe.exit_code == 0 else ()


def parse_gpu_users(text: str) -> tuple[GpuUser, ...]:
    """Return the processes of nvidia-smi's CSV: uuid, pid, name (which may hold commas), MiB."""
    rows = (found for line in text.splitlines() if (found := _GPU_USER.fullmatch(line)))
    return tuple(GpuUser(row[1], int(row[2]), row[3], int(row[4]) if row[4].isdigit() else None) for row in rows)


def find_torch_build(python: str) -> TorchBuild:
    """Return what a Python's torch was built for."""
    probe = run((python, "-c", _PROBE), _TORCH_TIMEOUT_S)
    try:
        found = json.loads(probe.stdout) if probe.exit_code == 0 else {}
    except ValueError:
        found = {}
    return TorchBuild(found.get("__version__"), found.get("cuda"), found.get("hip"))


def check_ports(job: Job, plan: Plan) -> Iterator[Problem]:
    """Yield that MASTER_PORT is no port, or in use.

    Trainings of several processes meet at a free port of their own (`workers launch`) and ignore it. A single process
    that the launcher does not start, as ms-swift's on one GPU, takes it (swift/utils/torch_utils.py).
    """
    value = job.recipe.launch.env.get(_PORT) or os.environ.get(_PORT)
    train = plan.stage("train")
    if not value or train is None or "launch" in train.command.argv:
        return
    where = "launch.env" if _PORT in job.recipe.launch.env else "your shell"
    remove = f"remove {_PORT} from launch.env" if where == "launch.env" else f"unset {_PORT}"
    if not value.isdigit() or int(value) not in range(1, 65536):
        yield Problem(f"{_PORT}={value} in {where} is no port", f"{remove}, or give a number from 1 to 65535")
    elif (why := find_port_refusal(int(value))) is not None:
        yield Problem(f"{_PORT}={value} in {where}: {why}", f"{remove}, or name a free port")


def find_port_refusal(port: int) -> str | None:
    """Return why nobody can listen on a port of this machine now; None where one can."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a port that was left a minute ago is free
        try:
            probe.bind(("", port))
        except OSError as error:
            in_use = error.errno == errno.EADDRINUSE
            return "another program listens on that port" if in_use else f"it cannot be listened on: {error.strerror}"
    return None


def check_shell_variables(job: Job, plan: Plan) -> Iterator[Problem]:
    """Yield the variables of the shell (or of launch.env) that every stage inherits, where the plan sets no others."""
    train = plan.stage("train")
    recipe = job.recipe.launch.env
    planned = {name for name, _ in train.command.env if name not in recipe} if train else set()
    env = {name: value for name, value in {**os.environ, **recipe}.items() if name not in planned}
    if job.hosts() > 1:  # what the hosts have found out of their scheduler; the launcher takes it from there
        env = {name: value for name, value in env.items() if name not in {"NNODES", "PET_NNODES", "NODE_RANK"}}
    for name in _find_group(env):
        message = f"{name}={env[name]} is set: every stage would wait for processes that nobody starts"
        where = "remove it from launch.env" if name in recipe else f"unset {name}"
        yield Problem(message, f"{where}; say launch: {{nproc_per_node: …}} for several processes")
    for name in job.backend.variables:
        if env.get(name):
            message = f"{name}={env[name]} is set in your shell, and {job.backend.title}'s loss would read it"
            yield Problem(message, f"unset {name}, and say it under loss: in the recipe")


def _find_group(env: Mapping[str, str]) -> list[str]:
    """Return the variables that announce other processes; the launcher of a single process sets them too."""
    found = [name for name, alone in _ALONE.items() if name in env and env[name].strip() not in alone]
    if not found and "WORLD_SIZE" not in env:  # a rank without a size: half of what a launcher sets
        found = [name for name in ("RANK", "LOCAL_RANK") if env.get(name, _NO_RANK).strip() != _NO_RANK]
    return found


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


class Need(msgspec.Struct, frozen=True):
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
        limit, remedy = values.get("save_total_limit", ""), "free some space, or choose another disk with -o"
        if need.checkpoint and limit.isdigit() and int(limit) > 1 and (beyond := need.checkpoints - 2) > 0:
            saved = show_gib(need.checkpoint * beyond)
            remedy = f"train.save_total_limit: 1 instead of {limit} saves {saved}\n{remedy}"
        yield Problem(message, remedy)
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
    data = 0
    for name in names:
        with suppress(OSError):
            data += _COPIES_OF_DATA * (job.recipe_folder / name).expanduser().stat().st_size
    model = None if job.smoke else find_model_size(job.model)
    values = read_train_values(plan)
    if model is None:
        parameters = 0 if job.smoke else _guess_parameters(job.model.name)
        return Need(0, _count_checkpoints(values), 2 * 2 * parameters, data)
    training = find_training_size(job, values, model)
    if training.adapter is None:
        trained, width = model.parameters, training.weight_bytes
        models = model.parameters * width
    else:  # merged, and packaged
        trained, width = training.adapter, training.trained_bytes
        models = 2 * model.parameters * model.dtype_bytes
    state = 0 if is_on(values, "save_only_model") else training.moment_bytes + training.master_bytes
    return Need(trained * (width + state), _count_checkpoints(values), models, data)


def _count_checkpoints(values: Mapping[str, str]) -> int:
    """Return how many lie there at the same time: a new one is written before the oldest is removed."""
    kept = int(limit) if (limit := values.get("save_total_limit", "")).isdigit() else 10
    if values.get("save_strategy") == "no":
        return 1
    if values.get("save_strategy") == "epoch":
        with suppress(KeyError, ValueError):
            return min(kept + 1, max(1, int(float(values["num_train_epochs"]))))
    return kept + 1


def _guess_parameters(name: str) -> int:
    found = _BILLIONS.findall(name.rsplit("/", 1)[-1])
    return int(float(found[-1]) * 1e9) if found else 0


def check_run_path(job: Job, plan: Plan) -> Iterator[Problem]:  # noqa: ARG001
    """Yield that the trainer would look for the prepared data under another name."""
    path = str(job.run_dir)
    if job.backend.reads_patterns and (found := [mark for mark in _PATTERNS if mark in path]):
        message = f"the run folder {path} holds {' and '.join(found)}, which would be read as a pattern of file names"
        yield Problem(message, "choose a folder without it with -o")
