"""A run once more: its own plan in another folder, what has changed since, and what came out."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from orchestrator.errors import RunFolderError
from orchestrator.machine.hardware import CPU
from orchestrator.machine.packages import find_packages
from orchestrator.machine.rundir import RunDir
from orchestrator.recipe.plan import Command, File, Plan, Stage, plan_from_json
from orchestrator.report.publish import write_report
from orchestrator.report.reproduction import (
    DIFFERENT,
    IDENTICAL,
    WITHIN_NOISE,
    compare_reproduction,
    find_differences,
    move_plan,
    require_provenance,
)
from orchestrator.run.folder import adopt_run, create_run, load_plan
from orchestrator.run.provenance import Asked, build_provenance
from tests.report.conftest import build_run


@pytest.fixture
def plan(tmp_path):
    data = tmp_path / "rows.jsonl"
    data.write_text("{}\n")
    root = tmp_path / "runs" / "one"
    argv = (sys.executable, "-c", "pass", f"--out={root}/model", f"{root}-2/kept", "--name", "it's one")
    stage = Stage(
        "01-a", "prepare", "A", Command(argv, (("CACHE", f"{root}/cache"),), str(root)), inputs=(str(data), "data/x")
    )
    return Plan(
        "t",
        str(root),
        "reranker",
        "fake",
        False,
        {"name": "t"},
        (stage,),
        (File("files/a.json", f'{{"out": "{root}"}}'),),
    )


def test_a_moved_plan_differs_in_its_folder_and_in_nothing_else(plan, tmp_path):
    there = tmp_path / "else where" / "two"
    moved = move_plan(plan, there)
    argv = moved.stages[0].command.argv
    assert argv[3] == f"--out={there}/model"
    assert argv[4] == f"{plan.run_dir}-2/kept"  # another folder, whose name begins the same
    assert moved.stages[0].command.env == (("CACHE", f"{there}/cache"),)
    assert moved.files[0].text == f'{{"out": "{there}"}}'
    assert move_plan(moved, Path(plan.run_dir)) == plan == plan_from_json(plan.to_json())


@pytest.fixture
def provenance(plan, tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("name: t\n")
    return lambda: build_provenance(plan, CPU, Asked(recipe, ("train.seed=1",), "cpu"))


def test_provenance_names_what_decides_a_result(provenance, plan):
    found = provenance()
    assert list(found["inputs"]) == [plan.stages[0].inputs[0]]
    assert found["asked"] == {"smoke": False, "hardware": "cpu", "set": ["train.seed=1"]}
    assert found["environments"][sys.executable]["pydantic"] == find_packages(sys.executable)["pydantic"]
    assert len({found[key] for key in ("orch_sha256", "templates_sha256", "plan_sha256", "recipe_sha256")}) == 4
    assert list(find_differences(found, provenance())) == []


def test_changed_data_is_told_apart_from_changed_surroundings(provenance, plan):
    then = provenance()
    Path(plan.stages[0].inputs[0]).write_text('{"other": 1}\n')
    now = {**provenance(), "orch_sha256": "0", "cpu": {**then["cpu"], "name": "Another"}}
    now["environments"] = {sys.executable: {**then["environments"][sys.executable], "torch": "9.9"}}
    found = list(find_differences(then, now))
    assert [item.what for item in found if item.is_input] == [plan.stages[0].inputs[0]]
    assert {item.what for item in found if not item.is_input} == {f"torch in {sys.executable}", "orch", "cpu name"}
    assert f"torch in {sys.executable}: {then['environments'][sys.executable]['torch']} then, 9.9 now" in map(
        str, found
    )


def test_a_lost_input_is_absent(provenance, plan):
    then = provenance()
    Path(plan.stages[0].inputs[0]).unlink()
    assert [item.now for item in find_differences(then, provenance())] == ["absent"]


@pytest.mark.parametrize("text", [None, {"version": 1, "versions": {}}])
def test_a_run_without_hashes_cannot_be_reproduced(text, tmp_path):
    with pytest.raises(RunFolderError, match="did not hash the inputs"):
        require_provenance(RunDir(tmp_path), text)


@pytest.fixture
def measured(tmp_path):
    """A finished, measured run."""

    run = build_run(tmp_path / "one")
    write_report(run)
    run.train_jsonl.write_text("{}\n")
    (run.model / "model.safetensors").write_bytes(b"weights")
    return run


def copy_of(run, name, change=None):
    other = RunDir(run.root.with_name(name))
    shutil.copytree(run.root, other.root)
    plan = move_plan(load_plan(run), other.root)
    other.plan_json.write_text(plan.to_json())
    adopt_run(other)
    if change:
        change(other)
    return other


def test_the_same_bytes_are_identical(measured):
    result = compare_reproduction(measured, copy_of(measured, "two"), load_plan(measured))
    assert result.outcome == IDENTICAL
    assert result.reproduced
    assert {finding.what for finding in result.findings} >= {
        "training rows", "evaluation rows", "packaged weights", "scores of the tuned model", "training losses", "nDCG@10",
    }  # fmt: skip


def test_other_weights_with_the_same_measures_are_no_measurable_difference(measured):
    def change(run):
        (run.model / "model.safetensors").write_bytes(b"Weights")
        log = next(run.root.rglob("trainer_state.json"))
        state = json.loads(log.read_text())
        state["log_history"][1]["loss"] = float(state["log_history"][1]["loss"]) + 0.25
        log.write_text(json.dumps(state))

    result = compare_reproduction(measured, copy_of(measured, "two", change), load_plan(measured))
    assert result.outcome == WITHIN_NOISE
    assert result.reproduced
    words = {finding.what: finding.words for finding in result.findings if not finding.same}
    assert words["packaged weights"] == "other bytes"
    assert "at most 0.25 (step" in words["training losses"]


def test_a_tuned_model_that_is_measurably_worse_is_another_result(measured):

    def change(run):
        tuned = run.stage(next(stage.name for stage in load_plan(run).stages if stage.kind == "evaluate"))
        rows = [json.loads(line) for line in (tuned.output / "scores.jsonl").read_text().splitlines()]
        for row in rows:
            row["score"] = -row["score"]
        (tuned.output / "scores.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        write_report(run)

    result = compare_reproduction(measured, copy_of(measured, "two", change), load_plan(measured))
    assert result.outcome == DIFFERENT
    assert not result.reproduced
    assert any(finding.what == "nDCG@10" and finding.words.endswith("worse") for finding in result.findings)


def invoke(*argv):
    from orchestrator.cli import orch

    return CliRunner().invoke(orch, ["reproduce", *map(str, argv)])


def test_a_run_whose_data_have_changed_is_refused_before_anything_runs(plan, tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("name: t\n")
    run = create_run(plan, Asked(recipe), CPU)
    run.report_json.write_text("{}")
    Path(plan.stages[0].inputs[0]).write_text("changed")
    done = invoke(run.root, "--runs", tmp_path / "runs")
    assert "it has changed since" in str(done.exception)
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["one"]
    dry = invoke(run.root, "--dry-run", "--json")
    assert len(json.loads(dry.stdout)["data"]["differences"]) == 1


def test_an_unfinished_run_has_nothing_to_compare_with(plan, tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("name: t\n")
    run = create_run(plan, Asked(recipe), CPU)
    done = invoke(run.root)
    assert "is not finished" in str(done.exception)
