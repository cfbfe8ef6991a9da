"""Jobs of Slurm: tried, submitted, looked at, cancelled. The run folder says which is its own."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.errors import PreflightError, RunFolderError
from orchestrator.machine import process
from orchestrator.machine.files import find_text, open_to_append, read_regular, write_text
from orchestrator.machine.rundir import RunDir
from orchestrator.machine.terminal import Text
from orchestrator.recipe.plan import File
from orchestrator.run.runs import RunSummary, ask_to_stop
from orchestrator.run.stopping import Clock

if TYPE_CHECKING:
    from orchestrator.plan.cluster import Engine  # pydantic: `orch ls` does without

SLURM = "slurm"
ANSWER_S = 60.0  # Slurm's programs try a controller that does not answer for about 20 s
HANDED_S = 600.0  # SkyPilot starts a controller for its first job
STOPPED_S = 90.0  # KillWait, after which Slurm kills, is 30 s where nobody has changed it
_POLL_S = 1.0
_ASKED_EVERY_S = 3.0
_MOST_BYTES = 1 << 16
_FIELDS = "%i|%T|%r|%N|%S"
UNREACHABLE, OUTSIDE, FORGOTTEN = "UNREACHABLE", "OUTSIDE", "FORGOTTEN"
# What Slurm's programs say where no slurm.conf is found: they ask the DNS for one.
_NO_CONFIG = ("establish a configuration source", "process configuration file")
_FULL = "its queue is full, and nothing was submitted: try again when jobs have ended (`squeue`)"
_REFUSALS = {  # a part of what sbatch says: what to do
    "configuration is not available": "no machine has that: `sinfo -N -o '%N %c %m %G %f'` lists cores, memory, GPUs "
    "and features",
    "job submit limit": "wait until one of your jobs ends (`squeue --me`), or ask for less: `sacctmgr show qos`",
    "temporarily unavailable": _FULL,
    "sleeping and retrying": _FULL,
}


@dataclass(frozen=True)
class Job:
    """What Slurm says of a job.

    `state` is its own word, or UNREACHABLE, or OUTSIDE on a machine of no cluster, or FORGOTTEN after MinJobAge.
    """

    id: str
    state: str
    reason: str = ""
    nodes: str = ""
    start: str = ""

    @property
    def is_over(self) -> bool:
        """Whether nothing of it runs or waits any more."""
        return self.state in ENDINGS or self.state == FORGOTTEN

    def describe(self) -> str:
        """Return the state in words: why it waits, where it runs, or why it ended."""
        if ending := ENDINGS.get(self.state):
            return f"{SLURM} {self.id}: {ending.fill()}"
        if unknown := UNKNOWN.get(self.state):
            return unknown.fill(self.id)
        more = [self.reason if self.reason != "None" else "", self.nodes]
        more += [STARTS.fill(self.start)] if self.start[:1].isdigit() and not self.nodes else []
        return f"{SLURM} {self.id}: {self.state} {', '.join(filter(None, more))}".rstrip()


def find_job_id(run: RunDir) -> str | None:
    """Return the id of the run's last job, None where it has none."""
    rows = (find_text(run.job_ids, most_bytes=_MOST_BYTES) or "").split("\n")
    ids = [row.partition(" ")[2] for row in rows if row.startswith(f"{SLURM} ")]
    return ids[-1] if ids and ids[-1].isdigit() else None


def find_job(run: RunDir) -> Job | None:
    """Return what Slurm says of the run's last job, None where it has none."""
    name = find_job_id(run)
    return find_jobs([name])[name] if name else None


def find_jobs(ids: Iterable[str]) -> dict[str, Job]:
    """Return what Slurm says of each job, in one question."""
    if not (wanted := tuple(ids)):
        return {}
    said = process.run(("squeue", "-h", "-t", "all", "-j", ",".join(wanted), "-o", _FIELDS), ANSWER_S)
    unknown = said.exit_code == 1 and "Invalid job id" in said.stderr
    if said.exit_code != 0 and not unknown:
        return {name: Job(name, OUTSIDE if _is_outside(said) else UNREACHABLE) for name in wanted}
    found = {job.id: job for line in said.stdout.splitlines() if (job := parse_job(line))}
    return {name: found.get(name) or remember(name) for name in wanted}


