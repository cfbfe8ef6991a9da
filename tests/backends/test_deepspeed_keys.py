"""The names that DeepSpeed's files are checked against are those of the installed DeepSpeed, read from its source."""

from __future__ import annotations

import ast
import importlib.util
from pathlib import Path

import pytest

from orchestrator.backends.arguments import load_words
from orchestrator.backends.sharing import find_deepspeed_problems

SHIPPED = sorted((Path(__file__).resolve().parents[2] / "templates" / "deepspeed").glob("*.json"))


def test_every_setting_of_zero_is_known():
    found = importlib.util.find_spec("deepspeed")
    if found is None or found.origin is None:
        pytest.skip("DeepSpeed is not installed")
    source = Path(found.origin).parent / "runtime" / "zero" / "config.py"
    classes = [node for node in ast.parse(source.read_text(encoding="utf-8")).body if isinstance(node, ast.ClassDef)]
    (fields,) = [node.body for node in classes if node.name == "DeepSpeedZeroConfig"]
    names = {field.target.id for field in fields if isinstance(field, ast.AnnAssign)}
    assert len(names) > 30
    found_wrong = {name for name in names if find_deepspeed_problems(f'{{"zero_optimization": {{"{name}": 1}}}}')}
    assert found_wrong == set()


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_the_configurations_that_orch_brings_along_are_right(path):
    assert find_deepspeed_problems(path.read_text(encoding="utf-8")) == []


def test_names_that_are_near_to_none_are_left_alone_and_misspelt_ones_are_not():
    assert find_deepspeed_problems('{"a_key_of_a_newer_version": 1}') == []
    (problem,) = find_deepspeed_problems('{"gradient_cliping": 1}')
    assert problem.hint == "did you mean 'gradient_clipping'?"
    assert "stage" in load_words("deepspeed")["zero_optimization"]
