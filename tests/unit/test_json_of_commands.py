"""`--json` of the commands that have one line, or many, to say: one envelope on stdout, and nothing else."""

from __future__ import annotations

import json

import pytest

from orchestrator.cli import main
from orchestrator.recipe.plan import Command, Plan, Stage


@pytest.fixture
def run(tmp_path):
    """A run with the logs of one stage, that nobody supervises."""
    root = tmp_path / "mine"
    logs = root / "stages" / "01-train"
    logs.mkdir(parents=True)
    (logs / "stdout.log").write_text("step 1\nstep 2\x1b[2J\n", encoding="utf-8")
    (logs / "stderr.log").write_text("a warning\n", encoding="utf-8")
    plan = Plan(
        "mine", str(root), "reranker", "swift", False, {}, (Stage("01-train", "train", "t", Command(("x",))),), ()
    )
    (root / "plan.json").write_text(plan.to_json(), encoding="utf-8")
    return root


def call(capsys, *argv):
    with pytest.raises(SystemExit) as ended:
        main([*map(str, argv), "--json"])
    return ended.value.code, json.loads(capsys.readouterr().out)


def test_logs_are_lines_with_their_stage_and_stream(capsys, run):
    code, envelope = call(capsys, "logs", run)
    assert (code, envelope["command"], envelope["ok"]) == (0, "logs", True)
    assert [(line["stage"], line["stream"]) for line in envelope["data"]] == [
        ("01-train", "stdout"), ("01-train", "stdout"), ("01-train", "stderr"),
    ]  # fmt: skip
    assert envelope["data"][0]["text"] == "step 1"


def test_lines_that_are_still_to_come_have_no_envelope(run, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["logs", str(run), "--follow", "--json"])
    assert ended.value.code == 2
    assert "--json goes without --follow" in capsys.readouterr().err


def test_stopping_says_of_which_run_and_what_was_done(capsys, run):
    code, envelope = call(capsys, "stop", run)
    assert code == 0
    assert envelope["data"] == {"run": str(run), "done": "it never started"}


def test_a_starter_recipe_says_where_it_lies(capsys, tmp_path):
    path = tmp_path / "recipe.yaml"
    code, envelope = call(capsys, "init", path, "--task", "sft")
    assert (code, envelope["data"]) == (0, {"path": str(path), "task": "sft"})
    assert path.is_file()
