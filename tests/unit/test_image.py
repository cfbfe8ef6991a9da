"""The Dockerfile: pinned, without secrets, not as root, in step with pyproject.toml; its build steps are executed."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def read_instructions(text: str) -> list[tuple[str, str]]:
    """Return (instruction, words) of a Dockerfile; comments are left out, continued lines are joined."""
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    joined = "\n".join(lines).replace("\\\n", " ")
    return [(name, words) for name, _, words in (line.partition(" ") for line in joined.splitlines())]


INSTRUCTIONS = read_instructions((ROOT / "Dockerfile").read_text(encoding="utf-8"))
WORDS = {name: [words for found, words in INSTRUCTIONS if found == name] for name, _ in INSTRUCTIONS}
ARGUMENTS = dict(words.split("=", 1) for words in WORDS["ARG"])
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def test_the_image_has_a_pinned_python_that_the_project_supports():
    assert [words.split(" AS ")[0] for words in WORDS["FROM"]] == ["python:${PYTHON}-slim-bookworm"] * 2
    version = tuple(map(int, ARGUMENTS["PYTHON"].split(".")))
    minimum = tuple(map(int, PROJECT["requires-python"].removeprefix(">=").split(".")))
    assert len(version) == 3
    assert version[:2] >= minimum


def test_every_installation_keeps_to_the_tested_versions():
    installed = [line for line in WORDS["RUN"] if "pip install" in line]
    assert len(installed) == 2
    assert all("--no-cache-dir -c " in line and "constraints.txt" in line for line in installed)
    assert ARGUMENTS["EXTRAS"].strip("[]") in PROJECT["optional-dependencies"]


def test_the_command_runs_as_a_user_without_rights_and_nothing_secret_is_set():
    assert WORDS["USER"][-1] == "1000:1000"
    last = [name for name, _ in INSTRUCTIONS].index("USER")
    assert {name for name, _ in INSTRUCTIONS[last:]} == {"USER", "WORKDIR", "ENTRYPOINT", "CMD"}
    said = " ".join(WORDS["ARG"] + WORDS["ENV"])
    assert not re.search(r"token|key|secret|password", said, re.IGNORECASE)
    assert "ADD" not in WORDS


def list_context() -> list[Path]:
    """Return what .dockerignore lets through: all is left out but what it names."""
    lines = [line for line in (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines() if line[:1] != "#"]
    assert lines[0] == "*"
    return [ROOT / line.removeprefix("!") for line in lines if line.startswith("!")]


@pytest.fixture
def context(tmp_path) -> Path:
    """Return the folder that a build gets."""
    folder = tmp_path / "src"
    for path in list_context():
        target = folder / path.relative_to(ROOT)
        target.parent.mkdir(parents=True, exist_ok=True)
        if path.is_dir():
            shutil.copytree(path, target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copyfile(path, target)
    return folder


def test_the_steps_make_the_wheel_and_install_it_with_what_the_build_asks_for(context, tmp_path):
    """The RUN lines as they stand, in a folder instead of the image's root; only pip is a recorder, for want of a net."""
    programs, dist, target = tmp_path / "bin", tmp_path / "dist", tmp_path / "opt" / "orch"
    for folder in (programs, target):
        folder.mkdir(parents=True)
    (programs / "pip").write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" > {tmp_path}/pip.txt\n')
    (programs / "pip").chmod(0o755)
    (programs / "python").write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')  # a link would lose its packages
    (programs / "python").chmod(0o755)
    build, install, users = WORDS["RUN"]

    def run(line: str, **variables: str) -> subprocess.CompletedProcess[str]:
        line = re.sub(r"(?<![\w/.])/(dist|opt/orch)\b", lambda found: str(tmp_path / found[1]), line)
        env = {**os.environ, "PATH": f"{programs}:{Path(sys.executable).parent}:/usr/bin:/bin", **variables}
        return subprocess.run(["sh", "-c", line], cwd=context, env=env, capture_output=True, text=True, check=False)

    done = run(build)
    assert done.returncode == 0, done.stdout + done.stderr
    (wheel,) = dist.iterdir()
    assert (tmp_path / "pip.txt").read_text().split() == [
        "install",
        "--no-cache-dir",
        "-c",
        "constraints.txt",
        "build",
        "hatchling",
    ]
    assert WORDS["COPY"][1:] == ["constraints.txt /opt/orch/", "--from=build /dist/ /opt/orch/"]
    shutil.copy(wheel, target)

    def asked(**variables: str) -> list[str]:
        assert run(install, **variables).returncode == 0
        return (tmp_path / "pip.txt").read_text().split()

    common = ["install", "--no-cache-dir", "-c", f"{target}/constraints.txt"]
    named = f"{target}/{wheel.name}"
    assert asked(TORCH="cuda", EXTRAS="[all]") == [*common, f"{named}[all]"]
    assert asked(TORCH="cuda", EXTRAS="") == [*common, named]
    cpu = asked(TORCH=ARGUMENTS["TORCH"], EXTRAS=ARGUMENTS["EXTRAS"])
    assert cpu[4:] == ["--extra-index-url", "https://download.pytorch.org/whl/cpu", f"{named}{ARGUMENTS['EXTRAS']}"]
    wrong = run(install, TORCH="rocm", EXTRAS="")
    assert (wrong.returncode, wrong.stderr.strip()) == (1, "TORCH is cpu or cuda, not rocm")
    assert users.split()[0] == "useradd"
