"""Tags and the list of packaged models: what may be named, what a name means, and what a model was made of."""

from __future__ import annotations

import hashlib
import json
import shutil

import pytest
from click.testing import CliRunner

from orchestrator.cli import main, orch
from orchestrator.errors import GateMissedError, RunFolderError
from orchestrator.machine.files import write_json
from orchestrator.machine.rundir import RunDir
from orchestrator.report.board import Board
from orchestrator.run.folder import find_run, list_tags
from orchestrator.serving.artefact import find_artefact
from orchestrator.serving.registry import hash_package, list_models, remove_tag, set_tag
from tests.security.test_damaged_json import DAMAGED


@pytest.fixture
def runs(judged, tmp_path):
    """Two judged runs with packaged models, `toy` and `other`, in one folder."""
    judged()
    judged(name="other")
    return tmp_path / "runs"


def call(capsys, *argv):
    with pytest.raises(SystemExit) as ended:
        main(list(map(str, argv)))
    said = capsys.readouterr()
    return ended.value.code, said.out, said.err


def test_a_tag_means_its_run_wherever_a_run_is_asked_for(runs, capsys):
    assert call(capsys, "tag", "toy", "production", "--runs", runs)[:2] == (0, "production: toy\n")
    assert find_run("production", runs) == RunDir(runs / "toy")
    assert find_artefact("production", runs).folder == runs / "toy" / "model"
    code, out, _ = call(capsys, "show", "production", "--runs", runs, "--json")
    assert (code, json.loads(out)["data"]["name"]) == (0, "toy")


def test_a_tag_moves_and_says_from_where(runs, capsys):
    set_tag("production", RunDir(runs / "toy"), runs)
    assert call(capsys, "tag", "other", "production", "--runs", runs)[1] == "production: other (before: toy)\n"
    assert find_run("production", runs) == RunDir(runs / "other")
    assert [path.name for path in (runs / "tags").iterdir()] == ["production.json"]


def test_a_trial_of_a_sweep_is_named_below_the_runs_and_tagged(runs, judged):
    (runs / "grid" / "trials").mkdir(parents=True)
    judged(name="grid/trials/003")
    trial = find_run("grid/trials/003", runs)
    assert trial == RunDir(runs / "grid" / "trials" / "003")
    assert set_tag("production", trial, runs)[0].run == "grid/trials/003"
    assert find_run("production", runs) == trial


def test_tags_are_listed_and_removed_and_their_runs_stay(runs, capsys):
    assert call(capsys, "tag", "--list", "--runs", runs)[1] == f"no tags in {runs}\n"
    set_tag("production", RunDir(runs / "toy"), runs)
    assert call(capsys, "tag", "--list", "--runs", runs)[1] == f"production  {runs}/toy\n"
    assert call(capsys, "tag", "-d", "production", "--runs", runs)[0] == 0
    assert list_tags(runs) == {}
    assert (runs / "toy").is_dir()
    code, _, err = call(capsys, "tag", "-d", "production", "--runs", runs)
    assert (code, "no tag 'production'" in err) == (RunFolderError.exit_code, True)


@pytest.mark.parametrize("name", ["", "last", "-x", ".x", "a/b", "../x", "a b", "x" * 65, "生产", "toy"])
def test_a_name_that_means_something_else_or_leads_elsewhere_is_refused(runs, name, tmp_path):
    with pytest.raises(RunFolderError):
        set_tag(name, RunDir(runs / "other"), runs)
    assert not (runs / "tags").exists()
    with pytest.raises(RunFolderError, match="cannot be a tag"):
        remove_tag("../toy/plan", runs)


def test_a_run_that_is_not_judged_gets_no_tag(runs):
    (runs / "toy" / "report.json").unlink()
    with pytest.raises(RunFolderError, match="is not judged yet"):
        set_tag("production", RunDir(runs / "toy"), runs)


def test_a_run_without_a_package_gets_no_tag(runs):
    shutil.rmtree(runs / "toy" / "model")
    with pytest.raises(RunFolderError, match="no packaged model"):
        set_tag("production", RunDir(runs / "toy"), runs)


def test_a_package_that_is_not_what_was_measured_gets_no_tag(runs):
    (runs / "toy" / "model" / "model.safetensors").write_bytes(b"others")
    with pytest.raises(RunFolderError, match="has changed since|no longer what was packaged"):
        set_tag("production", RunDir(runs / "toy"), runs)


def test_a_model_that_its_own_run_found_worse_gets_a_tag_only_when_asked(judged, tmp_path):
    run = judged(verdict="worse")
    with pytest.raises(GateMissedError, match="its verdict is worse"):
        set_tag("production", run, tmp_path / "runs")
    assert set_tag("production", run, tmp_path / "runs", even_if_worse=True)[0].run == "toy"


