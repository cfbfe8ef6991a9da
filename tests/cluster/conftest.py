"""A real Slurm of two nodes on this machine, everything of it below one temporary folder; skipped where none can be.

Debian's slurmd is built with MULTIPLE_SLURMD, so that both nodes are this host. `tests/cluster/install.sh` installs it.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import pytest

from orchestrator.machine.rundir import RunDir
from orchestrator.plan.cluster import ENGINES, render_job
from orchestrator.recipe.schema import Cluster
from orchestrator.run.failures import AGAIN
from orchestrator.run.slurm import find_job_id, find_jobs, submit

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "scontrol", "scancel", "sinfo")
NODES = ("n1", "n2")
CPUS = 5  # of each, whatever this machine has
CONF = """
ClusterName=tests
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={control}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket={root}/munge/sock,cred_expire=5
StateSaveLocation={root}/ctld
SlurmdSpoolDir={root}/d-%n
SlurmctldPidFile={root}/ctld.pid
SlurmdPidFile={root}/slurmd-%n.pid
SlurmctldLogFile={root}/ctld.log
SlurmdLogFile={root}/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=1,bf_interval=1,sched_min_interval=0
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SwitchType=switch/none
MpiDefault=none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/none
PlugStackConfig={root}/plugstack.conf
ReturnToService=2
KillWait=5
MinJobAge=600
JobRequeue=1
InactiveLimit=0
SlurmctldTimeout=10
SlurmdTimeout=5
SlurmdParameters=config_overrides
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port={n1} CPUs={cpus} RealMemory=2000
NodeName=n2 NodeHostname={host} NodeAddr=127.0.0.1 Port={n2} CPUs={cpus} RealMemory=2000
PartitionName=main Nodes=n1,n2 Default=YES MaxTime=INFINITE State=UP PriorityTier=1
PartitionName=urgent Nodes=n1,n2 Default=NO MaxTime=INFINITE State=UP PriorityTier=9
"""


def free_ports(count: int) -> list[int]:
    with_sockets = [socket.socket() for _ in range(count)]
    try:
        for one in with_sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in with_sockets]
    finally:
        for one in with_sockets:
            one.close()


def wait_until(condition: Callable[[], object], timeout_s: float = 90.0, *, every_s: float = 0.2) -> object:
    end = time.monotonic() + timeout_s
    while not (found := condition()):
        assert time.monotonic() < end, "waited in vain"
        time.sleep(every_s)
    return found


class Slurm:
    """The cluster, and what tests do to it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.conf = root / "slurm.conf"

    def start(self, *, more: str = "", nodes: Iterable[str] = NODES) -> None:
        root, (control, *ports) = self.root, free_ports(3)
        for name in ("munge", "ctld", "d-n1", "d-n2"):
            (root / name).mkdir(mode=0o755)
        (root / "munge" / "key").write_bytes(os.urandom(128))
        (root / "munge" / "key").chmod(0o600)
        (root / "plugstack.conf").touch()
        host, at = socket.gethostname().split(".")[0], dict(zip(NODES, ports, strict=True))
        self.conf.write_text(CONF.format(root=root, host=host, control=control, cpus=CPUS, **at) + more)
        munge = [f"--{name}-file={root}/munge/{name}" for name in ("key", "pid", "log", "seed")]
        subprocess.run(["munged", f"--socket={root}/munge/sock", *munge], check=True)
        subprocess.run(["slurmctld", "-f", self.conf], check=True, env=self.env)
        for node in nodes:
            self.start_node(node)
        wait_until(lambda: self.list_states().count("idle") == len(list(nodes)))

    def list_states(self) -> list[str]:
        """Return the state of each node."""
        return self.ask("sinfo", "-h", "-N", "-p", "main", "-o", "%T").split()

    def start_node(self, node: str) -> None:
        subprocess.run(["slurmd", "-N", node, "-f", self.conf], check=True, env=self.env)

    def kill_node(self, node: str) -> None:
        """Let a machine vanish: its slurmd, its steps, and all that they have started."""
        slurmd = psutil.Process(int((self.root / f"slurmd-{node}.pid").read_text()))
        mine = [one for one in psutil.process_iter(["environ"]) if self._is_on(one.info["environ"] or {}, node)]
        steps = {parent for one in mine if (parent := one.parent()) and parent.name() == "slurmstepd"}
        for victim in (slurmd, *steps, *mine):  # a step that outlived its script would report how that ended
            with suppress(psutil.NoSuchProcess):
                victim.kill()

    def _is_on(self, env: dict[str, str], node: str) -> bool:
        return env.get("SLURMD_NODENAME") == node and env.get("SLURM_CONF") == str(self.conf)

    @property
    def env(self) -> dict[str, str]:
        return {**os.environ, "SLURM_CONF": str(self.conf)}

    def ask(self, *argv: str) -> str:
        return subprocess.run(argv, env=self.env, capture_output=True, text=True, check=False).stdout

    def field(self, job: str, name: str) -> str:
        words = self.ask("scontrol", "show", "job", job).split()
        return next((word.partition("=")[2] for word in words if word.startswith(f"{name}=")), "")

    def limit(self, job: str, minutes: int) -> bool:
        """Set a job's time limit, and tell whether it holds: one that is just being requeued takes none."""
        self.ask("scontrol", "update", f"JobId={job}", f"TimeLimit={minutes}")
        return self.field(job, "TimeLimit") == f"00:{minutes:02d}:00"

    def run_time(self, job: str) -> int:
        """Return how many seconds a job has run since it began (again)."""
        hours, minutes, seconds = map(int, self.field(job, "RunTime").split(":"))
        return hours * 3600 + minutes * 60 + seconds

    def field_of_conf(self, name: str) -> str:
        return next(line for line in self.conf.read_text().splitlines() if line.startswith(f"{name}="))

    def is_empty(self) -> bool:
        """Tell whether no job is left; those that are left are cancelled."""
        if self.ask("squeue", "-h", "-o", "%i").split():
            self.ask("scancel", "-u", "root")
            return False
        return True

    def stop(self) -> None:
        self.ask("scancel", "--full", "-u", "root")
        daemons = []
        for file in (*self.root.glob("slurmd-n*.pid"), self.root / "ctld.pid", self.root / "munge" / "pid"):
            with suppress(OSError, ValueError, psutil.NoSuchProcess):
                daemons.append(psutil.Process(int(file.read_text())))
                daemons[-1].terminate()
        psutil.wait_procs(daemons, timeout=10)  # they write into their folder until they have ended


