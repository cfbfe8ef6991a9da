"""Start a native tool so that no other user or machine can reach it: a training's processes, or a server with a key.

torchrun's own meeting place listens on every interface, asks nobody for a password, and unpickles what it is sent.
One process runs here, in this one: whom it would meet is itself, so it meets in memory. Several are started by torchrun
(torch.distributed.run) with a meeting place on 127.0.0.1, which keeps bytes and unpickles none. Each process has the
environment that torchrun gives it.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import importlib
import json
import os
import runpy
import socket
import sys
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

from orchestrator.workers.failure import WorkerError

KEY_VARIABLE = "ORCH_API_KEY"
_BACKEND, _HOSTS = "loopback", "hosts"
_TOOLS = ("FlagEmbedding", "ms-swift", "sentence-transformers")
_ANSWER_S = 10.0
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


def open_store(address: str = _ADDRESS, port: int = 0, patience: timedelta = timedelta(minutes=5)) -> Any:
    """Return a store of bytes that listens at an address, on a free port where none is given, until it is forgotten."""
    from torch.distributed import TCPStore

    listening = socket.create_server((address, port))
    port = listening.getsockname()[1]
    # torch binds to every interface itself, but takes a socket that listens already
    own = {"wait_for_workers": False, "master_listen_fd": listening.detach()}
    return TCPStore(address, port, None, True, patience, **own)


def register_meeting(name: str, store: Any, address: tuple[str, int], rank: int, hosts: int) -> None:
    """Teach torchrun a meeting place: a store that is there already, and hosts whose number and ranks are known."""
    from torch.distributed import PrefixStore
    from torch.distributed.elastic import rendezvous
    from torch.distributed.elastic.rendezvous.static_tcp_rendezvous import StaticTCPRendezvous

    class Meeting(StaticTCPRendezvous):  # type: ignore[misc]
        """The agents of a training, which negotiate nothing."""

        def get_backend(self) -> str:
            return name

        @property
        def use_agent_store(self) -> bool:
            return True  # else rank 0 would open one of its own, on every interface

        def next_rendezvous(self) -> Any:
            place = rendezvous.RendezvousStoreInfo(*address)
            return rendezvous.RendezvousInfo(PrefixStore(self.run_id, store), rank, hosts, place)

    def build(given: Any) -> Any:
        return Meeting(*address, rank=rank, world_size=hosts, run_id=given.run_id, timeout=0)

    rendezvous.rendezvous_handler_registry.register(name, build)


def run_several(processes: int, words: list[str]) -> None:
    """Run the words in that many processes, under torchrun. It ends this process where one of them fails."""
    store = open_store()
    register_meeting(_BACKEND, store, (_ADDRESS, store.port), 0, 1)
    run_torchrun(1, processes, ["--rdzv-backend", _BACKEND, "--rdzv-endpoint", f"{_ADDRESS}:0", *words])


def run_torchrun(hosts: int, processes: int, words: list[str]) -> None:
    """Run torchrun, which takes what is called PET_… in the environment for its own options, without these."""
    from torch.distributed import run

    for name in [name for name in os.environ if name.startswith("PET_")]:
        del os.environ[name]
    run.main(["--nnodes", str(hosts), "--nproc-per-node", str(processes), *words])


def run_on_hosts(options: argparse.Namespace, words: list[str]) -> None:
    """Run the words on this host as a part of several; every host runs the same command, with its own NODE_RANK.

    Host 0 opens a store of bytes at the endpoint, which torchrun's agents and the trainers share: nothing there is
    unpickled. Whoever reaches that port, or those that gloo and NCCL open, can disturb the training (docs/security.md).
    """
    host, rank = read_place(options.endpoint), int(os.environ["NODE_RANK"])
    mine = options.local_addr or find_local_address(host)
    if interface := options.interface or find_interface(mine):
        for variable in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"):
            os.environ.setdefault(variable, interface)
    store = meet_at(host, rank, options.timeout, listen=options.local_addr)
    require_alike(store, rank, options.nnodes, options.timeout, describe_host(options.nproc_per_node, words))
    address = (options.local_addr or host[0]) if rank == 0 else host[0]
    register_meeting(_HOSTS, store, (address, host[1]), rank, options.nnodes)
    meeting = ["--rdzv-backend", _HOSTS, "--rdzv-endpoint", f"{host[0]}:{host[1]}", "--local-addr", mine]
    run_torchrun(options.nnodes, options.nproc_per_node, [*meeting, *words])


def read_place(endpoint: str | None) -> tuple[str, int]:
    """Return where the hosts meet. Raises WorkerError where the environment does not say it."""
    lacking = [name for name in ("NODE_RANK", *(() if endpoint else ("MASTER_ADDR",))) if name not in os.environ]
    if lacking:
        raise WorkerError(
            f"{' and '.join(lacking)} must be set on every host: NODE_RANK is 0 on host 0, at MASTER_ADDR"
        )
    address, _, port = (endpoint or os.environ["MASTER_ADDR"]).partition(":")
    return address, int(port or os.environ.get("MASTER_PORT", "29400"))


def find_local_address(host: tuple[str, int]) -> str:
    """Return the address of this host by which it reaches the other; nothing is sent. Raises WorkerError."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(host)
        except OSError as error:
            raise WorkerError(f"no network leads to host 0 at {host[0]}:{host[1]}: {error.strerror}") from error
        return str(probe.getsockname()[0])


