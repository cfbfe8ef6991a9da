"""What a recipe says arrives in a command as one word: no shell and no template ever reads it as anything else."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from msgspec.structs import replace

from orchestrator.backends.render import format_command, render_run_script, render_stage_script, render_text
from orchestrator.errors import OrchError
from orchestrator.plan.pipeline import build_plan
from orchestrator.recipe.plan import Command

HOSTILE = (
    "{{ 7*7 }}", "{% for x in [1] %}", "{# no #}", "${HOME}", "$HOME", "$(touch pwned)", "`touch pwned`", "a; touch pwned",
    "a && touch pwned", "a | touch pwned", "> pwned", "'\"\\", "*", "?", "[1]", "~", "!x", "#", "%s", "a\nb", "a\tb", " ", "-rf",
    "--help", "\\$x", "红隼", "\x1b[2J", "=", "&", "(", "<(touch pwned)",
)  # fmt: skip
SHOW = "import json, os, sys; print(json.dumps([sys.argv[1:], os.environ.get('HOSTILE'), os.getcwd()]))"


def run_bash(script: str, folder: Path) -> subprocess.CompletedProcess[str]:
    path = folder / "script.sh"
    path.write_text(script, encoding="utf-8")
    return subprocess.run(["bash", str(path)], cwd=folder, capture_output=True, text=True, check=True, timeout=300)


def test_bash_gives_every_value_back_as_one_word(tmp_path):
    command = Command((sys.executable, "-c", SHOW, *HOSTILE), (("HOSTILE", HOSTILE[5]),), ".")
    words, variable, _ = json.loads(run_bash(format_command(command), tmp_path).stdout)
    assert tuple(words) == HOSTILE
    assert variable == HOSTILE[5]
    assert not (tmp_path / "pwned").exists()


@pytest.mark.parametrize("value", HOSTILE)
def test_a_value_of_a_recipe_arrives_verbatim(make_job, value):
    plan = build_plan(make_job(launch={"env": {"HOSTILE": value}}, train={"query_instruction_for_rerank": f"x{value}"}))
    train = next(stage for stage in plan.stages if stage.kind == "train")
    assert dict(train.command.env)["HOSTILE"] == value
    assert train.command.argv[train.command.argv.index("--query_instruction_for_rerank") + 1] == f"x{value}"


def test_the_scripts_of_a_hostile_recipe_run_nothing_of_it(make_job, folder):
    rows = "a; touch pwned $(touch pwned2) {{ 7*7 }}.jsonl"
    (folder / rows).write_bytes((folder / "train.jsonl").read_bytes())
    hostile_folder = folder / "run $(touch pwned3) 'x'"
    job = replace(
        make_job(data={"train": rows, "eval": "eval.jsonl"}, launch={"env": {"HOSTILE": "`touch pwned4`"}}),
        run_dir=hostile_folder,
    )
    plan = build_plan(job)
    hostile_folder.mkdir()
    shown = replace(
        plan,
        stages=tuple(
            replace(stage, command=replace(stage.command, argv=(sys.executable, "-c", SHOW, *stage.command.argv)))
            for stage in plan.stages
        ),
    )
    answers = [
        json.loads(line) for line in run_bash(render_run_script(shown), folder).stdout.splitlines() if line.strip()
    ]
    assert [tuple(words) for words, _, _ in answers] == [stage.command.argv for stage in plan.stages]
    assert {(variable, where) for _, variable, where in answers} == {("`touch pwned4`", str(hostile_folder))}
    for stage, original in zip(shown.stages, plan.stages, strict=True):
        words, _, _ = json.loads(run_bash(render_stage_script(shown, stage), folder).stdout)
        assert tuple(words) == original.command.argv
    assert [path.name for path in folder.rglob("pwned*")] == []


def test_a_template_cannot_reach_python(tmp_path, monkeypatch):
    (tmp_path / "reach.j2").write_text("{{ value.__class__.__mro__[-1].__subclasses__() }}")
    monkeypatch.setattr("orchestrator.backends.render.find_templates", lambda: tmp_path)
    from orchestrator.backends.render import _environment

    _environment.cache_clear()
    try:
        with pytest.raises(OrchError, match="unsafe"):
            render_text("reach.j2", value="x")
    finally:
        _environment.cache_clear()


def test_code_of_a_model_folder_runs_only_where_the_recipe_says_so_and_that_is_shown(make_job):
    from orchestrator.checks.settings import advise_trust

    plain = make_job()
    assert list(advise_trust(plain, build_plan(plain))) == []
    assert "trust_remote_code" not in json.dumps([stage.command.argv for stage in build_plan(plain).stages])
    trusting = make_job(model={"path": "./model", "trust_remote_code": True, "allow_pickle": True})
    plan = build_plan(trusting)
    train = next(stage for stage in plan.stages if stage.kind == "train")
    assert train.command.argv[train.command.argv.index("--trust_remote_code") + 1] == "True"
    assert ["trust_remote_code" in said.message for said in advise_trust(trusting, plan)] == [True, False]


def test_pickles_are_loaded_only_where_the_recipe_says_so(make_job):
    def allowed(job: object) -> set[str | None]:
        return {
            dict(stage.command.env).get("ORCH_ALLOW_PICKLE")
            for stage in build_plan(job).stages
            if stage.kind == "train"
        }

    assert allowed(make_job()) == {None}
    assert allowed(make_job(model={"path": "./model", "allow_pickle": True})) == {"1"}
