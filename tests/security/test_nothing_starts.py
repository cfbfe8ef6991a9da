"""`render` and `--dry-run` start no interpreter that a recipe or a run folder names; `check` may."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from orchestrator import checks
from orchestrator.cli import main
from orchestrator.machine import packages
from orchestrator.machine.packages import find_packages, find_path, find_versions


@pytest.fixture
def trap(folder: Path) -> tuple[Path, Path]:
    """An "interpreter" that leaves a mark, and its mark."""
    python, mark = folder / "python", folder / "pwned"
    python.write_text(f'#!/bin/sh\ntouch {mark}\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)
    return python, mark


def call(*argv: object) -> int:
    with pytest.raises(SystemExit) as ended:
        main(list(map(str, argv)))
    return int(ended.value.code or 0)


@pytest.mark.parametrize("words", [(), ("--explain",), ("--json",), ("-o", "rendered"), ("--smoke",)])
def test_render_starts_no_interpreter_of_the_recipe(folder, trap, words, capsys, monkeypatch):
    python, mark = trap
    monkeypatch.chdir(folder)
    assert call("render", "recipe.yaml", "--set", f"launch.python={python}", "--hardware", "cpu", *words) == 0
    assert not mark.exists()
    assert "is not known without starting it" in capsys.readouterr().err


def test_check_asks_an_interpreter_whose_folders_do_not_tell(folder, trap, monkeypatch):
    monkeypatch.setattr(checks, "CHECKS", ())  # its versions are asked for before any check, which would load libraries
    python, mark = trap
    call("check", folder / "recipe.yaml", "--set", f"launch.python={python}", "--hardware", "cpu")
    assert mark.exists()


def test_what_the_folders_say_is_what_the_interpreter_says(monkeypatch):
    monkeypatch.delenv("PYTHONPATH", raising=False)
    python = str(Path(sys.executable).with_name("python3"))  # another name of the same, so that it is not Orch's own
    if python == sys.executable:
        python = str(Path(sys.executable).with_name("python"))
    from orchestrator.machine.packages import DISTRIBUTIONS, OPTIONAL, _probe, spell

    said = _probe(python)
    names = {spell(name): name for name in ("python", *DISTRIBUTIONS, *OPTIONAL)}
    assert find_versions(python, may_run=False) == {names[name]: said[name] for name in said if name in names}
    assert find_packages(python, may_run=False) == said


@pytest.fixture
def install(tmp_path):
    """Return how to lay out an interpreter and its packages: files that say what they are, and are none."""

    def make(name: str, *sites: str) -> Path:
        python = tmp_path / "bin" / name
        python.parent.mkdir(exist_ok=True)
        python.write_bytes(b"\x7fELF")
        for site in sites:
            (tmp_path / site / "torch-2.5.1.dist-info").mkdir(parents=True)
        return python

    return make


def test_a_system_python_is_told_by_its_name_and_headers(install, tmp_path):
    python = install("python3.12", "lib/python3.12/site-packages", "lib/python3.11/site-packages")
    assert find_versions(str(python), may_run=False) == {"python": "3.12", "torch": "2.5.1"}
    header = tmp_path / "include" / "python3.12" / "patchlevel.h"
    header.parent.mkdir(parents=True)
    header.write_text('#define PY_VERSION      	"3.12.4"\n')
    found = find_path(str(python))
    assert found is not None
    assert found[0] == "3.12.4"


def test_a_virtual_environment_is_told_by_its_file_and_its_system_s_packages_by_its_home(install, tmp_path):
    base = install("python3.12", "lib/python3.12/dist-packages")
    own = tmp_path / "env"
    (own / "bin").mkdir(parents=True)
    (own / "bin" / "python").symlink_to(base)
    (own / "lib" / "python3.12" / "site-packages" / "peft-0.9.dist-info").mkdir(parents=True)
    settings = f"home = {base.parent}\ninclude-system-site-packages = false\nversion = 3.12.7\n"
    (own / "pyvenv.cfg").write_text(settings)
    python = str(own / "bin" / "python")
    assert find_versions(python, may_run=False) == {"python": "3.12.7", "peft": "0.9"}
    packages._find_all.cache_clear()
    (own / "pyvenv.cfg").write_text(settings.replace("false", "true"))
    assert find_versions(python, may_run=False) == {"python": "3.12.7", "peft": "0.9", "torch": "2.5.1"}


def test_what_is_no_interpreter_or_hides_one_is_not_told(install, tmp_path):
    assert find_path(str(install("true", "lib/python3.12/site-packages"))) is None
    assert find_path(str(tmp_path / "bin" / "absent")) is None
    (tmp_path / "lib" / "python3.11").mkdir()
    assert find_path(str(install("python3"))) is None  # which of the two it is, its files do not say