def parse_job(line: str) -> Job | None:
    """Return the job of one line of squeue's, None for another line."""
    parts = line.strip().split("|")
    return Job(*parts) if len(parts) == _FIELDS.count("|") + 1 and parts[0].isdigit() else None


def remember(name: str) -> Job:
    """Return what the accounting knows of a job that the controller has forgotten, where there is one."""
    said = process.run(("sacct", "-n", "-X", "-P", "-j", name, "-o", "State"), ANSWER_S)
    state = said.stdout.split()
    return Job(name, state[0] if said.exit_code == 0 and state and state[0] in ENDINGS else FORGOTTEN)


def submit(run: RunDir, job: File) -> str:
    """Write the job, let Slurm try it, hand it in, and record its id. Raises PreflightError with Slurm's reason.

    Raises RunFolderError where a job of the run waits or works.
    """
    if (there := find_job(run)) and not there.is_over:
        hint = f"follow it with `orch logs -f {run.root}`, or end it with `orch stop {run.root}`"
        raise RunFolderError(f"{run.root} has a job: {there.describe()}", hint=hint)
    script = write_job(run, job)
    try:
        _ask("sbatch", "--test-only", str(script))
        name = _ask("sbatch", "--parsable", str(script)).strip().partition(";")[0]
    except PreflightError:
        if not run.job_ids.exists():  # nothing of a job that never was
            shutil.rmtree(run.job)
            if not any(run.root.iterdir()):
                run.root.rmdir()
        raise
    with open_to_append(run.job_ids) as stream:
        stream.write(f"{SLURM} {name}\n".encode())
    return name


def resubmit(run: RunDir) -> str:
    """Hand the run's job in once more, as it stands in its folder; return its id."""
    from orchestrator.plan.cluster import ENGINES

    path = run.root / ENGINES[SLURM].file
    return submit(run, File(ENGINES[SLURM].file, read_regular(path, most_bytes=_MOST_BYTES).decode()))


def is_coming(run: RunDir) -> bool:
    """Tell whether the run has a job that waits or works; asking takes a moment, so that Slurm is not asked often."""
    if (job := find_job(run)) is None or job.is_over:
        return False
    time.sleep(_ASKED_EVERY_S)
    return True


def hand_over(run: RunDir, engine: Engine, job: File) -> str:
    """Write the job and give it to the program of an engine that keeps its own account of jobs; return its last line.

    Raises PreflightError where the program is not there, or refuses.
    """
    said = process.run((*engine.submit, str(write_job(run, job))), HANDED_S)
    if said.exit_code == process.NOT_FOUND_CODE:
        hint = f"{engine.install}; the job: {run.root / job.path}"
        raise PreflightError(f"{engine.submit[0]} is not there", hint=hint)
    lines = [line for line in (said.stdout if said.exit_code == 0 else said.stderr).splitlines() if line.strip()]
    if said.exit_code != 0:
        raise PreflightError(f"{engine.submit[0]} refuses the job: {lines[-1] if lines else 'no answer'}")
    return lines[-1] if lines else ""


def _ask(*argv: str) -> str:
    """Return what one of Slurm's programs says. Raises PreflightError with its reason."""
    said = process.run(argv, ANSWER_S)
    if said.exit_code == 0:
        return said.stdout
    if _is_outside(said):
        hint = "submit on one that does, such as a login node; SLURM_CONF names a slurm.conf that is not in /etc/slurm"
        raise PreflightError("this machine belongs to no cluster of Slurm", hint=hint)
    lines = [line.partition("error: ")[2] or line for line in said.stderr.splitlines() if line.strip()]
    if any("Unable to contact" in line for line in lines):
        hint = "nothing was submitted; `sinfo` shows when the controller is back"
        raise PreflightError("the controller of Slurm is unreachable", hint=hint)
    raise PreflightError(f"Slurm refuses the job: {'; '.join(lines) or 'no answer'}", hint=_advise(lines))


