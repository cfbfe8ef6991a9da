"""A launch record → files that people read, and the stage's process: started alone, or forked from a resident one.

Residents have imported a backend's libraries. Only what a stage would import anyway is done ahead: a resident has
exactly the stage's Python and environment, but for secrets, which only the fork is told. The command line, logs,
process group and exit code are those of a plain start, and a plain start is what comes of everything that goes wrong
here. Locks of killed compilations go before a stage starts.
"""

from __future__ import annotations

import json
import os
import select
import shlex
import socket
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from orchestrator.backends import BACKENDS
from orchestrator.errors import StageFailedError
from orchestrator.logs.events import Message
from orchestrator.machine import process
from orchestrator.machine.files import open_regular, try_lock, write_text
from orchestrator.machine.places import WORKERS
from orchestrator.machine.process import TOKEN_VARIABLE, Child, Launch, Processes
from orchestrator.machine.rundir import RunDir, StageDir
from orchestrator.machine.secrets import is_secret, rename_hub_token
from orchestrator.recipe.plan import Plan, Stage
from orchestrator.run.folder import seal
from orchestrator.run.state import LaunchRecord, is_of_folder, redact
from orchestrator.run.stopping import SupervisorDeps

VARIABLE = "TORCH_EXTENSIONS_DIR"
# Where torch and DeepSpeed build (torch/utils/cpp_extension.py): EXTENSION, or PYTHON_AND_CUDA/EXTENSION.
_PLACES = ("*/lock", "*/*/lock")
_BUILD = "build.ninja"
START_S = 300.0  # a cold disk of a cluster reads libraries for minutes
_ANSWER_S = 30.0
_POLL_S = 0.05
_ROOM = 16 << 10  # for a stage's command line, where `ps` reads it
# workers that do not quieten what they import, as all the others do
NATIVE = {"launch", "track_training", "train_flagembedding"}


def clear_stale_build_locks(env: dict[str, str], processes: Processes) -> list[str]:
    """Remove the locks of builds in the folder that `env` names, unless a live process works with that folder.

    torch/utils/file_baton.py marks a build with a file named `lock` that nobody owns: whoever is killed while PyTorch
    or DeepSpeed compiles an extension leaves it, and the next process polls for its removal without end.
    Only a folder that the plan itself names is touched: in it nobody but Orch's stages builds. Other files are called
    `lock` too: only an empty one beside a build's own file goes, and none that somebody holds. Returns a sentence for
    each lock that was removed.
    """
    if not env.get(VARIABLE):
        return []
    folder = Path(env[VARIABLE])
    locks = [
        path
        for pattern in _PLACES
        for path in sorted(folder.glob(pattern))
        if folder.resolve() in path.parent.resolve().parents  # a link may lead anywhere
        and path.is_file()
        and not path.is_symlink()
        and (path.parent / _BUILD).is_file()
    ]
    if not locks or processes.find_with_env(f"{VARIABLE}={env[VARIABLE]}"):
        return []
    return [f"removed the lock that a killed compilation left: {path}" for path in locks if _remove_unheld(path)]


def _remove_unheld(path: Path) -> bool:
    """Remove an empty file that no process has locked; tell whether that was done."""
    with suppress(OSError), open_regular(path, follow=False) as stream:
        if try_lock(stream.fileno()) and os.fstat(stream.fileno()).st_size == 0:
            path.unlink()
            return True
    return False


def write_plan(plan: Plan, run_dir: RunDir) -> None:
    """Write the plan and its rendered files where they are missing or differ."""
    texts = {file.path: file.text for file in plan.files} | {run_dir.plan_json.name: plan.to_json()}
    for name, text in texts.items():
        path = run_dir.root / name
        if not path.is_file() or path.read_bytes() != text.encode():
            if path == run_dir.plan_json:
                seal(run_dir, text)
            write_text(path, text)


