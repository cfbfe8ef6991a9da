"""No text makes a traceback: what is read is understood, or refused by an OrchError that says where.

Hypothesis draws the same examples every time, so that what fails here fails everywhere.
"""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from orchestrator.backends.models import find_model
from orchestrator.backends.sharing import find_deepspeed_problems
from orchestrator.cli.output import clean, format_error
from orchestrator.data.check import check_files
from orchestrator.errors import OrchError, Problem
from orchestrator.evaluation.measures import parse_metric, parse_rule
from orchestrator.logs.events import load_events
from orchestrator.machine.hardware import CPU
from orchestrator.machine.rundir import RunDir
from orchestrator.plan.jobs import build_job
from orchestrator.plan.load import load_recipe
from orchestrator.plan.pipeline import build_plan
from orchestrator.recipe.schema import ModelRef
from orchestrator.run.folder import load_plan
from orchestrator.run.runs import summarise
from orchestrator.run.state import load_launch, load_result
from tests.bad_input.case import GOOD, RECIPE, BadInput

bounded = settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.integers(-(10**40), 10**40),
    st.floats(),
    st.text(max_size=20),
    st.sampled_from(
        ["../..", "~", "a/b", "-x", "$HOME", "\0", "{{ 7*7 }}", "\x1b[2J", "ndcg@10", "> baseline", "1e-4"]
    ),
)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)
KEYS = ("name", "task", "backend", "model", "data", "teacher", "loss", "train", "deepspeed", "checkpoint", "merge")
PARTS = (*KEYS, "evaluate", "gate", "launch", "watch", "deterministic")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    BadInput("good", "", (), 0, "", "", "").write(tmp_path)
    return tmp_path


def require_message(error: OrchError) -> None:
    """A refusal can be printed, and each of its problems says where or what to do."""
    assert clean(format_error(error)).encode()
    assert all(problem.where or problem.hint for problem in error.problems), error.problems


def plan_recipe(path: Path, overrides: tuple[str, ...] = ()) -> None:
    """Read a recipe and plan it as far as it goes; what is refused must be printable."""
    try:
        loaded = load_recipe(path, overrides)
        build_plan(build_job(loaded, path.parent / "run", CPU))
    except OrchError as error:
        require_message(error)


@bounded
@given(text=st.text(max_size=300))
def test_any_text_as_recipe(folder, text):
    (folder / "recipe.yaml").write_text(text, encoding="utf-8", errors="replace")
    plan_recipe(folder / "recipe.yaml")


@bounded
@given(content=st.binary(max_size=300))
def test_any_bytes_as_recipe(folder, content):
    (folder / "recipe.yaml").write_bytes(content)
    plan_recipe(folder / "recipe.yaml")


@bounded
@given(
    place=st.integers(0, len(RECIPE)),
    length=st.integers(0, 12),
    inserted=st.text("\n\t :-{}[]&*!|>'\"%@#,?ab0.~<", max_size=6),
)
def test_a_recipe_with_a_slip_of_the_hand(folder, place, length, inserted):
    text = RECIPE[:place] + inserted + RECIPE[place + length :]
    (folder / "recipe.yaml").write_text(text, encoding="utf-8")
    plan_recipe(folder / "recipe.yaml")


@bounded
@given(place=st.integers(0, 5000), length=st.integers(0, 40), shipped=st.integers(0, 50))
def test_a_shipped_recipe_with_a_piece_missing(recipes, tmp_path, place, length, shipped):
    paths = sorted(recipes.glob("*.yaml"))
    text = paths[shipped % len(paths)].read_text(encoding="utf-8")
    place %= len(text)
    (tmp_path / "recipe.yaml").write_text(text[:place] + text[place + length :], encoding="utf-8")
    plan_recipe(tmp_path / "recipe.yaml")


@bounded
@given(key=st.sampled_from(PARTS), value=values)
def test_a_recipe_with_any_value_at_a_key(folder, key, value):
    lines = [line for line in RECIPE.splitlines() if not line.startswith((f"{key}:", "  "))]
    if key != "data":
        lines += ["data: {train: train.jsonl, eval: eval.jsonl}"]
    lines = [line for line in lines if line not in {"data:", "train:"}]
    text = "\n".join(lines) + f"\n{json.dumps(key)}: {json.dumps(value)}\n"
    (folder / "recipe.yaml").write_text(text, encoding="utf-8", errors="replace")
    plan_recipe(folder / "recipe.yaml")


@bounded
@given(
    path=st.sampled_from(
        ["data.train", "data.columns", "data.max_label", "loss", "loss.type", "teacher.path", "evaluate.metrics", "evaluate.guard.a",
         "evaluate.guard.a.gate", "launch.env", "launch.env.A", "launch.python", "train.learning_rate", "train.target_modules",
         "train.deepspeed", "deepspeed", "checkpoint", "model.path", "model.family", "watch.reports", "gate.ndcg@10"]
    ),
    value=values,
)  # fmt: skip
def test_an_override_of_any_value(folder, path, value):
    plan_recipe(folder / "recipe.yaml", (f"{path}={json.dumps(value)}",))