def _is_outside(said: process.Completed) -> bool:
    return said.exit_code == process.NOT_FOUND_CODE or any(words in said.stderr for words in _NO_CONFIG)


def _advise(lines: list[str]) -> str:
    from orchestrator.plan.cluster import suggest

    if wrong := next((line.rpartition(": ")[2] for line in lines if "invalid partition specified" in line), None):
        known = sorted(set(process.run(("sinfo", "-h", "-o", "%R"), ANSWER_S).stdout.split()))
        return suggest(wrong, known, f"partitions: {', '.join(known)}")
    known_hints = (hint for words, hint in _REFUSALS.items() if any(words in line for line in lines))
    return next(known_hints, "change `cluster:` in the recipe, or the profile in clusters.yaml")


def stop(run: RunDir, name: str, clock: Clock = time) -> str:
    """Cancel the run's job and wait until it is gone; say in one sentence what was done."""
    if find_jobs([name])[name].is_over:
        return "nothing runs"
    ask_to_stop(run)
    _ask("scancel", name)
    end = clock.monotonic() + STOPPED_S
    while not (job := find_jobs([name])[name]).is_over:
        if clock.monotonic() > end:
            raise RunFolderError(f"the job has not ended: {job.describe()}", hint=f"scontrol show job {name}")
        clock.sleep(_POLL_S)
    return f"job {name} is cancelled"


def add_jobs(runs: list[RunSummary]) -> list[RunSummary]:
    """Return the summaries with what Slurm says of those that are not over: a pending job, a lost one, and why."""
    names = {run.path: name for run in runs if run.status != "done" and (name := find_job_id(RunDir(run.path)))}
    jobs = find_jobs(sorted(set(names.values())))
    return [_add(run, jobs[names[run.path]]) if run.path in names else run for run in runs]


def _add(run: RunSummary, job: Job) -> RunSummary:
    if job.state == FORGOTTEN:  # the run folder knows the rest
        return replace(run, status="lost", message=job.describe()) if run.status == "planned" else run
    said = " · ".join(filter(None, (job.describe(), run.message)))
    if job.state in ENDINGS:
        ended = {"planned": "failed", "running": "dead"}.get(run.status, run.status)
        return replace(run, status=ended, message=run.message if run.status == "failed" else said)
    if job.state in {UNREACHABLE, OUTSIDE} or run.status == "running":
        return replace(run, message=said)
    return replace(run, status="pending" if job.state == "PENDING" else "starting", message=job.describe())


def write_job(run: RunDir, job: File) -> Path:
    """Write a job's file for a hand that submits it."""
    run.job.mkdir(parents=True, exist_ok=True)
    path: Path = run.root / job.path
    write_text(path, job.text)
    return path


# How a job ends, as squeue and sacct say it; all other states are those of a job that waits or works.
ENDINGS = {
    "COMPLETED": Text("it ended", "已结束"),
    "FAILED": Text("it ended with an error", "出错结束"),
    "CANCELLED": Text("it was cancelled", "被取消"),
    "TIMEOUT": Text("its time limit was reached (cluster.time)", "达到时间上限（cluster.time）"),
    "PREEMPTED": Text("it was preempted", "被抢占"),
    "NODE_FAIL": Text("its node failed", "节点故障"),
    "BOOT_FAIL": Text("its node did not start", "节点未能启动"),
    "OUT_OF_MEMORY": Text("it used more memory than it had asked for (cluster.mem)", "内存超出申请量（cluster.mem）"),
    "DEADLINE": Text("its deadline has passed", "已过截止时间"),
    "REVOKED": Text("another cluster has it", "已由其他集群接管"),
}
UNKNOWN = {
    UNREACHABLE: Text("slurm {0}: the controller is unreachable", "slurm {0}：无法连接控制器"),
    OUTSIDE: Text("slurm {0}: this machine belongs to no cluster", "slurm {0}：本机不属于任何集群"),
    FORGOTTEN: Text(
        "Slurm knows no job {0} any more: job/slurm.log says how it ended",
        "Slurm 已不记得作业 {0}：结束原因见 job/slurm.log",
    ),
}
STARTS = Text("starts about {0}", "预计 {0} 开始")