def write_script(plan: Plan, stage: Stage, run_dir: RunDir, record: LaunchRecord) -> None:
    """Write command.sh as launched, unless the plan has rendered one."""
    if plan.file(f"{stage.folder}/command.sh"):
        return
    public = set(redact(record.env))
    exports = [
        f"export {name}={shlex.quote(value)}" if (name, value) in public else f"# {name} comes from your environment"
        for name, value in record.env
    ]
    lines = ["#!/bin/sh", f"cd {shlex.quote(record.cwd)} || exit", *exports, f"exec {shlex.join(record.argv)}"]
    write_text(run_dir.stage(stage.name).command_sh, "\n".join(lines) + "\n")


def build_environment(stage: Stage) -> dict[str, str]:
    """Return what a stage's process finds: the environment of Orch, and the stage's own."""
    return rename_hub_token({**os.environ, **dict(stage.command.env)})


def build_launch(stage: Stage, record: LaunchRecord, folder: StageDir, token: str) -> Launch:
    """Return the request to start what the record says, with its logs in `folder`."""
    paths = (Path(record.cwd), folder.stdout_log, folder.stderr_log, folder.exit_code)
    cwd, stdout, stderr, exit_code = (path.absolute() for path in paths)
    return Launch(record.argv, build_environment(stage), cwd, stdout, stderr, exit_code, token)


def spawn_stage(
    stage: Stage,
    record: LaunchRecord,
    folder: StageDir,
    processes: Processes,
    fork: Callable[[Launch], Child | None] | None = None,
) -> Child:
    """Start the stage's process, by `fork` where that can.

    Raises OSError when its logs cannot be opened, StageFailedError when it cannot run.
    """
    launch = build_launch(stage, record, folder, record.token)
    try:
        return (fork and fork(launch)) or processes.spawn(launch)
    except OSError as error:
        if is_of_folder(error):
            raise
        raise StageFailedError(f"{stage.name} cannot be started: {error}", hint="see its command.sh") from error


@dataclass(frozen=True)
class _Kind:
    """What a stage's process is before it knows which stage: the resident of all stages that have it in common."""

    python: str
    worker: str
    modules: tuple[str, ...]
    env: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class _Resident:
    """A running one."""

    pid: int
    control: socket.socket

    def end(self) -> None:
        self.control.close()
        process.end_child(self.pid)


def find_imports(plan: Plan) -> Mapping[str, tuple[str, ...]]:
    """Return what the stages of a plan spend their start on, by a word of their command lines."""
    backend = BACKENDS.get(str(plan.recipe.get("backend")))
    return backend.for_task(plan.recipe.get("task")).imports if backend else {}


class Residents:
    """The residents of one run, by what they stand in for; None where there was one that could not serve.

    `imports` are those of a backend. None is started at first, and those that no coming stage needs end; with
    `stay_in`, which holds several runs, only those of one of its runs.
    """

    def __init__(self, imports: Mapping[str, tuple[str, ...]], *, stay_in: Path | None = None) -> None:
        self.imports = imports
        self._stay_in = stay_in
        self._held: dict[_Kind, _Resident | None] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for held in self._held.values():
            if held:
                held.end()

    def spawn(self, coming: Sequence[Stage], deps: SupervisorDeps, launch: Launch) -> Child | None:
        """Start the first of the coming stages as a fork of its resident.

        None where it must be started alone, and a warning says why if it should not; or where the user interrupts.
        """
        self._prepare(coming)
        kind = self._find_kind(coming[0])
        held = self._held.get(kind) if kind else None
        if kind is None or held is None:
            return None
        try:
            return _ask(held, launch, deps)
        except OSError as error:
            text = f"process {held.pid} cannot be forked ({error}): it is started alone"
            deps.emit(Message("warning", text, coming[0].name))
            held.end()
            self._held[kind] = None
            return None

    def _prepare(self, coming: Sequence[Stage]) -> None:
        """Start what the next two stages need: one imports while the other runs. End what no coming stage needs."""
        kinds = [self._find_kind(stage) for stage in coming]
        for gone in self._held.keys() - set(kinds):
            if self._stay_in and not any(str(self._stay_in) in value for _, value in gone.env):
                continue
            if held := self._held.pop(gone):
                held.end()
        for kind, stage in zip(kinds[:2], coming, strict=False):
            if kind and kind not in self._held:
                with suppress(OSError):
                    self._held[kind] = _start(kind, build_environment(stage))

    def _find_kind(self, stage: Stage) -> _Kind | None:
        """Return what may stand in for a stage; None for what is no worker in one process of the backend's Python."""
        python, *words = stage.command.argv
        modules = next((self.imports[word] for word in words if word in self.imports), None)
        if words[0] != str(WORKERS):
            return _Kind(python, "-m", modules, stage.command.env) if modules else None
        if words[1:3] == ["launch", "--nproc_per_node"] and (words[3] != "1" or "--checkpoints" in words):
            return None
        modules = modules or self.imports.get("")
        worker = words[1] if words[1] in NATIVE else "score"
        return _Kind(python, worker, modules, stage.command.env) if modules else None


