"""What is installed from a wheel or an sdist: templates, recipes and data; from a core alone it checks and renders."""

from __future__ import annotations

import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import tarfile
import venv
from collections.abc import Iterator
from pathlib import Path

import pytest

EXTRA = re.compile(r"extra\s*==")


def build(source: Path, target: Path, form: str) -> Path:
    """Build a wheel or an sdist of a source tree, without a network; return the file."""
    done = [sys.executable, "-m", "hatchling", "build", "-t", form, "-d", str(target)]
    subprocess.run(done, cwd=source, check=True, capture_output=True)
    (found,) = target.glob("*.whl" if form == "wheel" else "*.tar.gz")
    return found


@pytest.fixture(scope="module")
def wheel(root, tmp_path_factory) -> Path:
    return build(root, tmp_path_factory.mktemp("wheel"), "wheel")


def find_core(name: str = "orch-finetune") -> Iterator[importlib.metadata.Distribution]:
    """Yield what Orch needs without an extra, and what that needs, as it is installed here."""
    for line in importlib.metadata.requires(name) or ():
        needed = re.match(r"[\w.-]+", line)
        if EXTRA.search(line) or needed is None:
            continue
        try:
            found = importlib.metadata.distribution(needed[0])
        except importlib.metadata.PackageNotFoundError:
            assert ";" in line, line  # for another system, or an older Python
            continue
        yield found
        yield from find_core(found.metadata["Name"])


@pytest.fixture(scope="module")
def core(wheel, tmp_path_factory) -> Path:
    """Return an environment with the wheel and the core dependencies, which pip finds complete."""
    folder = tmp_path_factory.mktemp("core") / "env"
    venv.create(folder, symlinks=True)
    python = folder / "bin" / "python"
    (site,) = folder.glob("lib/python*/site-packages")
    for found in {found.metadata["Name"]: found for found in find_core()}.values():
        for file in found.files or ():
            if ".." not in file.parts and "__pycache__" not in file.parts:
                (site / file).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(file.locate(), site / file)
    pip = [sys.executable, "-m", "pip", "--python", str(python)]
    subprocess.run([*pip, "install", "--quiet", "--no-deps", "--no-index", str(wheel)], check=True, capture_output=True)
    complete = subprocess.run([*pip, "check"], capture_output=True, text=True, check=False)
    assert complete.returncode == 0, complete.stdout
    return folder


