"""Building an environment: really, from a tiny wheel of the test's own; refused, failed, interrupted and repeated."""

from __future__ import annotations

import base64
import hashlib
import json
import sys
import zipfile
from pathlib import Path

import pytest
from click.testing import CliRunner

from orchestrator.backends import BACKENDS
from orchestrator.checks import environments as create
from orchestrator.checks.environments import (
    Environment,
    create_environment,
    environments_home,
    find_environment,
    hold_folder,
    plan_environment,
    write_marker,
)
from orchestrator.cli import orch
from orchestrator.errors import PreflightError
from orchestrator.machine.process import Completed


class Toy:
    """A backend that needs one tiny package."""

    name = "toy"
    extra = "toy"
    distributions = ("toy-trainer",)


def write_wheel(folder: Path, version: str, code: str = "") -> None:
    """Write a wheel of one empty module, as the format asks (PEP 427)."""
    folder.mkdir(parents=True, exist_ok=True)
    info = f"toy_trainer-{version}.dist-info"
    files = {
        "toy_trainer.py": code,
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: toy-trainer\nVersion: {version}\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = []
    for name, text in files.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()
        record.append(f"{name},sha256={digest},{len(text)}")
    files[f"{info}/RECORD"] = "\n".join([*record, f"{info}/RECORD,,", ""])
    with zipfile.ZipFile(folder / f"toy_trainer-{version}-py3-none-any.whl", "w") as archive:
        for name, text in files.items():
            archive.writestr(name, text)


@pytest.fixture
def toy(tmp_path, monkeypatch):
    """Plan the toy's environment with pip's own configuration pointing at a folder of wheels, and nowhere else."""
    wheels, constraints = tmp_path / "wheels", tmp_path / "constraints.txt"
    constraints.write_text("toy_trainer==1.2\n")
    monkeypatch.setattr(create, "find_constraints", lambda: constraints)
    monkeypatch.setattr(create, "find_requirements", lambda _backend: ("toy-trainer>=1",))
    monkeypatch.setitem(create._MODULES, "toy-trainer", "toy_trainer")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheels))
    write_wheel(wheels, "1.2")
    write_wheel(wheels, "1.3")
    return wheels


def test_an_environment_is_built_with_the_tested_version_and_what_failed_is_repeated(toy, tmp_path, capfd):
    (toy / "toy_trainer-1.2-py3-none-any.whl").unlink()
    with pytest.raises(PreflightError, match="exit code 1 from: .* -m pip install") as failed:
        create_environment(plan_environment(Toy(), tmp_path / "env", None))
    assert "goes on in" in failed.value.problems[0].hint
    shown = capfd.readouterr()
    assert "toy-trainer" in shown.err  # pip's own words are passed on
    assert shown.out == ""
    assert find_environment(tmp_path / "env").complete is False

    write_wheel(toy, "1.2")
    built = create_environment(plan_environment(Toy(), tmp_path / "env", None))
    assert built.complete
    assert built.versions == {"toy-trainer": "1.2"}  # 1.3 is there, and was not tested
    assert find_environment(tmp_path / "env") == built
    with pytest.raises(PreflightError, match="is a complete environment for toy"):
        plan_environment(Toy(), tmp_path / "env", None)


@pytest.fixture
def pretend(monkeypatch):
    """Let every command succeed without being run, and answer the look at what was installed."""

    def pretend(answer: Completed) -> list[tuple[str, ...]]:
        ran: list[tuple[str, ...]] = []
        monkeypatch.setattr(create, "run_visibly", lambda argv: ran.append(argv) or 0)
        monkeypatch.setattr(create, "run", lambda *_args, **_more: answer)
        return ran

    return pretend


def test_what_cannot_be_imported_is_not_complete(toy, tmp_path, pretend):
    pretend(Completed((), 1, "", "Traceback\nImportError: libcudart.so.12: cannot open shared object file\n"))
    with pytest.raises(PreflightError, match="cannot be imported: ImportError: libcudart"):
        create_environment(plan_environment(Toy(), tmp_path / "env", None))
    assert find_environment(tmp_path / "env").complete is False


def test_an_import_that_never_ends_is_said(toy, tmp_path, pretend):
    pretend(Completed((), None, "", ""))
    with pytest.raises(PreflightError, match="no answer within 300 s"):
        create_environment(plan_environment(Toy(), tmp_path / "env", None))


