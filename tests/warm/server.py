"""Import libraries once; then run each worker that is handed over in a fork, on the streams that come with it.

python tests/warm/server.py NAME SOCKET    until standard input ends
"""

from __future__ import annotations

import ctypes
import gc
import importlib
import json
import os
import runpy
import select
import signal
import socket
import struct
import sys
import traceback
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.traps.warm_server import IMPORTS

NAMES = {
    "plain": ("sentence_transformers", *IMPORTS["sentence-transformers"], *IMPORTS["flagembedding"]),
    "swift": ("sentence_transformers.cross_encoder", *IMPORTS["swift"]),
}


def receive(peer: socket.socket) -> tuple[dict[str, object], list[int]]:
    """Return a request and the descriptors of its streams."""
    head, streams, _, _ = socket.recv_fds(peer, 8, 3)
    wanted, data = int.from_bytes(head, "big"), b""
    while len(data) < wanted:
        data += peer.recv(wanted - len(data))
    return json.loads(data), streams


def join_host(pid: int) -> None:
    """See the network and the files that whoever asks sees: some tests' hosts are namespaces of this machine."""
    for kind, flag in (
        ("net", 0x40000000),
        ("mnt", 0x00020000),
    ):  # CLONE_NEWNET, CLONE_NEWNS; os.setns is Python 3.12's
        place = Path(f"/proc/{pid}/ns/{kind}")
        if place.readlink() != Path(f"/proc/self/ns/{kind}").readlink():
            with place.open("rb") as namespace:
                if ctypes.CDLL(None, use_errno=True).setns(namespace.fileno(), flag) != 0:
                    raise OSError(ctypes.get_errno(), f"cannot join {place}")


def run(request: dict[str, object], streams: list[int]) -> int:
    """Be the process that the request describes; return its exit code."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
    sys.stdin = open(0, closefd=False)  # noqa: SIM115  the old one may have read ahead
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(line_buffering=True)  # type: ignore[attr-defined]
    os.environ.clear()
    os.environ.update(request["env"])  # type: ignore[call-overload]
    os.chdir(str(request["cwd"]))
    os.umask(int(request["mask"]))  # type: ignore[call-overload]
    words: list[str] = request["words"]  # type: ignore[assignment]
    try:
        if words[0] == "-m":
            sys.argv = words[1:]
            runpy.run_module(words[1], run_name="__main__", alter_sys=True)
        else:
            sys.argv = words
            runpy.run_path(words[0], run_name="__main__")
    except SystemExit as stop:
        if isinstance(stop.code, str):
            sys.stderr.write(f"{stop.code}\n")
        return stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except KeyboardInterrupt:
        traceback.print_exc()
        return -signal.SIGINT
    except BaseException:  # noqa: BLE001  as the interpreter ends on what nobody caught
        traceback.print_exc()
        return 1
    return 0


def answer(peer: socket.socket) -> None:
    """Run one request in a fork; pass signals on to it, and its end back. Whoever asked and is gone takes it along."""
    request, streams = receive(peer)
    asks, _, _ = struct.unpack("3i", peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    child = os.fork()
    if child == 0:
        peer.close()
        code = 70
        try:
            join_host(asks)
            code = run(request, streams)
            sys.stdout.flush()
            sys.stderr.flush()
        finally:
            if code < 0:
                signal.signal(-code, signal.SIG_DFL)
                os.kill(os.getpid(), -code)
            os._exit(code)
    ends = os.pidfd_open(child)
    while ends not in select.select([ends, peer], [], [])[0]:
        said = peer.recv(1)
        os.kill(child, said[0] if said else signal.SIGKILL)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    peer.sendall(code.to_bytes(8, "big", signed=True))


def main() -> None:
    """Listen, import, and answer until standard input ends."""
    name, path = sys.argv[1:]
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(path)
    listening.listen(64)  # who comes while libraries are imported waits
    for module in NAMES[name]:
        importlib.import_module(module)
    from transformers.conversion_mapping import get_checkpoint_conversion_mapping

    get_checkpoint_conversion_mapping("qwen3")  # thousands of patterns, compiled once
    for found in [key for key in sys.modules if key.partition(".")[0] in {"orchestrator", "tests"}]:
        del sys.modules[found]  # a worker finds them as its own start would
    del sys.path[:2]  # this checkout, and this folder
    gc.collect()
    gc.freeze()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for who answers
    while 0 not in (ready := select.select([listening, 0], [], [])[0]):
        del ready
        peer, _ = listening.accept()
        if os.fork() == 0:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            listening.close()
            try:
                answer(peer)
            finally:
                os._exit(0)
        peer.close()


if __name__ == "__main__":
    main()
