"""A backend from outside: its module, its templates, its snapshot and one registry line, from check to prepare."""

from __future__ import annotations

import ast
import importlib.util
import json
from pathlib import Path

import pytest
from jinja2 import ChoiceLoader, FileSystemLoader
from msgspec.structs import replace

from orchestrator.backends import BACKENDS, render
from orchestrator.checks.arguments import check_arguments
from orchestrator.checks.machine import check_packages
from orchestrator.data import prepare
from orchestrator.errors import RecipeError
from orchestrator.machine.hardware import CPU
from orchestrator.plan.jobs import build_job
from orchestrator.plan.load import load_recipe
from orchestrator.plan.pipeline import build_plan
from orchestrator.recipe.registry import TOOLS
from orchestrator.recipe.schema import build_json_schema
from orchestrator.workers.specs import load_raw_spec, parse_spec

HERE = Path(__file__).parent
RECIPE = """\
name: toy
task: reranker
backend: acme
model: {path: encoder, family: encoder}
data: {train: train.jsonl, eval: eval.jsonl}
train: {learning_rate: 1e-5, pooling: mean}
"""


@pytest.fixture
def build(tmp_path, monkeypatch):
    """Return the job and the plan of the recipe with these overrides, the new backend registered."""
    monkeypatch.setitem(TOOLS, "acme", "tests.extensions.acme_backend")
    environment = render._environment()
    templates = ChoiceLoader([environment.loader, FileSystemLoader(HERE / "acme_templates")])
    monkeypatch.setattr(environment, "loader", templates)
    (tmp_path / "encoder").mkdir()
    config = {"model_type": "bert", "architectures": ["BertForSequenceClassification"]}
    (tmp_path / "encoder" / "config.json").write_text(json.dumps(config))
    for side, words in (("train", ("alpha", "beta")), ("eval", ("gamma",))):
        rows = [{"query": word, "pos": [f"{word} yes"], "neg": [f"{word} no"]} for word in words]
        (tmp_path / f"{side}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "recipe.yaml").write_text(RECIPE)

    def build(*overrides, version="2.0.0"):
        job = build_job(load_recipe(tmp_path / "recipe.yaml", overrides), tmp_path / "run", CPU)
        job = replace(job, versions={**job.versions, "acme-trainer": version} if version else job.versions)
        return job, build_plan(job)

    return build


def test_what_the_tool_does_not_take_is_refused_with_a_way_out(build):
    for override, message, hint in (
        ("train.poolin=mean", "Acme's trainers have none of that name", "did you mean 'pooling'?"),
        ("train.pooling=max", "is not one of cls, mean", None),
        ("train.output=here", "train.output is not set here", "the run folder decides it"),
        ("train.per_device_train_batch_size=0", "it must be at least 1", None),
        ("model={path: Qwen/Qwen3-0.6B, family: decoder}", "acme trains encoders", "name one, such as"),
        ("launch.distributed=fsdp", "Acme's trainers are not started with FSDP", None),
    ):
        with pytest.raises(RecipeError, match=message) as caught:
            build(override)
        assert hint is None or hint in str(caught.value.problems[0].hint)


def test_its_arguments_are_held_against_its_snapshot_of_the_installed_version(build):
    assert list(check_arguments(*build())) == []
    job, plan = build(version="1.0.0")
    (problem,) = check_arguments(job, plan)
    assert "pooling" in problem.message
    (missing, *_) = check_packages(*build(version=None))
    assert "acme-trainer" in missing.message


def test_its_template_makes_the_train_command_and_its_rows_are_prepared(build):
    job, plan = build()
    argv = plan.stage("train").command.argv
    assert argv[1:3] == ("-m", "acme.train")
    assert argv[argv.index("--pooling") + 1] == "mean"
    assert "acme.train" in render.render_run_script(plan)
    for file in plan.files:
        (job.run_dir / file.path).parent.mkdir(parents=True, exist_ok=True)
        (job.run_dir / file.path).write_text(file.text)
    specs = sorted((job.run_dir / "files").glob("scoring.*.json"))
    assert "scoring.packaged.json" in {path.name for path in specs}
    assert all(parse_spec(load_raw_spec(path), str(path)).scorer == "cross-encoder" for path in specs)
    words = plan.stage("prepare").command.argv
    assert prepare.main(words[words.index("-m") + 2 :]) == 0
    rows = [json.loads(line) for line in (job.run_dir / "data" / "train.jsonl").read_text().splitlines()]
    assert rows == [
        {"query": word, "pos": [f"{word} yes"], "neg": [f"{word} no"]} for word in ("alpha", "beta")
    ]  # fmt: skip


def test_the_schema_of_recipes_knows_it(build):
    schema = build_json_schema({name: backend.json_schema() for name, backend in BACKENDS.items()})
    assert "acme" in schema["properties"]["backend"]["enum"]
    of_acme = next(part for part in schema["allOf"] if part["if"]["properties"]["backend"]["const"] == "acme")
    assert of_acme["then"]["properties"]["train"]["properties"].keys() == {
        "gradient_accumulation_steps", "learning_rate", "per_device_train_batch_size", "pooling",
    }  # fmt: skip


def test_nobody_outside_compares_with_a_backend_s_name(root):
    spec = importlib.util.spec_from_file_location("size", root / "benchmarks" / "size.py")
    size = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(size)
    assert size.find_name_comparisons(
        ast.parse('a = b == "swift"\nmatch c:\n    case "flagembedding":\n        pass')
    ) == [1, 3]
    found, read = [], 0
    for path in sorted((root / "orchestrator").rglob("*.py")):
        if "backends" in path.relative_to(root).parts:
            continue
        read += 1
        found += [f"{path}:{line}" for line in size.find_name_comparisons(ast.parse(path.read_text(encoding="utf-8")))]
    assert read > 100
    assert found == []
