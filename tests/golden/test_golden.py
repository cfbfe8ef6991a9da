"""Rendered text is exactly what the golden files hold."""

from __future__ import annotations

import pytest

from tests.golden.regenerate import CASES, HERE, build_case


@pytest.mark.parametrize("name", CASES)
def test_a_recipe_renders_to_its_golden_files(name):
    rendered = build_case(name)
    golden = {
        str(path.relative_to(HERE / name)): path.read_text(encoding="utf-8")
        for path in (HERE / name).rglob("*")
        if path.is_file()
    }
    assert len(rendered) >= 4
    assert sorted(rendered) == sorted(golden)
    for path, text in rendered.items():
        assert text == golden[path], path


def test_a_plan_survives_its_json():
    from orchestrator.recipe.plan import plan_from_json

    text = build_case("qwen3_reranker.smoke")["plan.json"]
    assert plan_from_json(text).to_json() == text
