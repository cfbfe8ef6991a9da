"""A process that has imported a backend's libraries, and forks for each stage that Orch asks it to start.

It learns nothing of a stage: the fork reads what it is to be, secrets with it, from a socket of its own. Two forks make
a stage. The launcher does what the shell of a plain start does: a session of its own, the exit code by rename, also
when Orch is gone. The worker goes on as if its command line had been started just now, to the interpreter's own end.
"""

from __future__ import annotations

import ctypes
import gc
import importlib
import json
import os
import signal
import socket
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from orchestrator.workers.folders import write_text

_STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_SILENT = {signal.SIGINT, signal.SIGPIPE}
_PR_SET_PDEATHSIG = 1
_ARGV, _ENVIRON = 45, 47  # of /proc/self/stat after the name: arg_start and env_start; the end of each stands behind it
_FORK_SAFE = {"jemalloc_bg_thd"}  # pyarrow's allocator restarts it by itself
_NVML = "PYTORCH_NVML_BASED_CUDA_CHECK"  # else torch.cuda.is_available() starts CUDA, which no fork survives


def main(words: list[str]) -> list[str]:
    """Import the modules that `words` name, then serve standard input, a socket, until it ends.

    The last word and ORCH_ROOM only take room, for the longer command lines and environments of stages. Returns in a
    fork alone, once that is a stage's worker: its command line behind the interpreter.
    """
    *modules, _ = words
    del os.environ["ORCH_ROOM"]
    os.environ.update(dict(os.environ))  # copies: the first values lie where `show` writes
    show([sys.executable, *sys.argv[:-1]], dict(os.environ))
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)  # also while an import hangs
    control = socket.socket(fileno=os.dup(0))
    said = [os.memfd_create(name) for name in ("stdout", "stderr")]
    for number, text in enumerate(said, 1):
        os.dup2(text, number)
    with open(os.devnull, "rb") as nothing:  # noqa: PTH123
        os.dup2(nothing.fileno(), 0)
    unfit = _import_all(modules) or find_unfit()
    gc.collect()
    gc.freeze()  # a fork's collections leave the pages of the libraries shared
    while True:
        asked, (*given,), _, _ = socket.recv_fds(control, 1, 3)
        if not asked:
            os._exit(0)
        peer = socket.socket(fileno=given[0])
        try:
            if unfit:
                _tell(peer, refused=unfit)
            elif _fork_twice():
                control.close()
                return _become_stage(peer, given[1:], said)
        except OSError:
            pass  # whoever asked sees the end of its socket, and starts the stage alone
        peer.close()
        for descriptor in given[1:]:
            os.close(descriptor)


def _import_all(modules: list[str]) -> str | None:
    """Import what is installed of these; return what kept one that is from being imported."""
    chosen = os.environ.get(_NVML)
    os.environ[_NVML] = "1"
    try:
        for name in modules:
            try:
                importlib.import_module(name)
            except ModuleNotFoundError as error:  # of another version of the library, or there is none
                if not error.name or not name.startswith(error.name):
                    return f"import {name}: {error}"
            except Exception as error:  # noqa: BLE001  a plain start shows it whole, where a stage needs the module
                return f"import {name}: {error!r}"
    finally:
        del os.environ[_NVML]
        if chosen is not None:
            os.environ[_NVML] = chosen
    return None


def find_unfit() -> str | None:
    """Return why this process must not be forked, by a first fork that does nothing: CUDA has begun, or threads run.

    A thread does not live on in a fork, and what it had locked stays so. OpenBLAS ends its own before a fork.
    """
    trial = os.fork()
    if trial == 0:
        is_in_bad_fork = getattr(getattr(sys.modules.get("torch"), "_C", None), "_cuda_isInBadFork", bool)
        os._exit(1 if is_in_bad_fork() else 0)
    if os.waitpid(trial, 0)[1]:
        return "an import has started CUDA"
    names = [(path / "comm").read_text().strip() for path in Path("/proc/self/task").iterdir()]
    names.remove(Path("/proc/self/comm").read_text().strip())
    left = sorted(set(names) - _FORK_SAFE)
    return f"an import has started threads: {', '.join(left)}" if left else None


def _fork_twice() -> bool:
    """Tell whether this is the fork of a fork, whose parent is Orch by now, or whoever adopts Orch's orphans."""
    between = os.fork()
    if between:
        os.waitpid(between, 0)
        return False
    between = os.getpid()
    try:
        if os.fork():
            os._exit(0)
    except OSError:
        os._exit(1)
    while os.getppid() == between:
        time.sleep(0.001)
    return True


def _become_stage(peer: socket.socket, logs: list[int], said: list[int]) -> list[str]:
    """Be the launcher of a stage, for good; or return as its worker, with its command line behind the interpreter."""
    try:
        os.setsid()
        _tell(peer, pid=os.getpid())
        request = json.loads(b"".join(iter(lambda: peer.recv(1 << 16), b"")))
        token = {name: request["env"][name] for name in request["shown"]}
        show(["orch-stage", *request["argv"]], token)
        for number, log in enumerate(logs, 1):
            os.dup2(log, number)
            os.close(log)
        _tell(peer, started=True)
        peer.close()
        signal.pthread_sigmask(signal.SIG_BLOCK, _STOPS)
        for number in _STOPS:
            signal.signal(number, lambda *_: None)
        worker = os.fork()
        if worker:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _STOPS)
            _wait(worker, Path(request["exit_code"]))
    except BaseException:  # noqa: BLE001  it must not return as if it were a worker
        os._exit(70)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number in _STOPS[1:]:
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _STOPS)
    os.chdir(request["cwd"])
    for number, text in enumerate(said, 1):  # what imports print stands in a stage's log
        os.write(number, os.pread(text, os.fstat(text).st_size, 0))
        os.close(text)
    for name, value in request["env"].items():  # the rest is as it was started here, and as imports have set it
        os.environ.setdefault(name, value)
    os.environ.update({name: request["env"][name] for name in ("PWD", "OLDPWD")})
    show(request["argv"], token | request["env"])
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed()  # as at a start; `random` does so by itself
    sys.orig_argv[:] = request["argv"]
    sys.argv = sys.orig_argv[1:]
    return sys.argv


def _wait(worker: int, exit_code: Path) -> None:
    """Wait for the worker, write its exit code by rename, and end with it."""
    code = os.waitstatus_to_exitcode(os.waitpid(worker, 0)[1])
    if code < 0:
        if -code not in _SILENT:
            os.write(2, f"{signal.strsignal(-code)}\n".encode())  # as the shell says it, and the diagnosis reads it
        code = 128 - code
    with suppress(OSError):
        write_text(exit_code, f"{code}\n")
    os._exit(code)


def show(argv: list[str], env: dict[str, str]) -> None:
    """Put a command line and an environment where /proc/PID shows them: by it, Orch finds a stage's processes."""
    fields = [int(word) for word in Path("/proc/self/stat").read_text().rpartition(")")[2].split()[1:]]
    for at, words in ((_ARGV, argv), (_ENVIRON, [f"{name}={value}" for name, value in env.items()])):
        start, end = fields[at - 1], fields[at]
        text = b"".join(os.fsencode(word) + b"\0" for word in words)[: end - start - 1]
        if start:
            ctypes.memmove(start, text.ljust(end - start, b"\0"), end - start)


def _tell(peer: socket.socket, **facts: Any) -> None:
    peer.sendall(json.dumps(facts).encode() + b"\n")