@contextmanager
def started(**how: Any) -> Iterator[Slurm]:
    root = Path(tempfile.mkdtemp(prefix="orch-slurm-"))  # munge wants folders that everybody may pass
    root.chmod(0o755)
    cluster = Slurm(root)
    try:
        cluster.start(**how)
        yield cluster
    finally:
        cluster.stop()
        shutil.rmtree(root, ignore_errors=True)


@pytest.fixture(scope="session")
def slurm() -> Iterator[Slurm]:
    missing = [name for name in PROGRAMS if shutil.which(name) is None]
    if missing or os.geteuid() != 0:
        pytest.skip(f"Slurm runs as root here, and needs {', '.join(missing) or 'root'}: tests/cluster/install.sh")
    with started() as cluster:
        yield cluster


@pytest.fixture(autouse=True)
def here(slurm: Slurm, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("SLURM_CONF", str(slurm.conf))
    yield
    wait_until(slurm.is_empty, 300)


class Line:
    """The line that is repeated: a script in the place of Orch, which notes each attempt."""

    def __init__(self, run: Path, script: str) -> None:
        self.run = run
        self.script = f'cd {run}; echo "$SLURMD_NODENAME" >>attempts; n=$(wc -l <attempts); {script}'

    def words(self) -> list[str]:
        return ["bash", "-c", self.script]


WAITS = "trap 'echo USR1 >>signals; exit 75' USR1; trap 'echo TERM >>signals; exit 75' TERM; while :; do sleep .1; done"


@pytest.fixture
def job(tmp_path: Path) -> Callable[..., RunDir]:
    """Submit a script in the place of a run, and return the run folder."""

    def make(script: str, name: str = "run", **asked: object) -> RunDir:
        run = RunDir(tmp_path / name)
        run.root.mkdir()
        line = Line(run.root, script)
        submit(run, render_job(ENGINES["slurm"], name, Cluster(**asked), line, again=AGAIN))
        return run

    return make


def look(run: RunDir):
    name = find_job_id(run)
    return find_jobs([name])[name]


def attempts(run: RunDir) -> list[str]:
    path = run.root / "attempts"
    return path.read_text().split() if path.exists() else []
