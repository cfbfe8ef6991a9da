"""What lies in a working directory, or beside a model, is never taken for a Python module."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest

from orchestrator.machine import process
from orchestrator.machine.packages import _probe
from orchestrator.plan.pipeline import build_plan
from orchestrator.run.stopping import Interrupts
from orchestrator.serving.artefact import Artefact
from orchestrator.serving.server import Address, build_command, build_environment
from orchestrator.serving.worker import started, wait_until_over

# modules that every program loads sooner or later, and those of the backends
NAMES = ("random", "json", "queue", "datasets", "numpy", "torch", "swift", "importlib", "orchestrator", "runpy", "pip")


def plant(folder: Path) -> Path:
    """Put files into `folder` that say so when they are imported."""
    pwned = folder.parent / "pwned"
    for name in NAMES:
        (folder / f"{name}.py").write_text(f"open({str(pwned)!r}, 'a').write({name!r})\n")
    return pwned


@pytest.fixture
def planted(tmp_path, monkeypatch):
    folder = tmp_path / "planted"
    folder.mkdir()
    pwned = plant(folder)
    monkeypatch.chdir(folder)
    return pwned


def test_every_stage_says_that_its_working_directory_is_not_on_the_path(make_job):
    plan = build_plan(make_job())
    assert {dict(stage.command.env)["PYTHONSAFEPATH"] for stage in plan.stages} == {"1"}
    chosen = build_plan(make_job(launch={"env": {"PYTHONSAFEPATH": ""}}))  # who wants it says so
    assert {dict(stage.command.env)["PYTHONSAFEPATH"] for stage in chosen.stages} == {""}


def test_a_command_of_a_plan_imports_nothing_of_the_run_folder(make_job, folder):
    (folder / "run").mkdir()
    pwned = plant(folder / "run")
    stage = build_plan(make_job()).stage("report")
    env = {**os.environ, **dict(stage.command.env)}
    # the stage itself ends early, since the folder holds no run; without its variable it falls into the trap
    argv = ("/bin/sh", "-c", 'cd "$1" && shift && exec "$@"', "sh", str(folder / "run"), *stage.command.argv)
    process.run(argv, 60.0, env=env)
    assert not pwned.exists()
    process.run(argv, 60.0, env={**env, "PYTHONSAFEPATH": ""})
    assert pwned.exists()


def test_a_probe_of_an_interpreter_imports_nothing_of_the_working_directory(planted):
    assert process.run((sys.executable, "-c", "import json, random, queue"), 60.0).exit_code == 0
    assert process.run((sys.executable, "-m", "json.tool", "--help"), 60.0, env=dict(os.environ)).exit_code == 0
    assert {"python", "click"} <= _probe(sys.executable).keys()
    assert not planted.exists()


@pytest.mark.parametrize("path", [":", "", "::{}", "{}:"])
def test_an_empty_entry_of_the_path_is_not_the_working_directory(planted, tmp_path, monkeypatch, path):
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "extra.py").touch()
    monkeypatch.setenv("PYTHONPATH", path.format(tmp_path / "more"))
    wanted = "import json, random, queue" + (", extra" if "{}" in path else "")
    assert process.run((sys.executable, "-c", wanted), 60.0).exit_code == 0
    assert not planted.exists()


def test_a_server_imports_nothing_that_lies_beside_its_model(planted, tmp_path, monkeypatch):
    site = tmp_path / "site"
    (site / "swift" / "cli").mkdir(parents=True)
    (site / "swift" / "__init__.py").touch()
    (site / "swift" / "cli" / "__init__.py").touch()
    out = tmp_path / "out.json"
    script = f"import json, os, random\njson.dump([os.getcwd(), os.listdir('.')], open({str(out)!r}, 'w'))\n"
    (site / "swift" / "cli" / "deploy.py").write_text(script)
    monkeypatch.setenv("PYTHONPATH", str(site))
    model = Path.cwd() / "model"
    model.mkdir()
    spec = {"scorer": "chat", "tool": "swift", "model_type": "qwen3", "template": "qwen3"}
    artefact = Artefact(model, "model", spec, sys.executable)
    command = build_command("swift", artefact, Address("127.0.0.1", 1), name="model", with_key=False)
    with started(command, build_environment(command, "swift"), Interrupts(), quiet=True) as server:
        assert wait_until_over(server, Interrupts()) == 0
    where, files = json.loads(out.read_text())
    assert Path(where) not in {model, *model.parents}
    assert files == []
    assert not planted.exists()
