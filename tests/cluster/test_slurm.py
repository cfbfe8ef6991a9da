"""Jobs on a real Slurm: how each ends, what begins again, and what is said of it."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path

import pytest

from orchestrator.cli import main
from orchestrator.errors import PreflightError, RunFolderError
from orchestrator.machine.rundir import RunDir
from orchestrator.run.runs import list_runs
from orchestrator.run.slurm import FORGOTTEN, OUTSIDE, UNREACHABLE, add_jobs, find_job_id, find_jobs, resubmit, stop
from tests.cluster.conftest import WAITS, attempts, look, started, wait_until


def is_over(run):
    return look(run).is_over


def summary(run):
    [found] = [one for one in add_jobs(list_runs(run.root.parent)) if one.name == run.root.name]
    return found


@pytest.mark.parametrize("code", [0, 2, 3, 6, 8])
def test_what_ends_for_good_runs_once(slurm, job, code):
    run = job(f"echo it said so; exit {code}")
    wait_until(lambda: is_over(run))
    assert look(run).state == ("FAILED" if code else "COMPLETED")
    assert len(attempts(run)) == 1
    assert slurm.field(find_job_id(run), "Restarts") == "0"
    assert "it said so" in (run.job / "slurm.log").read_text()


def test_before_the_time_limit_a_run_is_asked_to_save_and_begins_again(slurm, job):
    run = job(f'[ "$n" = 1 ] || exit 0; {WAITS}', time=1, warn_s=30)
    wait_until(lambda: is_over(run), 150)
    assert (run.root / "signals").read_text().split() == ["USR1"]
    assert look(run).state == "COMPLETED"
    assert len(attempts(run)) == 2
    assert slurm.field(find_job_id(run), "Restarts") == "1"


def test_it_begins_again_so_often_and_no_oftener(job):
    run = job("exit 75", requeues=1)
    wait_until(lambda: is_over(run))
    assert look(run).state == "FAILED"
    assert len(attempts(run)) == 2
    assert "does not any more" in (run.job / "slurm.log").read_text()


def test_a_preempted_job_begins_again(job):
    run = job(f"[ ! -e signals ] || exit 0; {WAITS}", nodes=2, extra="--exclusive")
    wait_until(lambda: len(attempts(run)) == 2)
    urgent = job("exit 0", "urgent", partition="urgent", nodes=2, extra="--exclusive")
    wait_until(lambda: is_over(urgent) and is_over(run))
    assert "TERM" in (run.root / "signals").read_text()
    assert look(run).state == "COMPLETED"
    assert sorted(attempts(run)) == ["n1", "n1", "n2", "n2"]


def test_the_line_runs_on_every_machine_and_each_knows_which_it_is_and_where_they_meet(job):
    run = job('echo "$SLURM_NODEID of $SLURM_NNODES at $MASTER_ADDR:$MASTER_PORT" >>places', nodes=2)
    wait_until(lambda: is_over(run))
    assert look(run).state == "COMPLETED"
    port = 20000 + int(find_job_id(run)) % 20000
    places = sorted((run.root / "places").read_text().splitlines())
    assert places == [f"{rank} of 2 at 127.0.0.1:{port}" for rank in (0, 1)]


def test_a_warning_reaches_every_machine_and_the_job_begins_again(slurm, job):
    run = job(f"[ ! -e signals ] || exit 0; {WAITS}", nodes=2)
    wait_until(lambda: len(attempts(run)) == 2)
    slurm.ask("scancel", "--batch", "--signal=USR1", find_job_id(run))  # what --signal=B:USR1 does near the time limit
    wait_until(lambda: is_over(run))
    assert look(run).state == "COMPLETED"
    assert (run.root / "signals").read_text().split().count("USR1") == 2
    assert sorted(attempts(run)) == ["n1", "n1", "n2", "n2"]


@pytest.mark.parametrize("rank", [0, 1])
def test_what_one_machine_ends_with_stands_above_how_the_others_are_ended(slurm, job, rank):
    fails = f'if [ "$SLURM_NODEID" = {rank} ]; then until [ "$(wc -l <attempts)" = 2 ]; do sleep .1; done; exit 3; fi'
    run = job(f"{fails}; {WAITS}", nodes=2)
    wait_until(lambda: is_over(run))
    assert look(run).state == "FAILED"
    assert slurm.field(find_job_id(run), "ExitCode") == "3:0"
    assert slurm.field(find_job_id(run), "Restarts") == "0"
    assert sorted(attempts(run)) == ["n1", "n2"]


def read_losses(log: Path) -> list[float]:
    return [float(value) for value in re.findall(r"'loss': '?([\d.]+)", log.read_text())]


@pytest.mark.slow
def test_two_machines_reach_a_verdict_with_the_losses_of_two_processes_of_one(recipes, warm, tmp_path, monkeypatch):
    for name, value in warm.items():
        monkeypatch.setenv(name, value)
    run = RunDir(tmp_path / "run")
    words = ["submit", str(recipes / "bert_pointwise.yaml"), "--smoke", "--set", "cluster.nodes=2"]
    with pytest.raises(SystemExit) as submitted:
        main([*words, "-o", str(run.root)])
    assert submitted.value.code == 0
    wait_until(lambda: is_over(run), 1500)
    assert look(run).state == "COMPLETED", (run.job / "slurm.log").read_text()
    assert json.loads(run.report_json.read_text())["verdict"]
    [train] = (run.root / "stages").glob("*-train")
    assert (train / "host-1" / "stdout.log").is_file()

    config = json.loads((run.root / "files" / "train.json").read_text())
    config["arguments"]["output_dir"] = str(tmp_path / "output")
    (tmp_path / "train.json").write_text(json.dumps(config))
    launched = json.loads((train / "command.json").read_text())
    python, workers, launch, *_ = launched["argv"]
    argv = [python, workers, launch, "--nproc_per_node", "2", workers, "train_cross_encoder"]
    with (tmp_path / "one.log").open("w") as log:
        subprocess.run(
            [*argv, "--config", str(tmp_path / "train.json")], check=True, cwd=launched["cwd"], stdout=log, stderr=log,
            env={**os.environ, **dict(launched["env"])},
        )  # fmt: skip
    losses = read_losses(train / "stdout.log")
    assert len(losses) > 1
    assert losses == read_losses(tmp_path / "one.log")


def test_a_job_whose_node_is_lost_begins_again_on_another(slurm, job):
    run = job(f'[ "$n" = 1 ] || exit 0; {WAITS}')
    wait_until(lambda: attempts(run))
    [node] = attempts(run)
    slurm.kill_node(node)
    try:
        wait_until(lambda: is_over(run))
        assert look(run).state == "COMPLETED"
        assert len(attempts(run)) == 2
        assert attempts(run)[1] != node
        assert not (run.root / "signals").exists()
    finally:
        slurm.start_node(node)
        wait_until(lambda: slurm.list_states() == ["idle", "idle"])


def test_a_machine_at_fault_is_left_out(job):
    run = job('[ "$n" = 1 ] || exit 0; echo "$SLURMD_NODENAME" >excluded_nodes; exit 75')
    first = find_job_id(run)
    wait_until(lambda: find_job_id(run) != first and is_over(run))
    one, other = attempts(run)
    assert one != other
    assert look(run).state == "COMPLETED"


def test_a_stopped_job_is_cancelled_and_told_who_did_it(job):
    run = job(WAITS)
    wait_until(lambda: attempts(run))
    with pytest.raises(RunFolderError, match="has a job"):
        resubmit(run)
    assert "is cancelled" in stop(run, find_job_id(run))
    assert look(run).state == "CANCELLED"
    assert run.stop_requested.exists()
    assert "TERM" in (run.root / "signals").read_text()
    assert len(attempts(run)) == 1
    assert "was cancelled" in summary(run).message
    assert stop(run, find_job_id(run)) == "nothing runs"


def test_a_job_whose_orch_is_ended_before_its_script_does_not_begin_again(job):
    runs = [job('[ "$n" = 1 ] || exit 0; scancel "$SLURM_JOB_ID"; exit 75', f"run-{place}") for place in range(4)]
    for run in runs:
        wait_until(lambda run=run: attempts(run) and is_over(run))
        assert look(run).state == "CANCELLED"
        assert len(attempts(run)) == 1


def test_a_job_that_waits_says_why(slurm, job):
    for name in ("one", "two"):
        job(WAITS, name, extra="--exclusive", time=5)
    run = job("exit 0", nodes=1, extra="--exclusive", time=5)
    wait_until(lambda: look(run).reason == "Resources" and look(run).start[:2] == "20")
    found = summary(run)
    assert found.status == "pending"
    assert "PENDING Resources, starts about 20" in found.message
    slurm.ask("scontrol", "hold", find_job_id(run))
    assert look(run).reason.startswith("JobHeld")  # by root it is JobHeldAdmin
    stop(run, find_job_id(run))
    assert attempts(run) == []


@pytest.mark.parametrize(
    ("asked", "said", "hint"),
    [
        ({"partition": "mian"}, "invalid partition", "did you mean main"),
        ({"cpus": 64}, "configuration is not available", "no machine has that"),
        ({"nodes": 3}, "configuration is not available", "no machine has that"),
        ({"constraint": "h100"}, "Invalid feature", "cluster:"),
        ({"extra": "--nonsense=1"}, "unrecognized option", "cluster:"),
    ],
)
def test_an_impossible_request_is_refused_and_leaves_nothing(slurm, job, tmp_path, asked, said, hint):
    with pytest.raises(PreflightError, match=said) as caught:
        job("exit 0", **asked)
    assert hint in caught.value.problems[0].hint
    assert not (tmp_path / "run").exists()
    assert slurm.ask("squeue", "-h", "-o", "%i") == ""


def test_an_unreachable_controller_is_no_failure(slurm, job, tmp_path, monkeypatch):
    run = job("exit 0")
    wait_until(lambda: is_over(run))
    port = slurm.field_of_conf("SlurmctldPort")
    gone = slurm.conf.read_text().replace(port, "SlurmctldPort=1") + "MessageTimeout=2\n"  # and not 20 s a question
    (tmp_path / "gone.conf").write_text(gone)
    monkeypatch.setenv("SLURM_CONF", str(tmp_path / "gone.conf"))
    found = look(run)
    assert (found.state, found.is_over) == (UNREACHABLE, False)
    assert "unreachable" in found.describe()
    with pytest.raises(PreflightError, match="unreachable"):
        job("exit 0", "other")


def test_a_full_queue_takes_no_job_and_leaves_nothing(job, tmp_path, monkeypatch):
    with started(more="MaxJobCount=2\n", nodes=("n1",)) as full:
        monkeypatch.setenv("SLURM_CONF", str(full.conf))
        first = job("exit 0", "first")
        wait_until(lambda: is_over(first))  # it counts until MinJobAge
        with pytest.raises(PreflightError, match="Resource temporarily unavailable") as caught:
            job("exit 0")
        assert "queue is full" in caught.value.problems[0].hint
        assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("wrong", ["no configuration", "no file of it", "no program"])
def test_a_machine_of_no_cluster_is_called_that(job, tmp_path, monkeypatch, wrong):
    run = job("exit 0")
    wait_until(lambda: is_over(run))
    with monkeypatch.context() as patch:
        if wrong == "no configuration":
            patch.delenv("SLURM_CONF")
        elif wrong == "no file of it":
            (tmp_path / "slurm.conf").touch()
            patch.setenv("SLURM_CONF", str(tmp_path / "slurm.conf"))
        else:
            patch.setenv("PATH", str(tmp_path))
        found = look(run)
        assert (found.state, found.is_over) == (OUTSIDE, False)
        assert "belongs to no cluster" in summary(run).message
        with pytest.raises(PreflightError, match="belongs to no cluster") as caught:
            job("exit 0", "other")
    assert "SLURM_CONF" in caught.value.problems[0].hint


def test_a_job_waits_for_another_to_its_very_end_and_never_follows_one_that_failed(slurm, job):
    first = job('until [ -e go ]; do sleep .1; done; [ "$n" = 2 ] || exit 75', "first")
    second = job(f"cp {first.root}/attempts before", "second", extra=f"--dependency=afterok:{find_job_id(first)}")
    wait_until(lambda: look(second).reason == "Dependency")
    (first.root / "go").touch()
    wait_until(lambda: is_over(first) and is_over(second))
    assert len((second.root / "before").read_text().split()) == 2  # not after the attempt that ended with 75
    failed = job("exit 3", "failed")
    wait_until(lambda: is_over(failed))
    never = job("exit 0", "never", extra=f"--dependency=afterok:{find_job_id(failed)}")
    wait_until(lambda: look(never).reason == "DependencyNeverSatisfied")
    assert "DependencyNeverSatisfied" in summary(never).message
    assert attempts(never) == []


def test_a_job_that_slurm_forgot_is_over():
    found = find_jobs(["4000000"])["4000000"]
    assert (found.state, found.is_over) == (FORGOTTEN, True)


def test_a_folder_that_a_machine_does_not_see_ends_there(job):
    run = job("exit 0", shared=f"{os.sep}nowhere")
    wait_until(lambda: is_over(run))
    assert "/nowhere is not mounted on" in (run.job / "slurm.log").read_text()
    assert attempts(run) == []