def call(core: Path, folder: Path, *words: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run the installed command, with nothing of this checkout in reach."""
    env = {name: value for name, value in os.environ.items() if name not in {"PYTHONPATH", "ORCH_RUNS"}}
    return subprocess.run(
        [str(core / "bin" / "orch"), *words], cwd=folder, env={**env, **variables}, capture_output=True, text=True,
        check=False,
    )  # fmt: skip


@pytest.fixture(scope="module")
def example(core, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("user")
    done = call(core, folder, "init", "--example")
    assert done.returncode == 0, done.stderr
    return folder / "orch-example"


def test_the_wheel_holds_every_table_and_template(wheel, core, root):
    (package,) = core.glob("lib/python*/site-packages/orchestrator")
    assert (package / "backends" / "arguments" / "flagembedding.decoder_only.json").exists()
    for templates in ("workers/cards", "workers/chat/templates"):
        names = {path.name for path in (root / "orchestrator" / templates).iterdir()}
        assert {path.name for path in (package / templates).iterdir()} == names
    for table in ("logs/rules.yaml", "checks/known_bugs.yaml"):
        assert (package / table).read_bytes() == (root / "orchestrator" / table).read_bytes()
    assert (package / "constraints.txt").read_bytes() == (root / "constraints.txt").read_bytes()


def test_an_sdist_alone_makes_the_wheel_that_the_checkout_makes(wheel, root, tmp_path):
    with tarfile.open(build(root, tmp_path, "sdist")) as archive:
        archive.extractall(tmp_path, filter="data")
    (source,) = (path for path in tmp_path.iterdir() if path.is_dir())
    assert build(source, tmp_path / "again", "wheel").read_bytes() == wheel.read_bytes()


def test_the_example_holds_every_shipped_recipe_and_the_files_that_it_names(example, root):
    assert {path.name for path in (example / "recipes").glob("*.yaml")} == {
        path.name for path in (root / "recipes").glob("*.yaml")
    }
    named = [
        name for path in (example / "recipes").glob("*.yaml")
        for name in re.findall(r"\.\./datasets_example/[\w.]+", path.read_text(encoding="utf-8"))
    ]  # fmt: skip
    assert len(named) > 30
    assert not [name for name in named if not (example / "recipes" / name).is_file()]
    assert not list(example.rglob("*.py"))


def test_every_shipped_recipe_but_those_of_a_package_is_checked_and_rendered_without_a_backend(core, example):
    for recipe in ("qwen3_reranker", "bert_pointwise"):
        path = f"recipes/{recipe}.yaml"
        checked = call(core, example, "check", path, "--hardware", "gpu")
        assert (checked.returncode, f"{path}: all right" in checked.stdout) == (0, True), checked.stderr
        rendered = call(core, example, "render", path)
        assert rendered.returncode == 0, rendered.stderr
        assert f"{example}/datasets_example/" in rendered.stdout
        assert re.search(r"mkdir -p -- stages/\d+-train\n", rendered.stdout)


def test_a_check_of_this_machine_says_how_the_backend_is_installed(core, example):
    done = call(core, example, "check", "recipes/qwen3_reranker.yaml")
    python = core / "bin" / "python"
    assert done.returncode == 4
    assert "the backend flagembedding is not installed" in done.stderr
    (constraints,) = core.glob("lib/python*/site-packages/orchestrator/constraints.txt")
    # An environment without pip, as `uv tool` makes it.
    assert f"uv pip install --python {python} -c {constraints} 'orch-finetune[flagembedding]'" in done.stderr
    assert "orch env create flagembedding" in done.stderr


def test_an_example_is_not_written_over_files_that_are_there(core, example):
    changed = example / "recipes" / "demo.yaml"
    shipped = changed.read_text(encoding="utf-8")
    changed.write_text("name: mine\n", encoding="utf-8")
    refused = call(core, example.parent, "init", "--example")
    assert refused.returncode == 9
    assert "exists" in refused.stderr
    assert changed.read_text(encoding="utf-8") == "name: mine\n"
    assert call(core, example.parent, "init", "--example", "--force").returncode == 0
    assert changed.read_text(encoding="utf-8") == shipped


def test_the_man_page_is_found_where_the_command_is(core, root):
    page = core / "share" / "man" / "man1" / "orch.1"
    assert page.read_bytes() == (root / "docs" / "orch.1").read_bytes()


@pytest.mark.parametrize(
    ("line", "runs", "expected"),
    [
        ("orch re", None, ["plain,resume", "plain,render", "plain,reproduce"]),
        ("orch show q", None, ["plain,qwen-1", "plain,qwen-2"]),
        ("orch compare qwen-1 qwen-2", None, ["plain,qwen-2"]),
        ("orch show --runs elsewhere ", None, ["plain,other"]),
        ("orch logs ", "elsewhere", ["plain,other"]),
        ("orch show [", None, ["dir,["]),
        ("orch run recipes/q", None, ["file,recipes/q"]),
        ("orch nonsense re", None, ["plain,resume", "plain,render", "plain,reproduce"]),
    ],
)
def test_a_shell_completes_commands_and_the_names_of_runs(core, tmp_path, line, runs, expected):
    for run in ("runs/qwen-1", "runs/qwen-2", "elsewhere/other"):
        (tmp_path / run).mkdir(parents=True)
        (tmp_path / run / "plan.json").touch()
    variables = {"COMP_WORDS": line, "COMP_CWORD": str(line.count(" ")), "_ORCH_COMPLETE": "bash_complete"}
    done = call(core, tmp_path, **variables, **({"ORCH_RUNS": runs} if runs else {}))
    assert (done.returncode, done.stderr) == (0, "")
    assert [found for found in done.stdout.splitlines() if found and not found.startswith("plain,--")] == expected