def test_a_tag_of_a_run_that_is_gone_says_so(runs):
    set_tag("production", RunDir(runs / "toy"), runs)
    shutil.rmtree(runs / "toy")
    with pytest.raises(RunFolderError, match="the run of the tag production is gone"):
        find_run("production", runs)


def test_the_folder_of_runs_can_be_moved_with_its_tags(runs, tmp_path):
    set_tag("production", RunDir(runs / "toy"), runs)
    runs.rename(tmp_path / "moved")
    assert find_run("production", tmp_path / "moved") == RunDir(tmp_path / "moved" / "toy")


@pytest.mark.parametrize("content", DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_tag_is_one_message_and_harms_no_list(runs, content):
    set_tag("production", RunDir(runs / "toy"), runs)
    (runs / "tags" / "production.json").write_bytes(content)
    with pytest.raises(RunFolderError, match="damaged"):
        find_run("production", runs)
    assert list_tags(runs) == {}
    assert len(list_models(runs)) == 2
    set_tag("production", RunDir(runs / "other"), runs)
    assert find_run("production", runs).root.name == "other"


def test_models_say_what_they_were_made_of(runs, capsys):
    set_tag("production", RunDir(runs / "toy"), runs)
    inputs = {"/data/train.jsonl": "aa" * 32, "/data/eval.jsonl": "bb" * 32, "/models/base": "cc" * 32}
    made = {"recipe_sha256": "dd" * 32, "inputs": inputs, "orch": "0.1.0", "git": {"commit": "ee" * 20}}
    write_json(runs / "toy" / "provenance.json", made)
    code, out, _ = call(capsys, "ls", "--models", "--runs", runs, "--json")
    toy = next(model for model in json.loads(out)["data"] if model["run"] == "toy")
    spec = json.loads((runs / "toy" / "model" / "scoring.json").read_text())
    assert (code, toy["tags"], toy["verdict"], toy["recipe"], toy["base"]) == (
        0,
        ["production"],
        "better",
        "toy",
        "org/base",
    )
    assert (toy["package"], toy["recipe_sha256"], toy["commit"]) == (hash_package(spec), "dd" * 32, "ee" * 20)
    assert (toy["inputs"], toy["data"]) == (
        inputs,
        {path: inputs[path] for path in ("/data/train.jsonl", "/data/eval.jsonl")},
    )
    _, out, _ = call(capsys, "ls", "--models", "--runs", runs)
    rows = hashlib.sha256(("aa" * 32 + "bb" * 32).encode()).hexdigest()[:12]
    assert out.splitlines()[0].split() == ["tags", "run", "verdict", "package", "base", "model", "recipe", "data"]
    [line] = [line.split() for line in out.splitlines() if line.startswith("production")]
    assert line == ["production", "toy", "better", hash_package(spec)[:12], "org/base", "toy", "dd" * 6, rows]


def test_a_package_s_hash_is_that_of_its_files_in_any_order():
    files = {"a": "1", "b": "2"}
    assert hash_package({"files": files}) == hash_package({"files": dict(reversed(files.items())), "name": "x"})
    assert hash_package({"files": files}) != hash_package({"files": files | {"b": "3"}})


def test_a_damaged_run_is_a_line_with_its_fault(runs, capsys):
    (runs / "toy" / "model" / "scoring.json").write_text("{")
    code, out, _ = call(capsys, "ls", "--models", "--runs", runs)
    assert code == 0
    assert "scoring.json is damaged" in next(line for line in out.splitlines() if "  toy  " in line)


def test_there_may_be_no_models(tmp_path, capsys):
    assert call(capsys, "ls", "--models", "--runs", tmp_path)[1] == f"no packaged models in {tmp_path}\n"


def test_the_board_shows_tags(runs):
    set_tag("production", RunDir(runs / "toy"), runs)
    set_tag("candidate", RunDir(runs / "toy"), runs)
    tags = {row["name"]: row["tags"] for row in Board((runs,)).load(str)["runs"]}
    assert tags == {"toy": ["candidate", "production"], "other": []}


@pytest.mark.parametrize("argv", [[], ["toy"], ["toy", "x", "--list"], ["--list", "-d", "x"]])
def test_a_tag_is_asked_for_in_one_way(argv, runs):
    said = CliRunner().invoke(orch, ["tag", *argv, "--runs", str(runs)])
    assert (said.exit_code, "RUN NAME, or --list, or -d NAME" in said.output) == (2, True)