def _start(kind: _Kind, env: dict[str, str]) -> _Resident:
    public = {name: value for name, value in env.items() if not is_secret(name) and name != TOKEN_VARIABLE}
    room = _ROOM + sum(len(os.fsencode(name + value)) for name, value in env.items())
    argv = (kind.python, str(WORKERS), "resident", kind.worker, *kind.modules, " " * _ROOM)
    ours, theirs = socket.socketpair()
    with theirs:
        return _Resident(process.spawn_beside(argv, public | {"ORCH_ROOM": " " * room}, theirs.fileno()), ours)


def _ask(held: _Resident, launch: Launch, deps: SupervisorDeps) -> Child | None:
    """Have a stage forked. Raises OSError where that fails, and then nothing of the stage runs."""
    ours, theirs = socket.socketpair()
    pid = 0
    with ours:
        given = [theirs.detach()]
        try:
            given += [process.open_log(path) for path in (launch.stdout, launch.stderr)]
            socket.send_fds(held.control, [b"?"], given)
        finally:
            for descriptor in given:
                os.close(descriptor)
        try:
            if not _wait(ours, deps):
                return None
            pid = int(_hear(ours)["pid"])
            moved = {"PWD": str(launch.cwd), "OLDPWD": str(Path.cwd())}  # as the shell's `cd` leaves them
            request = {
                "argv": launch.argv, "env": process.stage_environment(launch) | moved, "shown": [TOKEN_VARIABLE],
                "cwd": str(launch.cwd), "exit_code": str(launch.exit_code),
            }  # fmt: skip
            ours.settimeout(_ANSWER_S)
            ours.sendall(json.dumps(request).encode())
            ours.shutdown(socket.SHUT_WR)
            _hear(ours)
        except OSError:
            if pid:
                process.end_child(pid)
            raise
    entry = process.read_entry(pid)  # cannot be reused yet: it has become our child, and is not reaped
    return Child(pid, pid, entry.start if entry else "", launch.token)


def _wait(ours: socket.socket, deps: SupervisorDeps) -> bool:
    """Wait for an answer, while the resident imports; False when the user interrupts. Raises TimeoutError."""
    end = deps.clock.monotonic() + START_S
    while not select.select([ours], [], [], _POLL_S)[0]:
        if deps.interrupts.count:
            return False
        if deps.clock.monotonic() > end:
            raise TimeoutError(f"it has not answered for {START_S:.0f} s")
        deps.touch_heartbeat()
    return True


def _hear(ours: socket.socket) -> dict[str, Any]:
    """Return what the fork or the resident says. Raises ConnectionError where it has ended, or must not be forked."""
    if not (text := ours.recv(1 << 12)):
        raise ConnectionError("it has ended")
    said: dict[str, Any] = json.loads(text)
    if "refused" in said:
        raise ConnectionError(said["refused"])
    return said
