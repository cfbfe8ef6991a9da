"""A training over two hosts, which are network namespaces here: it has the losses of one host, and ends when cut."""

from __future__ import annotations

import itertools
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator.logs.diagnose import diagnose, find_rule
from orchestrator.machine.places import WORKERS
from tests.e2e.conftest import orch
from tests.traps.native import Ended

NETNS = Path(__file__).with_name("netns.sh")
NAMES = Path("/etc/netns")  # files that `ip netns exec` lays over /etc: without names, each connection waits for DNS
_NUMBERS = itertools.count(os.getpid() % 200 + 1)
ENV = {
    "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false",
    "TORCH_CPP_LOG_LEVEL": "ERROR",
}  # fmt: skip


def may_make_hosts() -> bool:
    """Tell whether this user may make network namespaces here."""
    if os.geteuid() != 0 or shutil.which("ip") is None:
        return False
    made = subprocess.run([NETNS, "up", "orch-try", "250"], check=False, capture_output=True).returncode == 0
    subprocess.run([NETNS, "down", "orch-try", "250"], check=False, capture_output=True)
    return made


pytestmark = [pytest.mark.slow, pytest.mark.skipif(not may_make_hosts(), reason="network namespaces need root")]


class Hosts:
    """Two hosts with one cable between them, and one disk."""

    def __init__(self, folder: Path) -> None:
        self.number, self.folder = next(_NUMBERS), folder
        self.name = f"o{self.number}h"
        subprocess.run([NETNS, "up", self.name, str(self.number)], check=True)
        for rank in (0, 1):
            (NAMES / f"{self.name}{rank}").mkdir(parents=True)
            names = [f"10.77.{self.number}.{host + 1} host{host}" for host in (0, 1)]
            (NAMES / f"{self.name}{rank}" / "hosts").write_text("\n".join(["127.0.0.1 localhost", *names, ""]))

    def start(self, rank: int, words: list[str], **more: str) -> subprocess.Popen[bytes]:
        argv = ["ip", "netns", "exec", f"{self.name}{rank}", *words]
        env = {**os.environ, **ENV, **more, "NODE_RANK": str(rank), "MASTER_ADDR": f"10.77.{self.number}.1"}
        with (self.folder / f"out{rank}").open("wb") as out, (self.folder / f"err{rank}").open("wb") as err:
            return subprocess.Popen(argv, cwd=self.folder, env=env, stdout=out, stderr=err)

    def ended(self, rank: int, process: subprocess.Popen[bytes], limit_s: int) -> Ended:
        code = process.wait(timeout=limit_s)
        out, err = ((self.folder / f"{name}{rank}").read_text() for name in ("out", "err"))
        return Ended(code, out, err, self.folder / "output")

    def cut(self) -> None:
        subprocess.run(["ip", "-n", f"{self.name}1", "link", "set", f"{self.name}b", "down"], check=True)

    def list_processes(self) -> list[str]:
        argv = ["ip", "netns", "pids"]
        return [
            pid
            for rank in (0, 1)
            for pid in subprocess.run(
                [*argv, f"{self.name}{rank}"], check=True, capture_output=True, text=True
            ).stdout.split()
        ]

    def close(self) -> None:
        for pid in self.list_processes():
            os.kill(int(pid), 9)
        subprocess.run([NETNS, "down", self.name, str(self.number)], check=True)
        for rank in (0, 1):
            shutil.rmtree(NAMES / f"{self.name}{rank}")


@pytest.fixture
def hosts(tmp_path):
    made = Hosts(tmp_path)
    yield made
    made.close()


@pytest.mark.parametrize("recipe", ["qwen3_reranker", "bert_pointwise", "qwen3_embedding_lora"])
def test_two_hosts_have_the_losses_of_two_processes_of_one_and_are_one_group(hosts, recipes, warm_swift, recipe):
    run = hosts.folder / "run"
    sets = ("--set", "launch.nnodes=2", "--set", "deepspeed=null")
    assert orch("render", str(recipes / f"{recipe}.yaml"), "--smoke", *sets, "-o", str(run)).code == 0
    for stage in ("01-prepare", "02-tiny-model"):
        subprocess.run(["bash", run / "stages" / stage / "command.sh"], check=True, env={**os.environ, **warm_swift})
    [train] = run.glob("stages/*-train")
    command = (train / "command.sh").read_text()
    assert "--nproc_per_node 1" in command
    one = command.replace("--nproc_per_node 1", "--nproc_per_node 2").replace("--nnodes 2", "--nnodes 1")
    words = ["bash", "-c", one]
    said = subprocess.run(words, env={**os.environ, **ENV, **warm_swift}, check=False, capture_output=True, text=True)
    alone = Ended(said.returncode, said.stdout, said.stderr, train / "output").require_success()
    assert len(alone.losses) > 4
    shutil.rmtree(train / "output")

    running = [hosts.start(rank, ["bash", str(train / "command.sh")], **warm_swift) for rank in (0, 1)]
    first, second = (hosts.ended(rank, process, 300) for rank, process in enumerate(running))
    assert (first.code, second.code) == (0, 0), (first.stderr[-3000:], second.stderr[-3000:])
    assert first.losses == alone.losses
    assert second.losses in ([], first.losses)  # some trainers write them on every host
    assert any(train.glob("output/checkpoint-*/rng_state_1.pth"))
    assert hosts.list_processes() == []


SCRIPT = """
import sys, time
from datetime import timedelta
import torch, torch.distributed as dist
dist.init_process_group("gloo", timeout=timedelta(seconds=8))
open(f"begun-{dist.get_rank()}", "w").close()
while True:
    dist.all_reduce(torch.ones(1))
    time.sleep(0.1)
"""


def test_a_host_that_is_cut_off_ends_both_and_the_reason_is_one_to_try_again(hosts):
    (hosts.folder / "train.py").write_text(SCRIPT)
    argv = [sys.executable, str(WORKERS), "launch", "--nproc_per_node", "1", "--nnodes", "2", "--timeout", "600"]
    running = [hosts.start(rank, [*argv, "train.py"]) for rank in (0, 1)]
    while not all((hosts.folder / f"begun-{rank}").exists() for rank in (0, 1)):
        assert [process.poll() for process in running] == [None, None]
    hosts.cut()
    for rank, process in enumerate(running):
        ended = hosts.ended(rank, process, 600)
        assert ended.code == 1
        rule = find_rule(diagnose(ended.stdout + ended.stderr, ended.code).name)
        assert rule.fault == "passing", ended.stderr[-2000:]
    assert hosts.list_processes() == []