def test_lines_that_imports_print_do_not_spoil_the_versions(toy, tmp_path, pretend):
    ran = pretend(Completed((), 0, 'a warning\n\n{"toy-trainer": "1.2"}\n', ""))
    assert create_environment(plan_environment(Toy(), tmp_path / "env", None)).versions == {"toy-trainer": "1.2"}
    assert [argv[1:3] for argv in ran] == [("-m", "venv"), ("-m", "pip")]


def test_a_folder_of_something_else_is_refused(tmp_path):
    (tmp_path / "thesis.txt").write_text("")
    with pytest.raises(PreflightError, match="is no environment that orch has built"):
        plan_environment(BACKENDS["swift"], tmp_path, None)
    with pytest.raises(PreflightError, match="is no environment that orch has built"):
        plan_environment(BACKENDS["swift"], tmp_path / "thesis.txt", None)


def test_an_environment_of_another_backend_is_refused(tmp_path):
    write_marker(Environment(tmp_path, "flagembedding", complete=False))
    with pytest.raises(PreflightError, match="is an environment for flagembedding"):
        plan_environment(BACKENDS["swift"], tmp_path, None)


def test_a_marker_that_cannot_be_read_is_none(tmp_path):
    (tmp_path / "orch-env.json").write_text('{"backend": "swift"')
    assert find_environment(tmp_path) is None


def test_two_builders_never_share_a_folder(tmp_path):
    refused = pytest.raises(PreflightError, match="another `orch env create` works in")
    with hold_folder(tmp_path / "env"), refused, hold_folder(tmp_path / "env"):
        pass


def test_a_folder_that_cannot_be_made_is_said(tmp_path):
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(PreflightError, match="cannot be written to: Not a directory"),
        hold_folder(tmp_path / "file" / "env"),
    ):
        pass


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (Completed((), 0, "3 9\n", ""), "is Python 3.9"),
        (Completed((), 1, "", ""), "cannot be run"),
        (Completed((), 0, "what\n", ""), "cannot be run"),
    ],
)
def test_a_python_that_will_not_do_is_refused(monkeypatch, tmp_path, answer, says):
    monkeypatch.setattr(create, "run", lambda *_args, **_more: answer)
    with pytest.raises(PreflightError, match=says):
        plan_environment(BACKENDS["swift"], tmp_path / "env", sys.executable)


def test_a_python_that_is_not_there_is_refused(tmp_path):
    for name in ("no-such-python", "/no/such/python", "~no-such-user/python", "./" + "x" * 5000):
        with pytest.raises(PreflightError, match="no such interpreter"):
            plan_environment(BACKENDS["swift"], tmp_path / "env", name)


def invoke(*argv: str):
    return CliRunner().invoke(orch, list(argv), catch_exceptions=False)


def test_a_dry_run_prints_the_commands_and_the_recipes_lines_and_writes_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    said = invoke("env", "create", "sentence-transformers", "--dry-run").output
    folder = environments_home() / "sentence-transformers"
    assert folder == tmp_path / "orch" / "envs" / "sentence-transformers"
    venv, pip, *lines = said.splitlines()
    assert venv == f"{sys.executable} -m venv {folder}"
    assert " -c " in pip
    assert "'sentence-transformers>=6.1'" in pip
    assert "orch-finetune" not in pip
    assert lines[-2:] == ["launch:", f"  python: {folder}/bin/python"]
    assert list(tmp_path.iterdir()) == []


def test_a_dry_run_for_programs_holds_the_same(tmp_path):
    data = json.loads(invoke("env", "create", "swift", "--path", str(tmp_path / "e"), "--dry-run", "--json").output)[
        "data"
    ]
    assert data["complete"] is False
    assert data["python"] == str(tmp_path / "e" / "bin" / "python")
    assert len(data["commands"]) == 2


def test_environments_are_listed_with_what_is_missing(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    assert "no environments in" in invoke("env", "list").output
    home = environments_home()
    (home / "not-ours").mkdir(parents=True)
    for name, complete in (("swift", True), ("flagembedding", False)):
        (home / name).mkdir()
        write_marker(Environment(home / name, name, complete=complete, versions={"torch": "2.13.0"}))
    first, second = invoke("env", "list").output.splitlines()
    assert "flagembedding" in first
    assert "not finished" in first
    assert "complete" in second
    data = json.loads(invoke("env", "list", "--json").output)["data"]
    assert [(row["backend"], row["complete"]) for row in data] == [("flagembedding", False), ("swift", True)]


def test_an_unknown_backend_is_a_mistake_of_the_command_line():
    assert CliRunner().invoke(orch, ["env", "create", "tensorflow"]).exit_code == 2
