"""Commands that run nothing: what they print, for people and for programs."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile

import pytest
from click.testing import CliRunner

from orchestrator.cli import _COMMANDS, orch
from orchestrator.errors import DataError


def _row(task: str, number: int) -> dict:
    if task == "sft":
        return {"messages": [{"role": role, "content": f"{role} {number}"} for role in ("user", "assistant")]}
    return {"query": f"q{number}", "pos": [f"a{number}"], "neg": [f"b{number}"]}


def invoke(*argv: str):
    return CliRunner().invoke(orch, list(argv), catch_exceptions=False)


@pytest.mark.parametrize("name", _COMMANDS)
def test_every_command_of_the_list_exists_and_has_help(name):
    done = invoke(name, "--help")
    assert done.exit_code == 0
    assert "Usage:" in done.output


def test_help_loads_nothing_heavy():
    program = (
        "import sys; from orchestrator.cli import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: pass\n"
        "print([name for name in ('pydantic', 'jinja2', 'yaml', 'rich', 'torch', 'numpy') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_checking_a_recipe_loads_no_ml_library(recipes):
    program = (
        "import sys; from orchestrator.cli import main\n"
        f"try: main(['check', {str(recipes / 'qwen3_reranker.yaml')!r}])\n"
        "except SystemExit: pass\n"
        "print([name for name in ('torch', 'transformers', 'numpy', 'ir_measures', 'matplotlib') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert "all right" in done.stdout
    assert done.stdout.splitlines()[-1] == "[]"


def test_checking_a_recipe_says_which_models_and_guards_it_has(recipes):
    done = invoke("check", str(recipes / "distill_llm_to_bert.yaml"), "--hardware", "gpu").output
    assert "  model     hfl/chinese-roberta-wwm-ext (encoder, " in done
    assert "  teacher   Qwen/Qwen3-Reranker-0.6B (decoder, " in done
    assert "  guard     handbook (group rows)" in done


def test_render_as_json_holds_the_plan_and_every_file(recipes):
    data = json.loads(invoke("render", str(recipes / "qwen3_reranker.yaml"), "--hardware", "gpu", "--json").output)[
        "data"
    ]
    assert [stage["kind"] for stage in data["plan"]["stages"]][-1] == "report"
    assert "files/ds_stage0.json" in data["files"]
    assert data["files"]["run.sh"].startswith("#!/usr/bin/env bash")


def test_explain_says_what_was_translated_and_why(recipes):
    output = invoke("render", str(recipes / "qwen3_reranker.yaml"), "--hardware", "gpu", "--explain").output
    line = next(line for line in output.splitlines() if "warmup_steps" in line)
    assert "translated" in line
    assert "warmup_ratio" in line


@pytest.mark.parametrize("task", ["reranker", "embedding", "sft"])
def test_the_starter_recipe_is_valid_once_its_data_is_there(tmp_path, task):
    path = tmp_path / "recipe.yaml"
    assert invoke("init", str(path), "--task", task).exit_code == 0
    (tmp_path / "train.jsonl").write_text("{}\n")
    refused = CliRunner().invoke(orch, ["check", str(path), "--hardware", "gpu"]).exception
    assert isinstance(refused, DataError)
    (tmp_path / "train.jsonl").write_text("".join(f"{json.dumps(_row(task, number))}\n" for number in range(64)))
    done = invoke("check", str(path), "--hardware", "gpu")
    assert done.exit_code == 0, done.output


def test_init_does_not_overwrite(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text("mine")
    done = CliRunner().invoke(orch, ["init", str(path)])
    assert done.exception is not None
    assert path.read_text() == "mine"


def test_the_schema_is_that_of_the_shipped_recipes(recipes):
    assert invoke("schema").output == (recipes / "recipe.schema.json").read_text(encoding="utf-8")


def test_the_shipped_recipes_fit_the_schema(recipes):
    import jsonschema
    import yaml

    schema = json.loads((recipes / "recipe.schema.json").read_text(encoding="utf-8"))
    jsonschema.Draft202012Validator.check_schema(schema)
    validator = jsonschema.Draft202012Validator(schema)
    for path in sorted(recipes.glob("*.yaml")):
        validator.validate(yaml.safe_load(path.read_text(encoding="utf-8")))


@pytest.mark.parametrize(
    ("more", "fits"),
    [
        ({"teacher": "owner/name"}, True),
        ({"teacher": {"path": "owner/name", "max_length": 256}}, True),
        ({"teacher": {"path": "owner/name", "max_lenght": 256}}, False),
        ({"evaluate": {"guard": {"general": "a.jsonl"}}}, True),
        ({"evaluate": {"guard": {"general": ["a.jsonl", "b.jsonl"]}}}, True),
        ({"evaluate": {"guard": {"general": {"data": "a.jsonl", "gate": {"map": ">= baseline"}}}}}, True),
        ({"evaluate": {"guard": {"general": {"gate": {}}}}}, False),
        ({"loss": "lambda_loss"}, True),
        ({"loss": {"type": "lambda_loss", "k": 10}}, True),
        ({"loss": "lambdaloss"}, False),
        ({"deterministic": True, "launch": {"strategy": "fsdp"}}, True),
        ({"launch": {"strategy": "zero"}}, False),
        ({"train": {"stable_ratio": 0.4}}, True),
        ({"train": {"lora_rank": 8}}, True),
        ({"train": {"lora_ranks": 8}}, False),
    ],
)
def test_the_schema_knows_short_forms_and_refuses_what_orch_refuses(recipes, more, fits):
    import jsonschema

    schema = json.loads((recipes / "recipe.schema.json").read_text(encoding="utf-8"))
    recipe = {
        "name": "toy", "task": "reranker", "backend": "sentence-transformers", "model": "owner/name",
        "data": {"train": "a.jsonl", "eval": ["b.jsonl"], "max_label": 2},
    }  # fmt: skip
    assert jsonschema.Draft202012Validator(schema).is_valid({**recipe, **more}) == fits


def test_a_bug_keeps_its_traceback_and_ends_with_70(monkeypatch, capsys, tmp_path):
    from orchestrator import cli

    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(cli.orch, "main", lambda *_args, **_kwargs: 1 / 0)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with pytest.raises(SystemExit) as ended:
        cli.main(["ls"])
    assert ended.value.code == 70
    (kept,) = tmp_path.glob("orch-bug-*.txt")
    assert "ZeroDivisionError" in kept.read_text()
    assert "Traceback" not in capsys.readouterr().err
