"""Profiles of clusters, and the job that an engine is given: its text runs in bash, whatever stands in it."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from orchestrator.cli import main
from orchestrator.errors import PreflightError, RecipeError
from orchestrator.machine.rundir import RunDir
from orchestrator.plan.cluster import (
    ENGINES,
    Repeated,
    find_cluster,
    load_for_job,
    render_job,
    require_engine,
    require_shared,
)
from orchestrator.recipe.plan import File
from orchestrator.recipe.schema import Cluster
from orchestrator.run.failures import AGAIN
from orchestrator.run.slurm import Job, parse_job, remember, submit


@pytest.fixture
def profiles(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    (tmp_path / "orch").mkdir()

    def write(text):
        (tmp_path / "orch" / "clusters.yaml").write_text(text)

    return write


def render(run, line=None, **asked):
    return render_job(ENGINES["slurm"], run.name, Cluster(**asked), line or Repeated(Path("r.yaml"), run), again=AGAIN)


class Line:
    def __init__(self, *words):
        self.run, self._words = None, words

    def words(self):
        return list(self._words)


def run_by_hand(tmp_path, *words, **asked):
    run = tmp_path / "a run's $(folder)"
    (run / "job").mkdir(parents=True)
    line = Line(*words)
    line.run = run
    script = run / "job" / "slurm.sh"
    script.write_text(render(run, line, **asked).text)
    return subprocess.run(["bash", script], capture_output=True, text=True, check=False)


def test_what_is_asked_stands_in_the_directives_and_nothing_else(tmp_path):
    text = render(tmp_path, partition="gpu", gpus=4, time="8:00:00", extra="--exclusive", warn_s=60).text
    said = [line.removeprefix("#SBATCH ") for line in text.splitlines() if line.startswith("#SBATCH")]
    assert {"--partition=gpu", "--gpus-per-node=4", "--time=8:00:00", "--exclusive"} <= set(said)
    assert "--signal=B:USR1@60" in said
    assert not [line for line in said if line.startswith(("--mem", "--account", "--gres"))]


def test_the_line_names_recipe_and_run_wherever_it_is_read(tmp_path):
    words = Repeated(Path("r.yaml"), tmp_path, ("train.seed=7",), smoke=True, hardware="gpu:2").words()
    assert words[1:3] == ["resume", "--or-run"]
    assert words[3] == str(Path("r.yaml").resolve())
    assert words[4:] == ["-o", str(tmp_path), "--set", "train.seed=7", "--smoke", "--hardware", "gpu:2"]


@pytest.mark.parametrize("code", [0, 2, 3, 6, 8, 75, 130])
def test_by_hand_the_script_ends_as_the_run_does(tmp_path, code):
    assert run_by_hand(tmp_path, "bash", "-c", f"exit {code}").returncode == code


def test_setup_comes_before_and_ends_the_job_where_it_fails(tmp_path):
    said = run_by_hand(tmp_path, "bash", "-c", 'echo "$WHO"', setup=["export WHO='its own'"])
    assert said.stdout == "its own\n"
    (tmp_path / "b").mkdir()
    said = run_by_hand(tmp_path / "b", "echo", "no", setup=["false"])
    assert (said.returncode, said.stdout) == (4, "")


def test_a_container_and_a_venv_stand_around_the_line(tmp_path):
    (tmp_path / "venv" / "bin").mkdir(parents=True)
    (tmp_path / "venv" / "bin" / "activate").write_text("export WHO=venv\n")
    asked = {"container": "env -u NOTHING", "venv": str(tmp_path / "venv")}
    assert run_by_hand(tmp_path, "bash", "-c", 'echo "$WHO"', **asked).stdout == "venv\n"


def test_a_profile_stands_below_the_recipe(profiles):
    profiles("big: {partition: gpu, gpus: 8, time: 60}\ndefault: {partition: cpu}\n")
    assert find_cluster(Cluster()).partition == "cpu"
    found = find_cluster(Cluster(profile="big", gpus=2))
    assert (found.partition, found.gpus, found.time) == ("gpu", 2, "60")
    assert find_cluster(Cluster(profile="big"), "default").partition == "cpu"


def test_without_profiles_the_recipe_stands_alone(profiles):
    del profiles
    assert find_cluster(Cluster(gpus=1)) == Cluster(gpus=1)
    with pytest.raises(RecipeError, match="no profile 'big'"):
        find_cluster(Cluster(profile="big"))


@pytest.mark.parametrize(
    ("text", "name", "message", "hint"),
    [
        ("big: {partion: gpu}", "big", "unknown key 'partion'", "did you mean partition?"),
        ("big: {gpus: many}", "big", "big.gpus", "GPUs of each machine"),
        ("big: {time: soon}", "big", "big.time", "the time limit"),
        ("big: {}", "bgi", "no profile 'bgi'", "did you mean big?"),
        ("big: 7", "big", "big", None),
    ],
)
def test_a_wrong_profile_is_refused_with_its_place(profiles, text, name, message, hint):
    profiles(text)
    with pytest.raises(RecipeError, match=message) as caught:
        find_cluster(Cluster(profile=name))
    problem = caught.value.problems[0]
    assert hint is None or hint in problem.hint
    assert problem.where is None or str(problem.where).endswith((":1:7", ":1:1"))


def test_an_engine_that_nobody_knows_is_refused():
    with pytest.raises(RecipeError, match="slrm") as caught:
        require_engine("slrm")
    assert caught.value.problems[0].hint == "did you mean slurm?"


def test_a_run_folder_that_machines_do_not_share_is_refused(tmp_path):
    require_shared(Cluster(shared=str(tmp_path)), tmp_path / "runs" / "a")
    with pytest.raises(PreflightError, match="does not lie in"):
        require_shared(Cluster(shared=str(tmp_path / "shared")), tmp_path / "runs" / "a")


@pytest.mark.parametrize("said", [(), ("launch.nnodes=auto",), ("launch.nnodes=2",)])
def test_as_many_hosts_train_as_the_job_has_machines(profiles, recipes, said):
    profiles("two: {nodes: 2}\n")
    loaded, cluster, overrides = load_for_job(recipes / "bert_pointwise.yaml", said, "two")
    assert (loaded.recipe.launch.nnodes, cluster.nodes) == (2, 2)
    assert overrides[-1] == "launch.nnodes=2"
    loaded, _, overrides = load_for_job(recipes / "bert_pointwise.yaml", (), None)
    assert (loaded.recipe.launch.nnodes, overrides) == (1, ())


@pytest.mark.parametrize(
    ("said", "message"),
    [
        (("cluster.nodes=2", "launch.nnodes=3"), "launch.nnodes is 3, and cluster.nodes 2"),
        (("cluster.nodes=2", "launch.nnodes=1"), "launch.nnodes is 1, and cluster.nodes 2"),
        (("launch.nnodes=2",), "launch.nnodes is 2, and cluster.nodes 1"),
        (("cluster.nodes=2", "launch.node_rank=1"), "node_rank: 1 would be said to all 2 machines"),
    ],
)
def test_a_job_of_other_machines_than_the_recipe_says_is_refused(recipes, tmp_path, capsys, said, message):
    words = [word for item in said for word in ("--set", item)]
    for verb in ("render", "submit"):
        with pytest.raises(SystemExit) as caught:
            main([verb, str(recipes / "bert_pointwise.yaml"), "--to", "slurm", "-o", str(tmp_path / "run"), *words])
        assert caught.value.code == 2
        assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_only_a_job_of_several_machines_has_a_step_on_each(tmp_path):
    assert "srun" not in render(tmp_path, cpus=4).text
    text = render(tmp_path, nodes=2, cpus=4, container="apptainer exec x.sif").text
    assert "--kill-on-bad-exit=1 --ntasks-per-node=1 --cpus-per-task=4 bash -c" in text
    assert "\n  apptainer exec x.sif /" in text
    assert subprocess.run(["bash", "-n"], input=text, text=True, check=False).returncode == 0


def test_a_recipe_s_cluster_is_checked_as_the_rest_of_it(recipes, capsys):
    with pytest.raises(SystemExit) as caught:
        main(["render", str(recipes / "bert_pointwise.yaml"), "--to", "slurm", "--set", "cluster.partion=gpu"])
    assert caught.value.code == 2
    assert "did you mean" in capsys.readouterr().err


def test_render_to_shows_the_job_and_writes_it_for_a_hand(recipes, tmp_path, capsys):
    recipe = str(recipes / "bert_pointwise.yaml")
    for more in ([], ["-o", str(tmp_path / "run")]):
        with pytest.raises(SystemExit) as caught:
            main(["render", recipe, "--to", "slurm", "--smoke", *more])
        assert caught.value.code == 0
    shown = capsys.readouterr().out
    assert "resume --or-run" in shown
    assert f"-o {tmp_path}/run --smoke" in (tmp_path / "run" / "job" / "slurm.sh").read_text()


# as squeue 22.05 -h -o '%i|%T|%r|%N|%S' wrote them
@pytest.mark.parametrize(
    ("line", "state", "over", "said"),
    [
        ("7|RUNNING|None|n[1-2]|2026-11-29T21:11:33", "RUNNING", False, "RUNNING n[1-2]"),
        ("8|PENDING|Resources||2027-11-29T21:11:33", "PENDING", False, "PENDING Resources, starts about 2027"),
        ("8|PENDING|JobHeldUser||N/A", "PENDING", False, "PENDING JobHeldUser"),
        ("8|CANCELLED|None||2026-11-29T21:11:37", "CANCELLED", True, "it was cancelled"),
        ("9|NODE_FAIL|NodeDown|n1|2026-11-29T21:11:37", "NODE_FAIL", True, "its node failed"),
        ("9|TIMEOUT|TimeLimit|n1|2026-11-29T21:11:37", "TIMEOUT", True, "time limit"),
        ("9|OUT_OF_MEMORY|OutOfMemory|n1|2026-11-29T21:11:37", "OUT_OF_MEMORY", True, "cluster.mem"),
        ("9|PREEMPTED|None|n1|2026-11-29T21:11:37", "PREEMPTED", True, "preempted"),
    ],
)
def test_a_job_is_read_from_squeue_s_own_line(line, state, over, said):
    job = parse_job(line)
    assert (job.state, job.is_over) == (state, over)
    assert said in job.describe()


@pytest.mark.parametrize("line", ["", "7|RUNNING", "JOBID|STATE|REASON|NODELIST|START_TIME"])
def test_another_line_is_no_job(line):
    assert parse_job(line) is None


def test_without_accounting_a_job_is_forgotten(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert remember("7") == Job("7", "FORGOTTEN")
    (tmp_path / "sacct").write_text("#!/bin/sh\necho NODE_FAIL\n")
    (tmp_path / "sacct").chmod(0o755)
    assert remember("7").state == "NODE_FAIL"
    (tmp_path / "sacct").write_text("#!/bin/sh\necho 'CANCELLED by 1000'\n")
    assert remember("7").state == "CANCELLED"


_POLICY = "Job violates accounting/QOS policy (job submit limit, user's size and/or time limits)"


# as sbatch wrote them: a limit of a user's QOS, of an account, and a queue that is full
@pytest.mark.parametrize(
    ("said", "hint"),
    [
        (["QOSMaxSubmitJobPerUserLimit", f"Batch job submission failed: {_POLICY}"], "squeue --me"),
        (["AssocMaxSubmitJobLimit", f"Batch job submission failed: {_POLICY}"], "squeue --me"),
        (["allocation failure: Resource temporarily unavailable"], "queue is full"),
        (["Slurm temporarily unable to accept job, sleeping and retrying"], "queue is full"),
    ],
)
def test_a_queue_that_takes_no_more_is_told_with_what_to_do(said, hint, monkeypatch, tmp_path):
    lines = "\n".join(f"sbatch: error: {line}" for line in said)
    (tmp_path / "sbatch").write_text(f"#!/bin/sh\ncat >&2 <<'END'\n{lines}\nEND\nexit 1\n")
    (tmp_path / "sbatch").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    with pytest.raises(PreflightError, match=f"Slurm refuses the job: {said[0]}") as caught:
        submit(RunDir(tmp_path / "run"), File("job/slurm.sh", "#!/bin/sh\n"))
    assert hint in caught.value.problems[0].hint
