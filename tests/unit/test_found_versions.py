"""What is installed is found wherever the stages of a run will find it, and a user without a home is no obstacle."""

from __future__ import annotations

import os
import pwd
import sys
import tempfile
from pathlib import Path

import pytest

from orchestrator.checks.environments import environments_home
from orchestrator.machine import packages
from orchestrator.machine.packages import find_versions
from orchestrator.machine.places import find_orch_cache


@pytest.fixture
def python(tmp_path):
    """Another interpreter than Orch's own, so that it has to be asked."""
    path = tmp_path / "bin" / "python"
    path.parent.mkdir()
    path.symlink_to(sys.executable)
    return str(path)


@pytest.fixture
def own(monkeypatch):
    """Return what is found for this interpreter where its path is these folders."""

    def own(*folders: Path) -> dict[str, str]:
        monkeypatch.setattr(sys, "path", [str(folder) for folder in folders])
        packages._find_all.cache_clear()
        return find_versions(sys.executable)

    yield own
    packages._find_all.cache_clear()


def install(folder: Path, name: str, version: str, entry: str) -> Path:
    (folder / entry).mkdir(parents=True)
    metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
    for file in ("METADATA", "PKG-INFO"):
        (folder / entry / file).write_text(metadata)
    return folder


def test_packages_that_the_shell_s_path_leads_to_are_installed(python, tmp_path, monkeypatch):
    site = install(tmp_path / "site", "FlagEmbedding", "9.9.9", "flagembedding-9.9.9.dist-info")
    monkeypatch.setenv("PYTHONPATH", str(site))
    assert find_versions(python)["FlagEmbedding"] == "9.9.9"


def test_what_lies_in_the_working_directory_is_not_run(python, tmp_path, monkeypatch):
    (tmp_path / "json.py").write_text("raise SystemExit(1)")
    install(tmp_path, "FlagEmbedding", "9.9.9", "flagembedding-9.9.9.dist-info")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PYTHONPATH", raising=False)
    found = find_versions(python)
    assert found
    assert found.get("FlagEmbedding") != "9.9.9"


@pytest.mark.parametrize(
    ("name", "entry"),
    [
        ("torch", "torch-2.5.1-py3.11.egg-info"),  # conda's package of PyTorch
        ("torch", "torch-2.5.1.egg-info"),
        ("torch", "torch-2.5.1.dist-info"),
        ("flash-attn", "flash_attn-2.5.1.dist-info"),
        ("ms-swift", "ms-swift-2.5.1.dist-info"),
    ],
)
def test_both_forms_of_an_installed_package_are_known(own, tmp_path, name, entry):
    found = own(install(tmp_path, name, "2.5.1", entry))
    assert {key: found[key] for key in found if key != "python"} == {name: "2.5.1"}


def test_what_is_no_package_is_none(own, tmp_path):
    for entry in ("torch.egg-info", "torch", "torch-2.5.1", "2.5.1.dist-info"):
        (tmp_path / entry).mkdir()
    assert own(tmp_path, tmp_path / "absent").keys() == {"python"}


def test_a_user_without_a_home_has_a_folder_among_the_temporary_ones(monkeypatch):
    def find_nobody(uid):
        raise KeyError(uid)

    for name in ("HOME", "XDG_CACHE_HOME", "XDG_DATA_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(pwd, "getpwuid", find_nobody)
    home = Path(tempfile.gettempdir()) / f"home-{os.getuid()}"
    assert find_orch_cache() == home / ".cache" / "orch"
    assert environments_home() == home / ".local" / "share" / "orch" / "envs"