@bounded
@given(text=st.text(max_size=60))
def test_any_override(folder, text):
    plan_recipe(folder / "recipe.yaml", (text,))


def check(path: Path, **options: object) -> None:
    try:
        report = check_files([path], **options)
    except OrchError as error:
        require_message(error)
    else:
        assert report.problems or report.ledger


ROW_KEYS = ("query", "pos", "neg", "pos_scores", "neg_scores", "prompt", "label", "hits", "content", "messages", "conversations",
            "instruction", "output", "sentence1", "sentence2", "score", "positive_messages", "negative_messages", "sample")  # fmt: skip


@settings(bounded, max_examples=25)
@given(rows=st.lists(st.dictionaries(st.sampled_from(ROW_KEYS), values, max_size=6), min_size=1, max_size=4))
@pytest.mark.parametrize("kind", ["group", "labelled", "pair", "chat", None])
def test_rows_of_any_values(tmp_path, rows, kind):
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    check(path, kind=kind)


@bounded
@given(content=st.binary(max_size=200), ending=st.sampled_from([".jsonl", ".json", ".csv", ".tsv", ".parquet"]))
def test_any_bytes_as_data(tmp_path, content, ending):
    path = tmp_path / f"rows{ending}"
    path.write_bytes(content)
    check(path)


@bounded
@given(
    table=st.lists(st.lists(st.text("abc\",;\t\r\n'é ", max_size=6), max_size=4), max_size=5),
    quoting=st.sampled_from([csv.QUOTE_ALL, csv.QUOTE_MINIMAL]),
    cut=st.integers(0, 10),
)
def test_any_table(tmp_path, table, quoting, cut):
    stream = io.StringIO()
    csv.writer(stream, quoting=quoting).writerows([["query", "pos", "neg"], *table])
    path = tmp_path / "rows.csv"
    path.write_text(stream.getvalue()[: len(stream.getvalue()) - cut], encoding="utf-8")
    check(path)


@settings(bounded, max_examples=25)
@given(rows=st.lists(values, max_size=4), cut=st.integers(0, 9), tail=st.text('[]{},: \n1e"', max_size=3))
def test_any_list(tmp_path, rows, cut, tail):
    text = json.dumps(rows)
    path = tmp_path / "rows.json"
    path.write_text(text[: len(text) - cut] + tail, encoding="utf-8")
    check(path)


@bounded
@given(config=values, text=st.text(max_size=30))
def test_any_deepspeed_configuration(config, text):
    for written in (json.dumps(config), json.dumps({"zero_optimization": config, "optimizer": config}), text):
        assert all(isinstance(problem, Problem) for problem in find_deepspeed_problems(written))


@bounded
@given(
    config=st.dictionaries(
        st.sampled_from(["architectures", "hidden_size", "auto_map", "model_type", "vocab_size"]), values
    )
    | values
)
def test_any_model_configuration(folder, config):
    (folder / "model" / "config.json").write_text(json.dumps(config), encoding="utf-8")
    try:
        assert find_model(ModelRef(path="./model"), folder).folder
    except OrchError as error:
        require_message(error)


@bounded
@given(name=st.text(max_size=12), rule=scalars)
def test_any_metric_and_gate(name, rule):
    assert parse_metric(name)
    assert parse_rule(name, rule)
    assert parse_rule("ndcg@10", rule)


@bounded
@given(
    value=values,
    keys=st.lists(
        st.sampled_from(
            [
                "name",
                "stages",
                "recipe",
                "status",
                "stage",
                "child",
                "pid",
                "argv",
                "env",
                "digest",
                "type",
                "t",
                "loss",
            ]
        ),
        max_size=6,
    ),
)
def test_a_run_folder_that_holds_anything(tmp_path, value, keys):
    run = RunDir(tmp_path / "run")
    stage = run.stage("01-a")
    stage.root.mkdir(parents=True, exist_ok=True)
    text = json.dumps(dict.fromkeys(keys, value) if keys else value)
    for path in (
        run.plan_json,
        run.state_json,
        run.report_json,
        run.lock,
        run.events_jsonl,
        stage.command_json,
        stage.result_json,
    ):
        path.write_text(text, encoding="utf-8")
    with pytest.raises(OrchError):
        load_plan(run)
    assert summarise(run).status
    assert list(load_events(run.events_jsonl)) is not None
    load_launch(stage)
    load_result(stage)


def test_the_good_recipe_of_the_fuzz_is_good(folder):
    plan_recipe(folder / "recipe.yaml")
    assert load_recipe(folder / "recipe.yaml").recipe.name == "toy"
    assert set(GOOD) >= {"recipe.yaml", "train.jsonl"}
