"""The architecture is a failing test: no hole in the contracts of pyproject.toml, no circle of imports."""

from __future__ import annotations

import graphlib
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
    assert 10 < len(found) <= 15
    return found - {"__init__"}


def test_no_module_imports_itself_by_way_of_others():
    graph = grimp.build_graph("orchestrator", exclude_type_checking_imports=True)
    imports = {name: graph.find_modules_directly_imported_by(name) for name in graph.modules}
    assert len(imports) > 200
    graphlib.TopologicalSorter(imports).prepare()  # CycleError names the circle


def test_workers_may_import_none_of_the_core(contracts):
    assert "orchestrator.*" in contracts["Workers are an island"]["forbidden_modules"]


def test_every_room_has_its_place_in_the_layers(contracts, rooms):
    layers = contracts["The flow goes one way"]
    assert layers["exhaustive"]
    assert {name.strip() for row in layers["layers"] for name in row.split("|")} == rooms
