"""Start a native tool so that no other user or machine can reach it: a training's processes, or a server with a key.

torchrun's own meeting place listens on every interface, asks nobody for a password, and unpickles what it is sent.
One process runs here, in this one: whom it would meet is itself, so it meets in memory. Several are started by torchrun
(torch.distributed.run) with a meeting place on 127.0.0.1, which keeps bytes and unpickles none. Each process has the
environment that torchrun gives it.
"""

from __future__ import annotations

import argparse
import importlib
import os
import runpy
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from orchestrator.workers.failure import WorkerError

KEY_VARIABLE = "ORCH_API_KEY"
_BACKEND = "loopback"
_ADDRESS = "127.0.0.1"
# What a single process of torchrun finds; nobody connects to the address.
_ALONE = {
    "RANK": "0",
    "LOCAL_RANK": "0",
    "WORLD_SIZE": "1",
    "LOCAL_WORLD_SIZE": "1",
    "GROUP_RANK": "0",
    "GROUP_WORLD_SIZE": "1",
    "MASTER_ADDR": _ADDRESS,
    "MASTER_PORT": "0",
}


def stay_on_loopback() -> None:
    """Have gloo and NCCL listen on the loopback interface only; what the user has set wins."""
    names = [name for _, name in socket.if_nameindex() if name in {"lo", "lo0"}]
    for variable in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"):
        if names:
            os.environ.setdefault(variable, names[0])


def meet_in_memory() -> None:
    """Give `env://`, by which libraries form a group of processes, a store that has no socket."""
    from torch.distributed import HashStore

    def handle(url: str, **options: Any) -> Iterator[tuple[HashStore, int, int]]:
        del url, options
        yield HashStore(), 0, 1

    # torch registers a scheme once and for all (torch/distributed/rendezvous.py), and these libraries name no other
    importlib.import_module("torch.distributed.rendezvous")._rendezvous_handlers["env"] = handle  # noqa: SLF001


def run_words(words: list[str]) -> None:
    """Run `-m MODULE ARGUMENT…` or `SCRIPT ARGUMENT…` as Python would, in this process."""
    if words[0] == "-m":
        sys.argv = words[1:]
        runpy.run_module(words[1], run_name="__main__", alter_sys=True)
    else:
        sys.argv = words
        runpy.run_path(words[0], run_name="__main__")


def open_store() -> Any:
    """Return a store of bytes that listens on a free port of 127.0.0.1, until it is forgotten."""
    from torch.distributed import TCPStore

    listening = socket.create_server((_ADDRESS, 0))
    port = listening.getsockname()[1]
    # torch binds to every interface itself, but takes a socket that listens already
    return TCPStore(_ADDRESS, port, None, True, wait_for_workers=False, master_listen_fd=listening.detach())


def meet_on_loopback() -> None:
    """Teach torchrun the meeting place `loopback`."""
    from torch.distributed import PrefixStore
    from torch.distributed.elastic import rendezvous
    from torch.distributed.elastic.rendezvous.static_tcp_rendezvous import StaticTCPRendezvous

    class Loopback(StaticTCPRendezvous):  # type: ignore[misc]
        """The one agent of a training, with a store of its own: there is no other to wait for."""

        def __init__(self, run_id: str) -> None:
            self.store = open_store()
            super().__init__(_ADDRESS, self.store.port, rank=0, world_size=1, run_id=run_id, timeout=0)

        def get_backend(self) -> str:
            return _BACKEND

        @property
        def use_agent_store(self) -> bool:
            return True  # else rank 0 would open one of its own, on every interface

        def next_rendezvous(self) -> Any:
            address = rendezvous.RendezvousStoreInfo(self.master_addr, self.master_port)
            return rendezvous.RendezvousInfo(PrefixStore(self.run_id, self.store), 0, 1, address)

    rendezvous.rendezvous_handler_registry.register(_BACKEND, lambda given: Loopback(given.run_id))


def run_several(processes: int, words: list[str]) -> None:
    """Run the words in that many processes, under torchrun. It ends this process where one of them fails."""
    from torch.distributed import run

    for name in [name for name in os.environ if name.startswith("PET_")]:  # what torchrun takes for its own options
        del os.environ[name]
    meet_on_loopback()
    meeting = ["--rdzv-backend", _BACKEND, "--rdzv-endpoint", f"{_ADDRESS}:0"]
    run.main(["--nnodes", "1", *meeting, "--nproc-per-node", str(processes), *words])


def require_one_group(folder: Path, processes: int) -> None:
    """Raise WorkerError where the newest checkpoint in a folder is not that of one group of so many processes.

    Each process of a group saves the state of its random numbers under its rank. One that trains alone saves
    rng_state.pth (transformers' Trainer._save_rng_state), and two of these write the same files and end well.
    """
    found = {int(path.name[11:]): path for path in folder.glob("checkpoint-*") if path.name[11:].isdigit()}
    if not found:
        raise WorkerError(f"{folder} holds no checkpoint, which would prove that {processes} processes were one group")
    newest = found[max(found)]
    lacking = [f"rng_state_{rank}.pth" for rank in range(processes)]
    lacking = [name for name in lacking if not (newest / name).is_file()]
    if lacking and (newest / "rng_state.pth").is_file():
        raise WorkerError(
            f"{processes} processes have trained apart, each on all rows, and wrote over one another's files: "
            f"{newest.name} holds the state of one process (rng_state.pth). Without a GPU the trainer needs use_cpu; "
            "with one, let no variable of another launcher (WORLD_SIZE, RANK) reach it"
        )
    if lacking:
        message = f"{newest.name} lacks {', '.join(lacking)}: these processes were not of the group that trained"
        raise WorkerError(message)


def main(argv: list[str]) -> int:
    """Run the training to its end."""
    parser = argparse.ArgumentParser(prog="workers launch", description=__doc__, allow_abbrev=False)
    parser.add_argument("--nproc_per_node", type=int, required=True, help="how many processes")
    parser.add_argument("--checkpoints", type=Path, help="the folder whose newest checkpoint proves one group")
    own = next((at for at in range(0, len(argv), 2) if not argv[at].startswith("--")), len(argv))
    options, words = parser.parse_args(argv[:own]), argv[own:]
    if not words or (words[0] == "-m" and not words[1:]):
        parser.error("what is to run stands after the options: -m MODULE ARGUMENT…, or SCRIPT ARGUMENT…")
    stay_on_loopback()
    if options.nproc_per_node > 1:
        run_several(options.nproc_per_node, words)
        if options.checkpoints:
            require_one_group(options.checkpoints, options.nproc_per_node)
    else:
        meet_in_memory()
        os.environ.update(_ALONE)
        run_words(words)
    return 0


def deploy_with_key(argv: list[str]) -> int:
    """Run `swift deploy` with the API key of the environment, until a signal comes; `argv` are swift's own arguments.

    swift takes the key in its arguments only, where every user of the machine sees it in `ps` and swift's log holds it.
    """
    parser = argparse.ArgumentParser(
        prog="workers deploy_with_key", usage="%(prog)s ARGUMENTS OF swift deploy", allow_abbrev=False
    )
    parser.parse_known_args(argv)  # for --help alone
    key = os.environ.pop(KEY_VARIABLE, "")
    if not key:
        raise WorkerError(f"{KEY_VARIABLE} is not set: give it a key, or run swift deploy itself")
    from swift.pipelines.infer.deploy import SwiftDeploy

    server = SwiftDeploy(argv)
    server.args.api_key = key  # after swift has logged its arguments; every route compares with it
    server.main()
    return 0
