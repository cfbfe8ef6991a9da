"""A training over two hosts, which are network namespaces here: it has the losses of one process, and ends when cut."""

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
from tests.traps.conftest import build_tiny, flagembedding, make_groups, texts  # noqa: F401  (fixtures)
from tests.traps.native import Ended, spell, write_rows
from tests.traps.test_flagembedding import COMMON, DECODER

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

    def start(self, rank: int, words: list[str], timeout_s: int) -> subprocess.Popen[bytes]:
        argv = ["ip", "netns", "exec", f"{self.name}{rank}", sys.executable, WORKERS, "launch", "--nproc_per_node", "1"]
        argv += ["--checkpoints", self.folder / "output", "--nnodes", "2", "--timeout", str(timeout_s)]
        argv += ["--endpoint", f"10.77.{self.number}.1:29400"]
        argv += [word.replace("OUTPUT", str(self.folder / "output")) for word in words]
        env = {**os.environ, **ENV, "NODE_RANK": str(rank)}
        with (self.folder / f"out{rank}").open("wb") as out, (self.folder / f"err{rank}").open("wb") as err:
            return subprocess.Popen([*map(str, argv)], cwd=self.folder, env=env, stdout=out, stderr=err)

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


def test_two_hosts_have_the_losses_of_one_process_and_their_processes_are_one_group(hosts, flagembedding, texts):  # noqa: F811
    data = write_rows(hosts.folder / "rows.jsonl", make_groups(16))
    same = {
        **COMMON, "model_name_or_path": build_tiny(flagembedding, "decoder", texts), "model_type": "decoder",
        "target_modules": ["q_proj", "v_proj"], "lora_dropout": 0.0, "dataloader_drop_last": True, "train_data": data,
    }  # fmt: skip
    one = flagembedding.call(DECODER, spell(same)).require_success()
    words = ["-m", DECODER, *spell({**same, "per_device_train_batch_size": 2, "save_strategy": "epoch"})]
    running = [hosts.start(rank, words, 600) for rank in (0, 1)]
    first, second = (hosts.ended(rank, process, 900) for rank, process in enumerate(running))
    assert (first.code, second.code) == (0, 0), (first.stderr, second.stderr)
    assert first.losses == pytest.approx(one.losses, abs=2e-4)
    assert second.losses == []
    assert (first.output / "checkpoint-4" / "rng_state_1.pth").is_file()
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
    running = [hosts.start(rank, ["train.py"], 600) for rank in (0, 1)]
    while not all((hosts.folder / f"begun-{rank}").exists() for rank in (0, 1)):
        assert [process.poll() for process in running] == [None, None]
    hosts.cut()
    for rank, process in enumerate(running):
        ended = hosts.ended(rank, process, 600)
        assert ended.code == 1
        rule = find_rule(diagnose(ended.stdout + ended.stderr, ended.code).name)
        assert rule.fault == "passing", ended.stderr[-2000:]
    assert hosts.list_processes() == []
