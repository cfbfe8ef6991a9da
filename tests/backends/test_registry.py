"""A backend is one file, one folder of templates and one writer: this says which of them is missing."""

from __future__ import annotations

from typing import get_args

from orchestrator.backends import BACKENDS
from orchestrator.recipe.schema import Recipe


def test_every_backend_has_its_file_its_templates_and_its_writer(root):
    assert BACKENDS
    for name, backend in BACKENDS.items():
        assert backend.name == name
        assert (root / "orchestrator" / "backends" / f"{name}.py").is_file(), f"backends/{name}.py is missing"
        assert list((root / "templates" / name).glob("*.j2")), f"templates/{name}/ is missing"
        assert backend.data_form in (root / "orchestrator" / "data" / "writers.py").read_text(), f"no writer for {name}"


def test_the_recipe_knows_exactly_the_registered_backends():
    assert set(get_args(Recipe.model_fields["backend"].annotation)) == BACKENDS.keys()


def test_every_backend_s_extra_stands_in_pyproject(root):
    text = (root / "pyproject.toml").read_text()
    for backend in BACKENDS.values():
        assert f"\n{backend.extra} = [" in text
