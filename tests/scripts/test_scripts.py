"""The trainers' own example scripts, said as recipes: what is rendered holds every setting of the script."""

from __future__ import annotations

from collections import Counter

import pytest
import yaml

from tests.jobs import RECIPES
from tests.scripts.rendered import TABLES, render

DATA = RECIPES.parent / "datasets_example"
# table: how many scripts it names, and at least how many of them are recipes
COUNTS = {"ms_swift": (4, 4), "flagembedding": (7, 6), "sentence_transformers_rerankers": (23, 18)}


def read_table(name: str) -> list[dict]:
    """Return the table's scripts, each recipe with the table's defaults under it."""
    table = yaml.safe_load((TABLES / f"{name}.yaml").read_text(encoding="utf-8"))
    for one in table["scripts"]:
        if "recipe" in one:
            said = table.get("defaults", {}) | one["recipe"]
            said["data"] = table["defaults"]["data"] | one["recipe"].get("data", {})
            one["recipe"] = {"name": "script", **said, "data": find_files(said["data"])}
    return table["scripts"]


def find_files(data: dict) -> dict:
    """Return the recipe's data with the example files where they lie."""
    given = {side: data[side] for side in ("train", "eval", "corpus") if isinstance(data.get(side), str)}
    return data | {side: str(DATA / name) for side, name in given.items()}


SAID = [pytest.param(one, id=one["script"]) for name in COUNTS for one in read_table(name) if "recipe" in one]


@pytest.mark.parametrize("script", SAID)
def test_what_a_recipe_becomes_holds_every_setting_of_the_script(script, tmp_path):
    rendered = render(script["recipe"], tmp_path, script.get("gpus", 1))
    assert {path: rendered.find(path) for path in script["settings"]} == script["settings"]


@pytest.mark.parametrize("name", COUNTS)
def test_every_script_is_a_recipe_or_has_the_reason_why_not(name):
    scripts = read_table(name)
    total, least = COUNTS[name]
    assert len(scripts) == total
    assert [name for name, times in Counter(one["script"] for one in scripts).items() if times > 1] == []
    assert [one["script"] for one in scripts if ("recipe" in one) == bool(one.get("reason"))] == []
    assert sum("recipe" in one for one in scripts) >= least
    assert [one["script"] for one in scripts if "recipe" in one and len(one["settings"]) < 5] == []
