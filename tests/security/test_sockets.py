"""Where a training listens: on 127.0.0.1 only, with one process and with several, whatever library opens the socket."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from datetime import timedelta
from pathlib import Path

import psutil
import pytest

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parents[2]
WORKERS = ROOT / "orchestrator" / "workers"
GOLDEN = ROOT / "tests" / "golden"
LOOPBACK = {"127.0.0.1", "::1", "::ffff:127.0.0.1"}
# What a trainer does: a group of processes, another group, tensors and pickled objects between them.
SCRIPT = """
import os, sys, time
import torch, torch.distributed as dist
dist.init_process_group("gloo")
total = torch.ones(1) * (dist.get_rank() + 1)
dist.all_reduce(total)
found = [None] * dist.get_world_size()
dist.all_gather_object(found, dist.get_rank(), group=dist.new_group())
os.write(1, f"{int(total)} {found}\\n".encode())  # whole: both processes write into one pipe
open(f"ready-{dist.get_rank()}", "w").close()
while not os.path.exists("go"):
    time.sleep(0.05)
dist.barrier()
dist.destroy_process_group()
"""


def find_listening(process: psutil.Process) -> set[str]:
    """Return the addresses that a process and all that it started listen on."""
    family = [process, *process.children(recursive=True)]
    connections = [connection for member in family for connection in member.net_connections("inet")]
    return {connection.laddr.ip for connection in connections if connection.status == psutil.CONN_LISTEN}


def list_store_keys(launcher: psutil.Process) -> list[str]:
    """Return what a stranger who reaches the launcher's own store finds in it."""
    from torch.distributed import TCPStore

    ports = [at.laddr.port for at in launcher.net_connections("inet") if at.status == psutil.CONN_LISTEN]
    stores = [TCPStore("127.0.0.1", port, is_master=False, timeout=timedelta(seconds=10)) for port in ports]
    return [key for store in stores for key in store.list_keys()]


@pytest.mark.parametrize(("processes", "said"), [(1, "1 [0]"), (2, "3 [0, 1]")])
def test_a_group_of_processes_listens_on_the_loopback_interface_only(tmp_path, processes, said):
    (tmp_path / "train.py").write_text(SCRIPT)
    # what torchrun would take for a meeting place of its own, on every interface
    env = {**os.environ, "PET_STANDALONE": "1", "PYTHONSAFEPATH": "1"}
    argv = [sys.executable, str(WORKERS), "launch", "--nproc_per_node", str(processes), "train.py"]
    with subprocess.Popen(argv, cwd=tmp_path, env=env, stdout=subprocess.PIPE, text=True) as child:
        try:
            end = time.monotonic() + 120
            while not all((tmp_path / f"ready-{rank}").exists() for rank in range(processes)):
                assert child.poll() is None, "it ended"
                assert time.monotonic() < end, "waited in vain"
                time.sleep(0.1)
            launcher = psutil.Process(child.pid)
            listening = find_listening(launcher)
            keys = list_store_keys(launcher) if processes > 1 else []
        finally:
            (tmp_path / "go").touch()
        assert child.stdout is not None
        assert child.stdout.read().splitlines() == [said] * processes
        assert child.wait() == 0
    assert listening  # gloo's own sockets at least
    assert listening <= LOOPBACK
    assert bool(keys) == (processes > 1)
    assert [key for key in keys if "rendezvous" in key] == []  # whose values torchrun would unpickle


def test_no_plan_starts_the_meeting_place_of_torchrun():
    plans = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(GOLDEN.glob("*/plan.json"))]
    commands = [stage["command"]["argv"] for plan in plans for stage in plan["stages"] if stage["kind"] == "train"]
    assert len(commands) > 10
    assert [argv for argv in commands if "torch.distributed.run" in argv] == []
    launched = {argv[argv.index("launch") + 2] for argv in commands if "launch" in argv}
    assert launched == {"1", "2"}  # numbers of processes
