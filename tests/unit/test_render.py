"""Rendered text is inert: what goes in as a value comes out of bash as the same value."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.backends.render import flag, format_command, quote, render_text
from orchestrator.errors import RenderError
from orchestrator.recipe.plan import Command

HOSTILE = [
    "two words", "it's", 'say "hi"', "$(touch pwned)", "`touch pwned`", "$HOME", "a\nb", "a\\\nb", "红隼 在哪里？", "-x", "--evil",
    "", "*", "~", "a;b", "a&b", "a|b", "#no comment", "!history", "\\", "{{ 7*7 }}", "{% raw %}", "%s", "tab\tend",
]  # fmt: skip
ECHO = "import json,sys; print(json.dumps(sys.argv[1:]))"


@pytest.mark.parametrize("value", HOSTILE)
def test_a_hostile_value_survives_bash_unchanged(value, tmp_path):
    script = format_command(Command((sys.executable, "-c", ECHO, value), (("KEY", value),)))
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert json.loads(done.stdout) == [value]
    assert list(tmp_path.iterdir()) == []


@settings(max_examples=40, deadline=None)
@given(st.lists(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])), max_size=6))
def test_any_list_of_values_survives_bash_unchanged(values):
    script = format_command(Command((sys.executable, "-c", ECHO, *values)))
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == values


def test_lists_expand_to_words():
    assert flag("target_modules", ["q_proj", "k proj"]) == "--target_modules q_proj 'k proj'"


def test_a_value_that_begins_with_a_dash_is_bound_to_its_flag():
    assert flag("prompt", "-x") == "--prompt=-x"


def test_numbers_and_booleans_read_as_the_native_tools_read_them():
    assert flag("learning_rate", 0.0002) == "--learning_rate 0.0002"
    assert flag("bf16", True) == "--bf16 True"


@pytest.mark.parametrize("value", [None, object(), "nul\0"])
def test_a_value_that_no_command_line_carries_is_refused(value):
    with pytest.raises(RenderError):
        quote(value)


def test_an_empty_list_and_a_dash_inside_a_list_are_refused():
    with pytest.raises(RenderError):
        flag("target_modules", [])
    with pytest.raises(RenderError):
        flag("target_modules", ["a", "-b"])


def test_a_template_with_an_undefined_name_is_refused():
    with pytest.raises(RenderError, match="train.j2"):
        render_text("flagembedding/train.j2", python="python")
