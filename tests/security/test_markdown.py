"""Text of recipes in a model's README stays text: no link, no HTML, no code block of its own."""

from __future__ import annotations

import re

import pytest

from orchestrator.report.publish import escape_markdown
from orchestrator.workers.package import code_span

HOSTILE = (
    "`](javascript:alert(1))",
    "``` x",
    "<script>alert(1)</script>",
    "[a](javascript:b)",
    "![a](http://b/c.png)",
    "a|b",
    "`",
    "a\n# b",
)


@pytest.mark.parametrize("text", HOSTILE)
def test_a_code_span_ends_where_it_should(text):
    span = code_span(text)
    fence = re.match("`+", span)
    assert fence is not None
    inside = span[len(fence[0]) : -len(fence[0])]
    assert inside.strip() == text.replace("\n", " ").strip()
    assert fence[0] not in re.findall("`+", inside)  # CommonMark: a run of backticks of the same length ends it
    assert "\n" not in span


def test_a_code_span_without_backticks_is_as_people_write_it():
    assert code_span("Qwen/Qwen3-0.6B  x") == "`Qwen/Qwen3-0.6B  x`"


@pytest.mark.parametrize("text", HOSTILE)
def test_aescape_markdown_holds_no_markup(text):
    cell = escape_markdown(text)
    assert re.search(r"(?<!\\)[\[\]|`*#]", cell) is None
    assert "<" not in cell
    assert "\n" not in cell
