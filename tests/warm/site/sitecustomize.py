"""Hand a worker, or the resident process of a run, over to a warm process, where the test's environment names one; any other program starts as ever."""

from __future__ import annotations

import os
import sys

_FOLDER = os.environ.get("ORCH_TEST_WARM", "")
_ONLY = os.environ.get("ORCH_TEST_WARM_ONLY", "").split()  # which workers; all, where nothing is said
_MODULES = {"swift.cli.sft": "swift", "FlagEmbedding.finetune.reranker.decoder_only.base": "plain"}
_WITH_SWIFT = {"package", "fresh"}  # workers that import ms-swift themselves


def _is_there(name: str) -> bool:
    return os.path.exists(f"{_FOLDER}/{name}")  # noqa: PTH110  every Python of a test comes by here: no import


def _choose(words: list[str]) -> str | None:
    """Return the warm process for a command line; None for what is no worker."""
    if words[:1] == ["-m"]:
        return None if _ONLY else _MODULES.get("".join(words[1:2]))
    if len(words) < 2 or not words[0].endswith("/orchestrator/workers") or (_ONLY and words[1] not in _ONLY):
        return None
    is_of_swift = words[1] in _WITH_SWIFT or any(word.startswith("swift.") for word in words)
    return "swift" if is_of_swift and _is_there("swift") else "plain"


def _hand_over(name: str, words: list[str]) -> None:
    """Have a fork of the warm process run the command on this one's streams, and end as it ends."""
    import json
    import signal
    import socket

    server = socket.socket(socket.AF_UNIX)
    server.connect(f"{_FOLDER}/{name}")
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda number, _: server.send(bytes([number])))
    request = json.dumps({"words": words, "env": dict(os.environ), "cwd": os.getcwd(), "mask": os.umask(0)}).encode()  # noqa: PTH109
    socket.send_fds(server, [len(request).to_bytes(8, "big")], [0, 1, 2])
    server.sendall(request)
    reply = b""
    while len(reply) < 8 and (more := server.recv(8 - len(reply))):
        reply += more
    code = int.from_bytes(reply, "big", signed=True) if reply else 70
    if code < 0:
        signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    os._exit(code)


if _FOLDER and os.path.realpath(sys.executable) == os.path.realpath(os.environ["ORCH_TEST_WARM_PYTHON"]):
    _words = [word for word in sys.orig_argv[1:] if word != "-u"]  # torchrun's; what a fork prints is not kept back
    if (_name := _choose(_words)) and _is_there(_name):
        _hand_over(_name, _words)
