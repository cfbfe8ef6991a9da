"""A further host runs the train command when host 0 does, and ends as host 0's run ends; what hosts must have alike."""

from __future__ import annotations

import os
import threading

import pytest
from msgspec.structs import replace

from orchestrator.errors import PreflightError, RecipeError, StageFailedError, TakenAwayError
from orchestrator.machine.process import Child
from orchestrator.machine.rundir import RunDir
from orchestrator.plan.jobs import count_hosts, find_place
from orchestrator.plan.pipeline import build_plan
from orchestrator.recipe.plan import Command, Plan, Stage
from orchestrator.recipe.schema import Launch
from orchestrator.run.failures import judge
from orchestrator.run.joining import join_run
from orchestrator.run.launching import write_plan
from orchestrator.run.state import LaunchRecord, RunState, write_launch, write_state
from orchestrator.run.stopping import Interrupts, SupervisorDeps
from orchestrator.workers.failure import WorkerError
from orchestrator.workers.launch import find_interface, meet_at, open_store, read_place, require_alike
from tests.backends.test_parallelism import QWEN, make_job, refusals
from tests.hosts.test_one_group import TWO
from tests.process.conftest import FakeClock, FakeProcesses

TWO_HOSTS = ("launch.nnodes=2", "launch.rdzv.endpoint='head:29400'", "launch.ddp_timeout_s=60")


@pytest.fixture
def run(tmp_path):
    """A run folder as host 0 makes it: a training, and an evaluation behind it."""
    stages = tuple(
        Stage(f"0{number}-{kind}", kind, kind, Command(("python", kind), (("A", "1"),)))
        for number, kind in enumerate(("train", "evaluate"), 1)
    )
    folder = RunDir(tmp_path / "run")
    folder.root.mkdir()
    plan = Plan("x", str(folder.root), "reranker", "flagembedding", smoke=True, recipe={}, stages=stages, files=())
    write_plan(plan, folder)
    folder.stage("01-train").root.mkdir(parents=True)
    return folder


class Host0:
    """What host 0 writes, second by second of a fake clock."""

    def __init__(self, run):
        self.run, self.clock = run, FakeClock()
        self.fake = FakeProcesses(self.clock)
        self.deps = SupervisorDeps(self.fake, self.clock, Interrupts())
        self.beats = 0

    def says(self, at, status="running", **state):
        def write():
            self.beats += 1
            self.run.lock.touch()
            os.utime(self.run.lock, ns=(self.beats, self.beats))
            write_state(self.run, RunState(status, started=5.0, **state))

        self.clock.at(at, write)

    def trains(self, at, attempt="t1"):
        record = LaunchRecord(("python", "train", "--resumed"), (), ".", "d", 1, attempt, 1.0, 0, 0)
        self.clock.at(at, lambda: write_launch(self.run.stage("01-train"), record))
        self.says(at, stage="01-train", child=Child(7, 7, "s", attempt))

    def join(self, wait_s=30.0):
        join_run(self.run, 1, wait_s=wait_s, deps=self.deps)


def test_a_further_host_runs_what_host_0_launched_and_ends_at_the_next_stage(run):
    host = Host0(run)
    host.trains(2)
    host.fake.history = [(5, lambda fake: fake.end(0))]
    host.says(12, stage="02-evaluate")
    host.join()
    (launch,) = host.fake.launches
    assert launch.argv == ("python", "train", "--resumed")
    assert launch.stdout == run.stage("01-train").root / "host-1" / "stdout.log"


def test_it_follows_host_0_to_another_attempt_and_ends_the_first(run):
    host = Host0(run)
    host.trains(2)
    host.trains(6, "t2")
    host.says(12, stage="02-evaluate")
    host.join()
    assert len(host.fake.launches) == 2
    assert host.fake.signals


def test_what_an_earlier_attempt_left_is_no_end(run):
    write_state(run, RunState("failed", started=1.0, exit_code=6, message="old"))
    host = Host0(run)
    host.trains(3)
    host.says(8, stage="02-evaluate")
    host.join()
    assert len(host.fake.launches) == 1


def test_a_silent_host_0_is_a_lost_node_and_nothing_is_left(run):
    host = Host0(run)
    host.trains(2)
    with pytest.raises(TakenAwayError, match="nothing was heard from host 0 for 30 s"):
        host.join()
    assert not host.fake.alive


@pytest.mark.parametrize(
    ("log", "code"),
    [("RuntimeError: [gloo] Connection closed by peer [10.0.0.2]:1", 75), ("ValueError: no column x", 6)],
)
def test_it_ends_with_host_0_and_both_say_the_same_to_their_engine(run, log, code):
    host = Host0(run)
    host.trains(2)
    run.stage("01-train").stderr_log.write_text(log)
    host.says(6, "failed", stage="01-train", exit_code=6, message="01-train ended with exit code 1")
    with pytest.raises(StageFailedError, match="host 0 ended: 01-train ended") as raised:
        host.join()
    assert judge(raised.value, run).exit_code == code


