"""A run folder that this user did not make is read, and none of its programs is started, unless the user says so."""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
import sys
import threading

import pytest

from orchestrator.cli import main
from orchestrator.machine.rundir import RunDir
from orchestrator.recipe.plan import Command, Plan, Stage
from orchestrator.run import folder
from orchestrator.run.folder import adopt_run, find_key, is_own, load_plan

SPEC = {"scorer": "chat", "tool": "swift", "model_type": "qwen3", "template": "qwen3", "trust_remote_code": True}


@pytest.fixture(autouse=True)
def config(tmp_path, monkeypatch):
    """A user who has no key yet."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    return tmp_path / "config" / "orch"


def call(*argv: object) -> int:
    with pytest.raises(SystemExit) as ended:
        main(list(map(str, argv)))
    return int(ended.value.code or 0)


@pytest.fixture
def trap(tmp_path):
    """A program that leaves a mark, and the mark."""
    mark, program = tmp_path / "pwned", tmp_path / "evil.sh"
    program.write_text(f"#!/bin/sh\ntouch {mark}\nexit 3\n")
    program.chmod(0o755)
    return program, mark


@pytest.fixture
def foreign(tmp_path, trap):
    """A whole run folder as a stranger hands it over: every program that it names is theirs."""
    run = RunDir(tmp_path / "runs" / "theirs")
    env = (("LD_PRELOAD", "/tmp/evil.so"), ("PYTHONPATH", "/tmp/evil"))
    stages = tuple(
        Stage(f"{number:02d}-{kind}", kind, kind, Command((str(trap[0]), str(tmp_path / "workers"), kind), env))
        for number, kind in enumerate(("prepare", "train", "merge", "package"), start=1)
    )
    recipe = {"model": {"path": "x", "trust_remote_code": True, "allow_pickle": True}}
    plan = Plan("theirs", str(run.root), "sft", "swift", False, recipe, stages, ())
    run.model.mkdir(parents=True)
    (run.model / "scoring.json").write_text(json.dumps({"version": 1, **SPEC}))
    (run.model / "config.json").write_text("{}")
    output = run.stage("02-train").output
    output.mkdir(parents=True)
    (output / "adapter_config.json").write_text("{}")
    (run.stage("02-train").result_json).write_text(
        json.dumps({"stage": "02-train", "status": "done", "exit_code": 0, "digest": "", "started": 0, "finished": 0,
                    "seconds": 0, "attempts": 1})
    )  # fmt: skip
    asked = {"smoke": True, "hardware": "cpu", "set": []}
    provenance = {"version": 2, "inputs": {}, "environments": {}, "asked": asked, "recipe": str(run.recipe_yaml)}
    run.provenance_json.write_text(json.dumps(provenance))
    run.recipe_yaml.write_text("name: theirs\n")
    run.report_json.write_text("{}")
    run.plan_json.write_text(plan.to_json())
    return run


COMMANDS = {
    "predict": ("-p", "how"),
    "serve": ("--backend", "swift"),
    "serve-check": ("--backend", "swift", "--check"),
    "merge": (),
    "resume": (),
    "reproduce": (),
}


@pytest.mark.parametrize("name", COMMANDS)
def test_no_command_starts_a_program_of_a_foreign_run(foreign, trap, name, capsys):
    assert call(name.partition("-")[0], foreign.root, *COMMANDS[name]) == 9
    assert "--trust-run" in capsys.readouterr().err
    assert not trap[1].exists()


@pytest.mark.parametrize(
    "words", [("serve", "--backend", "vllm", "--dry-run"), ("serve", "--dry-run"), ("reproduce", "--dry-run")]
)
def test_a_dry_run_reads_a_foreign_run_and_starts_nothing(foreign, trap, words, capsys):
    call(words[0], foreign.root, *words[1:])
    assert not trap[1].exists()
    assert "--trust-remote-code" not in capsys.readouterr().out  # nor is its word passed on


@pytest.mark.parametrize("words", [("show",), ("logs",), ("stop",), ("compare",), ("ls",)])
def test_what_only_reads_starts_nothing(foreign, trap, words):
    argv = ("ls", "--runs", foreign.root.parent) if words == ("ls",) else (*words, foreign.root)
    call(*argv, *([foreign.root] if words == ("compare",) else []))
    assert not trap[1].exists()


def test_who_trusts_a_run_may_execute_it(foreign, trap):
    assert call("resume", foreign.root, "--trust-run") == 6  # its first stage ends with exit code 3
    assert trap[1].exists()
    assert is_own(foreign, foreign.plan_json.read_text())  # from now on it is this user's


def test_a_run_folder_that_lay_ready_for_a_run_is_not_taken_for_ones_own(folder, capsys, monkeypatch):
    from orchestrator.errors import RunFolderError
    from orchestrator.machine.hardware import CPU
    from orchestrator.plan.jobs import build_job
    from orchestrator.plan.load import load_recipe
    from orchestrator.plan.pipeline import build_plan
    from orchestrator.run.folder import create_run
    from orchestrator.run.provenance import Asked

    plan = build_plan(build_job(load_recipe(folder / "recipe.yaml"), folder / "run", CPU))
    asked = Asked(folder / "recipe.yaml")
    run = create_run(plan, asked, CPU)
    assert create_run(plan, asked, CPU) == run  # one's own
    run.seal.unlink()
    with pytest.raises(RunFolderError, match="was not made by you"):
        create_run(plan, asked, CPU)
    create_run(plan, asked, CPU, trust_run=True)
    assert create_run(plan, asked, CPU) == run


def test_a_copy_of_ones_own_run_stays_ones_own_until_its_plan_is_changed(foreign, tmp_path):
    adopt_run(foreign)
    copy = RunDir(shutil.copytree(foreign.root, tmp_path / "copy"))
    text = copy.plan_json.read_text()
    assert is_own(copy, text)
    assert not is_own(copy, text.replace("prepare", "prepare "))
    assert load_plan(copy) == load_plan(foreign)


def test_the_seal_of_another_user_is_none(foreign, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "theirs"))
    adopt_run(foreign)
    assert is_own(foreign, foreign.plan_json.read_text())
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "mine"))
    assert not is_own(foreign, foreign.plan_json.read_text())
    assert not find_key().exists()  # looking makes no key
    adopt_run(RunDir(foreign.root))
    assert is_own(foreign, foreign.plan_json.read_text())


def test_the_key_is_its_users_alone(foreign, config):
    before = os.umask(0)
    try:
        adopt_run(foreign)
    finally:
        os.umask(before)
    assert [path.name for path in config.iterdir()] == ["key"]
    assert stat.S_IMODE((config / "key").stat().st_mode) == 0o600
    key = (config / "key").read_text()
    adopt_run(foreign)
    assert (config / "key").read_text() == key


def test_of_keys_that_are_made_at_one_moment_the_first_stands(config):
    made: list[str | None] = []
    barrier = threading.Barrier(8)

    def make() -> None:
        barrier.wait()
        made.append(folder._make_key())

    threads = [threading.Thread(target=make) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(made)) == 1
    assert None not in made


@pytest.mark.parametrize("content", ["", "abc\n", "0" * 63])
def test_a_damaged_key_counts_as_none_and_is_replaced(foreign, config, content):
    config.mkdir(parents=True)
    (config / "key").write_text(content)
    assert not is_own(foreign, foreign.plan_json.read_text())
    adopt_run(foreign)
    assert is_own(foreign, foreign.plan_json.read_text())


def test_a_user_who_can_keep_no_key_still_runs(foreign, config):
    config.parent.mkdir()
    config.write_text("a file where the folder should be")
    adopt_run(foreign)
    assert not foreign.seal.exists()
    assert not is_own(foreign, foreign.plan_json.read_text())


def test_the_whole_command_line_knows_its_own_runs(folder, tmp_path):
    orch = [sys.executable, "-c", "from orchestrator.cli import main; main()"]
    rendered = tmp_path / "rendered"
    subprocess.run(
        [*orch, "render", folder / "recipe.yaml", "--hardware", "cpu", "-o", rendered], check=True, capture_output=True
    )
    done = subprocess.run(
        [*orch, "predict", rendered, "-q", "a", "-d", "b"], check=False, capture_output=True, text=True
    )
    assert "--trust-run" not in done.stderr
    assert "has no packaged model yet" in done.stderr
    (rendered / "plan.json").write_text((rendered / "plan.json").read_text().replace(sys.executable, "/bin/false"))
    done = subprocess.run([*orch, "resume", rendered], check=False, capture_output=True, text=True)
    assert done.returncode == 9
    assert "its plan.json was changed since" in done.stderr
