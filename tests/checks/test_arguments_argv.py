"""A command line against its parser: each way to be refused or misread is found, and each right form passes."""

from __future__ import annotations

import json

import pytest

from orchestrator.backends.arguments import Argument, parse_argument
from orchestrator.checks.arguments import describe_unknown, find_argv_problems

KNOWN = {
    one.name: one
    for one in (
        Argument("model_name_or_path", "str", None, None, required=True),
        Argument("learning_rate", "float", 5e-5, None),
        Argument("seed", "int", 42, None),
        Argument("bf16", "bool", False, None),
        Argument("use_lora", "bool", True, None),
        Argument("save_strategy", "str", "steps", ("no", "steps", "epoch")),
        Argument("target_modules", "list[str]", None, None),
        Argument("report_to", "list[str]", None, ("none", "wandb")),
        Argument("sizes", "dict", None, None),
        Argument("fsdp_config", "json", None, None),
    )
}
GIVEN = ("--model_name_or_path", "m")


def messages(*words):
    return [finding.message for finding in find_argv_problems((*GIVEN, *words), KNOWN)]


@pytest.mark.parametrize(
    "words",
    [
        (),
        ("--learning_rate", "1e-4"),
        ("--learning_rate", "3"),
        ("--learning_rate=-1",),
        ("--learning-rate", "0.1"),
        ("--seed", "7"),
        ("--bf16", "True"),
        ("--bf16", "no"),
        ("--bf16",),
        ("--no_use_lora",),
        ("--save_strategy", "epoch"),
        ("--target_modules", "q_proj", "k_proj"),
        ("--report_to", "none"),
        ("--sizes", '{"a": 1}'),
        ("--fsdp_config", "/a/file.json"),
    ],
)
def test_what_the_parser_takes_passes(words):
    assert messages(*words) == []


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--learnin_rate", "1"), "there is no argument --learnin_rate"),
        (("--save", "no"), "argparse would take it for --save_strategy"),
        (("--seed", "1", "--seed", "2"), "--seed is given twice, and the last one would win"),
        (("--learning_rate", "1", "--learning-rate", "2"), "given twice"),
        (("--use_lora", "True", "--no_use_lora"), "given twice"),
        (("--no_bf16",), "there is no argument --no_bf16"),
        (("--seed", "1.5"), "--seed 1.5: expected a whole number"),
        (("--seed", "one"), "--seed one: expected a whole number"),
        (("--learning_rate", "fast"), "--learning_rate fast: expected a number"),
        (("--learning_rate", "nan"), "expected a number"),
        (("--learning_rate", "inf"), "expected a number"),
        (("--learning_rate",), "--learning_rate has no value"),
        (("--seed", "1", "2"), "--seed takes one value, and has 2: 1 2"),
        (("--bf16", "maybe"), "--bf16 maybe: expected true or false"),
        (("--save_strategy", "never"), "--save_strategy never: one of no, steps, epoch"),
        (("--report_to", "none", "paper"), "--report_to paper: one of none, wandb"),
        (("--target_modules",), "--target_modules has no value"),
        (("--sizes", "[1]"), "--sizes [1]: expected a mapping, as JSON"),
        (("--sizes", "{"), "expected a mapping"),
    ],
)
def test_what_it_would_refuse_or_misread_is_said(words, says):
    (message,) = messages(*words)
    assert says in message


def test_what_is_required_may_not_be_missing_and_nothing_may_stand_in_front():
    found = list(find_argv_problems(("stray", "--seed", "1"), KNOWN))
    assert "'stray' stands in front of every flag" in found[0].message
    assert found[1].name == "model_name_or_path"
    assert "is missing" in found[1].message


def test_an_unknown_name_is_met_with_the_nearest_or_with_nothing():
    assert describe_unknown("learnin_rate", KNOWN).hint == "did you mean --learning_rate?"
    assert describe_unknown("s", KNOWN).hint is None  # the beginning of several
    assert describe_unknown("zzz", KNOWN).hint is None


def test_an_argument_is_read_as_the_worker_prints_it():
    printed = {"name": "seed", "type": "int", "default": 42, "choices": None, "nargs": None, "group": "training", "required": False}  # fmt: skip
    assert parse_argument(json.loads(json.dumps(printed))) == KNOWN["seed"]