def test_a_folder_that_does_not_appear_is_not_shared(tmp_path):
    host = Host0(RunDir(tmp_path / "elsewhere"))
    with pytest.raises(PreflightError, match="host 0 has made no run in") as raised:
        host.join(wait_s=10)
    assert "on a disk that they share" in raised.value.problems[0].hint


def test_a_scheduler_says_which_host_this_is_and_where_they_meet():
    slurm = {"SLURM_NNODES": "2", "SLURM_NODEID": "1", "MASTER_ADDR": "head", "MASTER_PORT": "7"}
    place = {"NODE_RANK": "1", "MASTER_ADDR": "head", "MASTER_PORT": "7"}
    assert find_place(Launch(nnodes="auto"), slurm) == place
    torchrun = {"PET_NNODES": "1:2", "PET_NODE_RANK": "1", "PET_RDZV_ENDPOINT": "head:7"}
    assert find_place(Launch(nnodes="auto"), torchrun) == place
    assert find_place(Launch(), slurm) == {}
    said = Launch(nnodes=2, node_rank=0, rdzv={"endpoint": "head:7"})
    assert find_place(said, {}) == place | {"NODE_RANK": "0"}


@pytest.mark.parametrize(
    ("launch", "env", "says"),
    [
        (Launch(nnodes=2), {"MASTER_ADDR": "head"}, "nothing says which host this is"),
        (Launch(nnodes=2, node_rank=2), {"MASTER_ADDR": "head"}, "this is host 2, counted from 0"),
        (Launch(nnodes=2, node_rank=0), {}, "nothing says where they meet"),
    ],
)
def test_what_nothing_says_of_a_host_is_an_error(launch, env, says):
    with pytest.raises(PreflightError, match=says):
        find_place(launch, env)
    with pytest.raises(RecipeError, match="no scheduler says"):
        count_hosts(Launch(nnodes="auto"), {})


@pytest.mark.parametrize("recipe", ["qwen3_reranker", "bge_pointwise", "qwen3_sft_lora"])
def test_every_trainer_is_started_alike_on_all_hosts(recipe):
    job = make_job(
        recipe, replace(QWEN, family="encoder") if recipe == "bge_pointwise" else QWEN, *TWO_HOSTS, hardware=TWO
    )
    train = build_plan(job).stage("train")
    argv = " ".join(train.command.argv)
    assert job.world_size() == 4
    assert "launch --nproc_per_node 2 --checkpoints /runs/golden/" in argv
    assert " --nnodes 2 --endpoint head:29400 --timeout 60 " in argv
    assert "4 processes" in train.title
    assert "node_rank" not in argv


def test_the_time_that_processes_wait_is_said_once():
    job = make_job("qwen3_reranker", QWEN, *TWO_HOSTS, "train.ddp_timeout=5", hardware=TWO)
    assert "launch.ddp_timeout_s says it already" in refusals(job)["train.ddp_timeout"].message


def alike(hosts, timeout_s=20):
    """Return what each of several hosts, all in this process, says of the others."""
    store, said = open_store(), {}

    def ask(rank, facts):
        from torch.distributed import TCPStore

        own = store if rank == 0 else TCPStore("127.0.0.1", store.port, None, False)
        try:
            require_alike(own, rank, len(hosts), timeout_s, facts)
        except WorkerError as error:
            said[rank] = error.problems

    asking = [threading.Thread(target=ask, args=item) for item in enumerate(hosts) if item[1]]
    for one in asking:
        one.start()
    for one in asking:
        one.join()
    return said


def test_hosts_with_other_versions_each_say_so():
    one = {"torch": "2.13.0", "transformers": "5.19.0"}
    assert alike([one, dict(one)]) == {}
    said = alike([one, one | {"torch": "2.12.0"}])
    assert said[0] == said[1] == ("the hosts are not alike: torch is 2.13.0 on host 0 and 2.12.0 on host 1",)


def test_a_host_that_does_not_come_is_said():
    said = alike([{"torch": "2.13.0"}, None], timeout_s=1)
    assert "waiting for clients: 1 of 2 hosts have come" in said[0][0]


def test_host_0_that_does_not_answer_is_said():
    with pytest.raises(WorkerError, match="client socket has timed out: host 0 does not answer at 127.0.0.1:9"):
        meet_at(("127.0.0.1", 9), 1, 1, listen=None)


def test_the_place_of_meeting_comes_from_the_command_or_the_environment(monkeypatch):
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    monkeypatch.setenv("NODE_RANK", "1")
    assert read_place("head:7") == ("head", 7)
    with pytest.raises(WorkerError, match="MASTER_ADDR must be set on every host"):
        read_place(None)
    monkeypatch.setenv("MASTER_ADDR", "head")
    monkeypatch.setenv("MASTER_PORT", "8")
    assert read_place(None) == ("head", 8)
    assert find_interface("127.0.0.1") in {"lo", "lo0", None}
