"""The trainers' own example scripts, said as recipes: what is rendered holds every setting of the script."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from orchestrator.machine.hardware import CPU
from orchestrator.plan.sweep import Range, plan_sweep
from tests.jobs import RECIPES
from tests.scripts.rendered import TABLES, render

if TYPE_CHECKING:
    from collections.abc import Iterator

DATA = RECIPES.parent / "datasets_example"
# table: how many scripts it names, and at least how many of them are recipes
COUNTS = {
    "ms_swift": (4, 4),
    "flagembedding": (7, 7),
    "sentence_transformers": (56, 35),
    "sentence_transformers_rerankers": (23, 18),
    "rag_retrieval": (1, 1),
}
# what an older version of transformers called it, and a share of the steps still is
RENAMED = {"warmup_ratio": "warmup_steps"}


def read_table(name: str) -> list[dict]:
    """Return the table's scripts, each recipe with the table's defaults under it."""
    table = yaml.safe_load((TABLES / f"{name}.yaml").read_text(encoding="utf-8"))
    for one in table["scripts"]:
        if "recipe" in one:
            said = table.get("defaults", {}) | one["recipe"]
            said["data"] = table["defaults"]["data"] | one["recipe"].get("data", {})
            said["train"] = one.get("arguments", {}) | one["recipe"].get("train", {})
            one["recipe"] = {"name": "script", **said, "data": find_files(said["data"])}
            one["settings"] = one.get("settings") or dict(list_settings(one))
    return table["scripts"]


def list_settings(script: dict) -> Iterator[tuple[str, Any]]:
    """Yield the path of each setting of a script of sentence-transformers in train.json, and its value."""
    yield "model", script["model"]
    yield "loss_class", script["loss"]
    for part, values in (
        ("loss", "options"),
        ("embedding", "embedding"),
        ("lora", "lora"),
        ("more", "more"),
        ("arguments", "arguments"),
    ):
        for name, value in script.get(values, {}).items():
            yield f"{part}.{RENAMED.get(name, name)}", value


def find_files(data: dict) -> dict:
    """Return the recipe's data with the example files where they lie."""
    given = {side: data[side] for side in ("train", "eval") if side in data}
    more = {name: one | {"files": str(DATA / one["files"])} for name, one in data.get("more", {}).items()}
    return (
        data
        | ({"more": more} if more else {})
        | {
            side: [str(DATA / name) for name in ([names] if isinstance(names, str) else names)]
            for side, names in given.items()
        }
    )


SAID = [pytest.param(one, id=one["script"]) for name in COUNTS for one in read_table(name) if "recipe" in one]


@pytest.mark.parametrize("script", SAID)
def test_what_a_recipe_becomes_holds_every_setting_of_the_script(script, tmp_path):
    rendered = render(script["recipe"], tmp_path, script.get("gpus", 1))
    assert {path: rendered.find(path) for path in script["settings"]} == script["settings"]


@pytest.mark.parametrize("script", [one for one in SAID if "search" in one.values[0]])
def test_what_a_script_searches_is_what_a_sweep_of_its_recipe_tries(script, tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(script["recipe"]), encoding="utf-8")
    asked = dict.fromkeys(("seeds", "random", "optuna", "max_trials", "max_hours"))
    planned = plan_sweep(path, asked | {"set": [], "smoke": False, "hardware": "auto"}, CPU)
    ranges = {key: [one.low, one.high, one.log] for key, one in planned.parameters.items() if isinstance(one, Range)}
    assert {"optuna": planned.optuna, **ranges} == script["search"]


@pytest.mark.parametrize("name", COUNTS)
def test_every_script_is_a_recipe_or_has_the_reason_why_not(name):
    scripts = read_table(name)
    total, least = COUNTS[name]
    assert len(scripts) == total
    assert [name for name, times in Counter(one["script"] for one in scripts).items() if times > 1] == []
    assert [one["script"] for one in scripts if ("recipe" in one) == bool(one.get("reason"))] == []
    assert sum("recipe" in one for one in scripts) >= least
    assert [one["script"] for one in scripts if "recipe" in one and len(one["settings"]) < 5] == []
