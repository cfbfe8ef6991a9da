"""The architecture is a failing test: no hole in the contracts of pyproject.toml, no circle of imports, one picture."""

from __future__ import annotations

import graphlib
import re
import tomllib

import pytest

grimp = pytest.importorskip("grimp")  # what import-linter reads imports with


@pytest.fixture(scope="module")
def contracts(root):
    with (root / "pyproject.toml").open("rb") as stream:
        return {one["name"].split(":")[0]: one for one in tomllib.load(stream)["tool"]["importlinter"]["contracts"]}


@pytest.fixture(scope="module")
def rooms(root):
    """Return the modules and packages right under orchestrator."""
    inside = (root / "orchestrator").iterdir()
    found = {path.stem for path in inside if path.suffix == ".py" or (path / "__init__.py").is_file()}
    assert len(found) > 30
    return found - {"__init__"}


def test_no_module_imports_itself_by_way_of_others():
    graph = grimp.build_graph("orchestrator", exclude_type_checking_imports=True)
    imports = {name: graph.find_modules_directly_imported_by(name) for name in graph.modules}
    assert len(imports) > 400
    graphlib.TopologicalSorter(imports).prepare()  # CycleError names the circle


def test_workers_may_import_none_of_the_core(contracts, rooms):
    island = contracts["Workers are an island"]
    forbidden = {name.removeprefix("orchestrator.") for name in island["forbidden_modules"]}
    assert rooms - {"workers"} <= forbidden


def test_every_room_has_its_place_in_the_layers(contracts, rooms):
    layers = contracts["The flow goes one way"]
    assert layers["exhaustive"]
    assert {name.strip() for row in layers["layers"] for name in row.split("|")} == rooms


def test_the_picture_of_the_layers_is_that_of_the_contract(contracts, root):
    page = (root / "docs" / "architecture.md").read_text(encoding="utf-8")
    picture = page.partition("## Layers")[2].partition("- `workers/`")[0]
    rows = re.findall(r"(?m)^    (\S.*)$", picture)
    shown = re.split(r"\n", re.sub(r" ·\n", " · ", "\n".join(rows)))
    assert [{name.strip("/ ") for name in row.split("·")} for row in shown] == [
        {name.strip() for name in row.split("|")} for row in contracts["The flow goes one way"]["layers"]
    ]
