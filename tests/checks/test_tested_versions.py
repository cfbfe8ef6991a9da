"""The tested set, and what a backend's own environment needs: one source each."""

from __future__ import annotations

import importlib.metadata

import pytest

from orchestrator.backends import BACKENDS
from orchestrator.checks import environments
from orchestrator.checks.environments import (
    find_constraints,
    find_minimum,
    find_requirements,
    judge_version,
    load_tested,
)
from orchestrator.errors import PreflightError
from orchestrator.machine import places
from orchestrator.machine.packages import normalise


def test_the_tested_set_is_read_from_the_constraints():
    pins = load_tested()
    assert pins["ms-swift"] == "4.6.0"  # ms_swift there
    assert len(pins) > 100


def test_constraints_that_are_not_there_are_said(monkeypatch, tmp_path):
    monkeypatch.setattr(places, "PACKAGE", tmp_path / "a")
    with pytest.raises(PreflightError, match=r"constraints\.txt"):
        find_constraints()
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "constraints.txt").write_text("")  # as in the wheel
    assert find_constraints() == tmp_path / "a" / "constraints.txt"


@pytest.mark.parametrize(
    ("name", "version", "minimum", "standing"),
    [
        ("torch", "2.13.0", "2.4", "tested"),
        ("torch", "2.13.0+cpu", "2.4", "tested"),
        ("torch", "2.13.0+cu128", None, "tested"),
        ("torch", "2.6.0", "2.4", "supported"),
        ("torch", "2.10", "2.4", "supported"),
        ("torch", "2.3.1", "2.4", "unknown"),
        ("torch", "99.0", "2.4", "unknown"),
        ("torch", "2.6.0", None, "unknown"),
        ("something-else", "1.0", "0.5", "unknown"),
        ("ms_swift", "4.6.0", None, "tested"),
    ],
)
def test_a_version_is_tested_supported_or_unknown(name, version, minimum, standing):
    assert judge_version(name, version, minimum) == standing


def test_a_version_whose_arguments_are_shipped_is_supported(monkeypatch, tmp_path):
    (tmp_path / "old.json").write_text('{"sets": [{"ms-swift": "3.6.4"}, {"ms-swift": "4.6.0"}]}')
    monkeypatch.setattr(environments, "_SNAPSHOTS", tmp_path)
    environments._snapshot_versions.cache_clear()
    try:
        assert judge_version("ms-swift", "3.6.4", "4.0") == "supported"
        assert judge_version("ms-swift", "3.6.5", "4.0") == "unknown"
    finally:
        environments._snapshot_versions.cache_clear()


@pytest.mark.parametrize("name", BACKENDS)
def test_a_backends_environment_holds_all_that_it_asks_for_and_not_orch(name):
    names = {normalise(environments._name(line)) for line in find_requirements(BACKENDS[name])}
    assert {normalise(needed) for needed in BACKENDS[name].distributions} <= names
    assert "orch-finetune" not in names
    assert "matplotlib" not in names  # the report runs in Orch's own Python


def test_every_requirement_is_one_of_the_tested_set():
    for backend in BACKENDS.values():
        for line in find_requirements(backend):
            assert environments._name(line) in load_tested(), line


def test_the_extras_are_the_source_of_what_is_needed(monkeypatch):
    lines = [
        "click>=8.1", "orch-finetune[report]; extra == 'swift'", 'ms-swift >= 4.0 ; extra == "swift"',
        "matplotlib>=3; extra == 'report'", "matplotlib>=3; extra == 'swift'", "torch; extra == 'other'",
    ]  # fmt: skip
    monkeypatch.setattr(importlib.metadata, "requires", lambda _name: lines)
    found = find_requirements(BACKENDS["swift"])
    assert found[0] == "ms-swift >= 4.0"
    assert "torch" in found  # the backend says so itself
    assert find_minimum(BACKENDS["swift"], "ms_swift") == "4.0"
    assert find_minimum(BACKENDS["swift"], "torch") is None


def test_without_its_metadata_orch_does_not_guess(monkeypatch):
    def none(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "requires", none)
    with pytest.raises(PreflightError, match="is not installed here"):
        find_requirements(BACKENDS["swift"])
