"""Jobs of SkyPilot and Kubernetes: what they ask for, what they repeat, and how they are handed over."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from orchestrator.cli import main
from orchestrator.errors import RecipeError
from orchestrator.plan.cluster import AWAY, ENGINES, Repeated, render_job
from orchestrator.recipe.schema import Cluster
from orchestrator.run.failures import AGAIN

SKY = Cluster(
    gres="gpu:A100:4", shared="s3://bucket", mem="64G", cpus=8, setup=("echo 'a: b' # c",), extra=("use_spot: true",)
)
KUBE = Cluster(gres="gpu:a100:2", shared="claim", container="me/orch:1", mem="64G", warn_s=60, requeues=7)


@pytest.fixture
def here(tmp_path, monkeypatch, recipes) -> Path:
    (tmp_path / "recipes").mkdir()
    shutil.copy(recipes / "bert_pointwise.yaml", tmp_path / "recipes")
    shutil.copytree(recipes.parent / "datasets_example", tmp_path / "datasets_example")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def render(engine: str, cluster: Cluster, **asked):
    line = Repeated(Path("recipes/bert_pointwise.yaml"), Path("runs/A_b-1").absolute(), **asked)
    return yaml.safe_load(render_job(ENGINES[engine], "A_b-1", cluster, line, again=AGAIN).text)


def test_skypilot_gets_resources_a_bucket_and_the_codes_that_begin_again(here):
    task = render("skypilot", SKY, overrides=("train.learning_rate=1e-5",))
    assert task["name"] == "orch-a-b-1"
    assert task["workdir"] == str(here)
    assert task["resources"] == {
        "accelerators": "A100:4", "cpus": "8+", "memory": "64+", "use_spot": True,
        "job_recovery": {"max_restarts_on_errors": 0, "recover_on_exit_codes": sorted(AGAIN)},
    }  # fmt: skip
    assert task["file_mounts"] == {AWAY: {"source": "s3://bucket", "mode": "MOUNT_CACHED"}}
    assert task["setup"] == "set -e\necho 'a: b' # c\n"
    words = (
        f"exec orch resume --or-run recipes/bert_pointwise.yaml -o {AWAY}/runs/A_b-1 --set train.learning_rate=1e-5\n"
    )
    assert task["run"] == words


def test_skypilot_s_own_parser_takes_the_task(here, tmp_path):
    if not (python := os.environ.get("ORCH_TEST_SKYPILOT")):
        pytest.skip("ORCH_TEST_SKYPILOT names a Python that has SkyPilot, which is no part of the environment")
    path = tmp_path / "task.yaml"
    path.write_text(yaml.safe_dump(render("skypilot", SKY)), encoding="utf-8")
    code = f"import json, sky; t = sky.Task.from_yaml({str(path)!r}); print(json.dumps([t.name, t.run, [*t.resources][0].job_recovery]))"
    env = {**os.environ, "HOME": str(tmp_path), "SKYPILOT_DISABLE_USAGE_COLLECTION": "1"}
    said = subprocess.run([python, "-c", code], env=env, capture_output=True, text=True, check=False)
    assert said.returncode == 0, said.stderr[-2000:]
    name, run, recovery = json.loads(said.stdout.splitlines()[-1])
    assert name == "orch-a-b-1"
    assert run.startswith("exec orch resume --or-run ")
    assert recovery["recover_on_exit_codes"] == sorted(AGAIN)
    assert recovery["max_restarts_on_errors"] == 0


def test_kubernetes_gets_a_job_that_fails_at_once_for_every_other_code(here):
    job = render("kubernetes", KUBE)
    spec, pod = job["spec"], job["spec"]["template"]["spec"]
    assert (job["apiVersion"], job["kind"], spec["backoffLimit"]) == ("batch/v1", "Job", 7)
    lost, wrong = spec["podFailurePolicy"]["rules"]
    assert (lost["action"], lost["onPodConditions"][0]["type"]) == ("Ignore", "DisruptionTarget")
    assert wrong["action"] == "FailJob"
    assert wrong["onExitCodes"] == {"containerName": "orch", "operator": "NotIn", "values": sorted(AGAIN)}
    assert pod["restartPolicy"] == "Never"  # a failure policy asks for it
    assert pod["terminationGracePeriodSeconds"] == 60
    (container,) = pod["containers"]
    assert container["resources"]["limits"] == {"nvidia.com/gpu": 2, "memory": "64G"}
    assert container["args"] == [f"exec orch resume --or-run recipes/bert_pointwise.yaml -o {AWAY}/runs/A_b-1\n"]


def test_kubernetes_own_schema_takes_the_job(here):
    validator = pytest.importorskip("kubernetes_validate", reason="kubernetes-validate is not installed")
    validator.validate(render("kubernetes", KUBE), "1.31", strict=True)


@pytest.mark.parametrize(
    ("engine", "cluster", "said"),
    [
        ("skypilot", {"gres": "gpu:A100:4"}, "names no bucket"),
        ("skypilot", {"gpus": 4, "shared": "s3://b"}, "asks for GPUs by name"),
        ("skypilot", {"gres": "A100", "shared": "s3://b"}, "names no GPU"),
        ("skypilot", {"shared": "s3://b", "partition": "gpu"}, "cluster.partition means nothing to skypilot"),
        ("kubernetes", {"container": "i"}, "names no claim"),
        ("kubernetes", {"shared": "/data", "container": "i"}, "names no claim"),
        ("kubernetes", {"shared": "claim"}, "names no image"),
        ("kubernetes", {"shared": "claim", "container": "i", "nodes": 2}, "cluster.nodes means nothing to kubernetes"),
    ],
)
def test_what_an_engine_cannot_do_is_refused(here, engine, cluster, said):
    with pytest.raises(RecipeError) as caught:
        render(engine, Cluster(**cluster))
    assert any(said in problem.message for problem in caught.value.problems)


def test_a_recipe_outside_of_the_folder_that_travels_is_refused(here, monkeypatch):
    monkeypatch.chdir(here / "datasets_example")
    with pytest.raises(RecipeError, match="does not lie below"):
        render_job(
            ENGINES["skypilot"], "a", SKY, Repeated(here / "recipes" / "bert_pointwise.yaml", here / "r"), again=AGAIN
        )


FAKE_ORCH = """#!{python}
import pathlib, signal, sys, time
run = pathlib.Path(sys.argv[sys.argv.index("-o") + 1])
if (run / "checkpoint").exists():
    (run / "done").write_text(" ".join(sys.argv[1:]))
    sys.exit(0)