def find_interface(address: str) -> str | None:
    """Return the network interface that has an address; None where none has."""
    import psutil  # which accelerate needs, and so every trainer has

    every = psutil.net_if_addrs().items()
    return next((name for name, addresses in every if address in {one.address for one in addresses}), None)


def meet_at(host: tuple[str, int], rank: int, timeout_s: int, *, listen: str | None) -> Any:
    """Return the hosts' store: opened on host 0, at that address only; reached by the others. Raises WorkerError."""
    from torch.distributed import DistError, TCPStore

    patience = timedelta(seconds=timeout_s)
    try:
        if rank:
            return TCPStore(*host, None, False, patience)
        return open_store(listen or host[0], host[1], patience)
    except DistError as error:
        message = f"client socket has timed out: host 0 does not answer at {host[0]}:{host[1]} within {timeout_s} s"
        raise WorkerError(
            f"{message}; is it started, is the address one that this host reaches, is the port open?"
        ) from error
    except OSError as error:
        raise WorkerError(f"host 0 cannot listen at {listen or host[0]}:{host[1]}: {error.strerror}") from error


def describe_host(processes: int, words: list[str]) -> dict[str, str]:
    """Return what must be alike on every host: the command, the number of processes, and the packages that train."""
    from importlib import metadata

    found = {"command": hashlib.sha256("\0".join(words).encode()).hexdigest()[:12], "processes": str(processes)}
    found["Python"] = ".".join(map(str, sys.version_info[:2]))
    for name in ("torch", "transformers", "accelerate", "peft", "deepspeed", *_TOOLS):
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def require_alike(store: Any, rank: int, hosts: int, timeout_s: int, mine: dict[str, str]) -> None:
    """Raise WorkerError on every host where one has not come, or is not like host 0."""
    from torch.distributed import DistError

    store.set(f"orch/{rank}", json.dumps(mine))
    names = [f"orch/{number}" for number in range(hosts)]
    try:
        store.wait(names, timedelta(seconds=timeout_s))
    except (DistError, RuntimeError) as error:
        come = sum(store.check([name]) for name in names) if rank == 0 else 0
        message = f"Timed out after {timeout_s} seconds waiting for clients: {come} of {hosts} hosts have come"
        raise WorkerError(f"{message}; the same command must run on each, with NODE_RANK 0 to {hosts - 1}") from error
    every = [json.loads(store.get(name)) for name in names]
    store.add("orch/read", 1)
    end = time.monotonic() + _ANSWER_S
    while rank == 0 and store.add("orch/read", 0) < hosts and time.monotonic() < end:
        time.sleep(0.05)  # the store ends with this process, and the others still read from it
    differing = [
        f"{name} is {every[0].get(name)} on host 0 and {other.get(name)} on host {number}"
        for number, other in enumerate(every)
        for name in sorted(every[0].keys() | other.keys())
        if other.get(name) != every[0].get(name)
    ]
    if differing:
        raise WorkerError(*(f"the hosts are not alike: {one}" for one in differing))


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
    parser.add_argument("--nnodes", type=int, default=1, help="how many hosts; NODE_RANK says which this is")
    parser.add_argument("--endpoint", help="HOST:PORT of host 0 (else MASTER_ADDR and MASTER_PORT)")
    parser.add_argument("--local_addr", help="the address that host 0 listens on, where it is not the endpoint's")
    parser.add_argument("--interface", help="for gloo and NCCL (else the one that leads to the endpoint)")
    parser.add_argument("--timeout", type=int, default=1800, help="seconds that hosts wait for one another")
    own = next((at for at in range(0, len(argv), 2) if not argv[at].startswith("--")), len(argv))
    options, words = parser.parse_args(argv[:own]), argv[own:]
    if not words or (words[0] == "-m" and not words[1:]):
        parser.error("what is to run stands after the options: -m MODULE ARGUMENT…, or SCRIPT ARGUMENT…")
    if options.nnodes == 1:
        stay_on_loopback()
    if options.nnodes > 1:
        run_on_hosts(options, words)
    elif options.nproc_per_node > 1:
        run_several(options.nproc_per_node, words)
    else:
        meet_in_memory()
        os.environ.update(_ALONE)
        run_words(words)
    if options.checkpoints and (options.nnodes == 1 or os.environ["NODE_RANK"] == "0"):
        require_one_group(options.checkpoints, options.nnodes * options.nproc_per_node)
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
