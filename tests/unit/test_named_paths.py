"""Files and interpreters as people name them: what is not there, or cannot be, is None and no error."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from orchestrator.machine.places import find_file, find_python


@pytest.mark.parametrize("name", ["none", "folder", "~no-such-user/file", "x" * 5000, f"./{'x' * 5000}"])
def test_what_is_no_file_is_none(tmp_path, name):
    (tmp_path / "folder").mkdir()
    assert find_file(tmp_path, name) is None
    assert find_python(tmp_path, name) is None


def test_a_name_starts_from_the_folder_the_root_or_a_home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    for file in (tmp_path / "here", tmp_path / "home" / "there"):
        file.write_text("")
    assert find_file(tmp_path, "here") == tmp_path / "here"
    assert find_file(Path("/nowhere"), str(tmp_path / "here")) == tmp_path / "here"
    assert find_file(Path("/nowhere"), "~/there") == tmp_path / "home" / "there"


def test_a_file_that_may_not_be_executed_is_no_interpreter(tmp_path):
    path = tmp_path / "python"
    path.write_text("")
    assert find_python(tmp_path, "./python") is None
    path.chmod(0o755)
    assert find_python(tmp_path, "./python") == str(path)


def test_an_interpreter_is_absolute_and_a_venvs_link_stays_one(tmp_path, monkeypatch):
    (tmp_path / "bin").mkdir()
    link = tmp_path / "bin" / "python-of-a-venv"
    link.symlink_to(sys.executable)
    monkeypatch.chdir(tmp_path)
    assert find_python(Path(), "bin/python-of-a-venv") == str(link)
    assert find_python(Path("/nowhere"), "python-of-a-venv") is None
    monkeypatch.setenv("PATH", f"bin{os.pathsep}{os.environ['PATH']}")
    assert find_python(Path("/nowhere"), "python-of-a-venv") == str(link)