run.mkdir(parents=True)
signal.signal(signal.SIGTERM, lambda *_: ((run / "checkpoint").touch(), sys.exit(75)))
(run / "begun").touch()
time.sleep(60)
"""


@pytest.mark.parametrize(("engine", "cluster"), [("skypilot", SKY), ("kubernetes", KUBE)])
def test_the_block_that_is_repeated_ends_with_orch_s_code_and_goes_on(here, tmp_path, engine, cluster):
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "orch").write_text(FAKE_ORCH.format(python=sys.executable))
    (programs / "orch").chmod(0o755)
    job = render(engine, cluster)
    block = job["run"] if engine == "skypilot" else job["spec"]["template"]["spec"]["containers"][0]["args"][0]
    run = tmp_path / "away" / "runs" / "A_b-1"
    command = ["bash", "-c", block.replace(AWAY, str(tmp_path / "away"))]
    env = {**os.environ, "PATH": f"{programs}:{os.environ['PATH']}"}
    with subprocess.Popen(command, env=env) as first:
        while not (run / "begun").exists():
            assert first.poll() is None
            time.sleep(0.05)
        first.send_signal(signal.SIGTERM)
    assert first.returncode == 75
    assert first.returncode in AGAIN
    assert subprocess.run(command, env=env, check=False).returncode == 0
    assert "resume --or-run recipes/bert_pointwise.yaml" in (run / "done").read_text()


def call(capsys, *words: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as caught:
        main(list(words))
    said = capsys.readouterr()
    return caught.value.code, said.out, said.err


ASKED = ("recipes/bert_pointwise.yaml", "--smoke", "--to", "skypilot", "--set", "cluster.shared=s3://b")


def test_a_job_is_handed_to_sky_or_says_how_sky_is_installed(here, monkeypatch, capsys):
    programs = here / "bin"
    programs.mkdir()
    monkeypatch.setenv("PATH", f"{programs}:/usr/bin:/bin")
    code, _, said = call(capsys, "submit", *ASKED, "-o", "runs/one")
    assert code == 4
    assert "sky is not there" in said
    assert "pip install skypilot" in said
    sky = programs / "sky"
    sky.write_text(f'#!/bin/sh\necho "$@" > {here}/asked\necho "Job submitted, ID: 7"\n')
    sky.chmod(0o755)
    code, out, said = call(capsys, "submit", *ASKED, "-o", "runs/one")
    assert code == 0, said
    assert "Job submitted, ID: 7" in out
    path = here / "runs" / "one" / "job" / "skypilot.yaml"
    assert (here / "asked").read_text().split() == ["jobs", "launch", "--yes", "--detach-run", str(path)]
    sky.write_text("#!/bin/sh\necho 'no cloud is enabled' >&2\nexit 1\n")
    code, _, said = call(capsys, "submit", *ASKED, "-o", "runs/one")
    assert code == 4
    assert "sky refuses the job: no cloud is enabled" in said
