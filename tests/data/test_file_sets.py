"""One name of data may stand for many files: a folder, a pattern; others are told what to write."""

from __future__ import annotations

import json
import re
import shutil

import pytest

from orchestrator.data.reading.file_sets import expand_name, parse_hub_id
from orchestrator.errors import Problem, RecipeError
from orchestrator.plan.load import load_recipe

RECIPE = """\
name: toy
task: reranker
backend: flagembedding
model: Qwen/Qwen3-Reranker-0.6B
data:
  train: {train}
  eval: eval.jsonl
train:
  learning_rate: 1e-4
"""


@pytest.fixture
def shards(files):
    (files.folder / "shards").mkdir()
    for number in (10, 2, 1):
        row = {"query": f"q{number}", "pos": ["p"], "neg": ["n"]}
        files.lines(f"shards/part-{number}.jsonl", row)
    files.raw("shards/README.md", "about these")
    files.raw("shards/.hidden.jsonl", "no row")
    files.lines("eval.jsonl", {"query": "e", "pos": ["p"], "neg": ["n"]})
    return files.folder


IN_ORDER = tuple(f"shards/part-{number}.jsonl" for number in (1, 2, 10))


@pytest.mark.parametrize("name", ["shards", "shards/", "shards/*.jsonl", "**/part-*.jsonl", "shards/part-[0-9]*.jsonl"])
def test_a_folder_and_a_pattern_are_their_files_in_natural_order(shards, name):
    found = expand_name(shards, name)
    assert tuple(str(path).replace("//", "/") for path in found) == IN_ORDER
    (shards / "recipe.yaml").write_text(RECIPE.format(train=json.dumps(name)), encoding="utf-8")
    assert load_recipe(shards / "recipe.yaml").recipe.data.train == found


def test_what_a_data_set_s_folder_holds_beside_its_rows_is_passed_over(shards):
    (shards / "shards" / "dataset_info.json").write_text("{}")
    (shards / "shards" / "state.json").write_text("{}")
    assert expand_name(shards, "shards") == expand_name(shards, "shards/*.jsonl")


def test_the_commands_on_data_take_folders_and_patterns_too(shards, orch):
    for name in (shards / "shards", shards / "shards" / "part-*.jsonl"):
        code, said = orch("data", "check", name, "--eval", shards / "eval.jsonl")
        assert (code, "train: 3 rows in = 3 kept" in said) == (0, True)
        out = shards / "all.jsonl"
        assert orch("data", "convert", name, "-o", out)[0] == 0
        assert [json.loads(line)["query"] for line in out.read_text().splitlines()] == ["q1", "q2", "q10"]
        out.unlink()


@pytest.mark.parametrize(
    ("name", "says", "advises"),
    [
        ("shards/part-1.jsonl,shards/part-2.jsonl", "no such file", "[shards/part-1.jsonl, shards/part-2.jsonl]"),
        ("shards/*.csv", "no data file matches the pattern", "paths start from"),
        ("nowhere", "no such file", "paths start from"),
        ("empty", "a folder without data files", "data files end in"),
        ("outer", "a folder without data files", "name one of its folders: inner"),
        ("mixed", "holds files of several forms: .csv, .jsonl", "mixed/*.csv or mixed/*.jsonl"),
        ("sides", "holds files of both sides", "sides/*train*.jsonl"),
        ("sides/*.jsonl", "holds files of both sides", "sides/*train*.jsonl"),
    ],
)
def test_what_cannot_be_one_side_is_told_what_to_write(shards, name, says, advises):
    for folder in ("empty", "outer/inner", "mixed", "sides"):
        (shards / folder).mkdir(parents=True)
    for path in ("mixed/a.jsonl", "mixed/a.csv", "sides/train-0.jsonl", "sides/test-0.jsonl"):
        shutil.copy(shards / "eval.jsonl", shards / path)
    (shards / "recipe.yaml").write_text(RECIPE.format(train=json.dumps(name)), encoding="utf-8")
    with pytest.raises(RecipeError) as error:
        load_recipe(shards / "recipe.yaml")
    [problem] = error.value.problems
    assert problem.message.startswith("data.train: ")
    assert (says in problem.message, advises in problem.hint, problem.where.line) == (True, True, 6)
    if "[" in problem.hint:
        assert isinstance(expand_name(shards, problem.hint[problem.hint.index("[") + 1 :].split(",")[0]), tuple)
    if name.startswith("sides"):
        assert expand_name(shards, "sides/*train*.jsonl") == ("sides/train-0.jsonl",)


@pytest.mark.parametrize(
    ("name", "here"),
    [
        ("AI-ModelScope/alpaca-gpt4-data-zh#500", "AI-ModelScope/alpaca-gpt4-data-zh:train[:500]"),
        ("HF::linxy/LaTeX_OCR:full#20000", "linxy/LaTeX_OCR/full:train[:20000]"),
        ("MS::swift/self-cognition", "swift/self-cognition:train"),
        ("HF::owner/name", "owner/name:train"),
        ("swift/stsb:positive#3", "swift/stsb/positive:train[:3]"),
    ],
)
def test_ms_swift_s_notation_of_a_data_set_is_translated(files, name, here):
    problem = expand_name(files.folder, name)
    assert isinstance(problem, Problem)
    assert re.search(r"say (\S+?)(;|$)", problem.hint)[1] == here
    assert parse_hub_id(here) is not None
    assert (f"for ModelScope, ms://{here}" in problem.hint) == (not name.startswith("HF"))


@pytest.mark.parametrize(
    "name", ["owner/name", "owner/name:train[:1000]", "owner/name/config:validation", "owner/name:a"]
)
def test_a_data_set_of_a_hub_stays_as_it_is(files, name):
    assert expand_name(files.folder, name) == (name,)
