"""The documents say what the code says, and their commands work. `python tests/docs/test_docs.py` writes the tree."""

from __future__ import annotations

import ast
import importlib.util
import os
import re
import shlex
import shutil
import subprocess
import sys
import textwrap
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted(
    [
        *ROOT.glob("*.md"),
        *(ROOT / "docs").rglob("*.md"),
        *(ROOT / "datasets_example").glob("*.md"),
    ]
)
READMES = (ROOT / "README.md", ROOT / "README.zh-CN.md")
TREE_PAGE = ROOT / "docs" / "architecture.md"
# Commands of the README that other tests run, or that need a finished run: tests/e2e, CI.
COVERED_ELSEWHERE = {
    "make demo",
    "make test",
    "source .venv/bin/activate",
    "pip install -c constraints.txt -e '.[all]'",
    "orch run recipes/e5_embedding.yaml --smoke",
    "orch run recipes/qwen3_embedding_lora.yaml --smoke",
    "orch run recipes/qwen3_sft_lora.yaml --smoke",
    "orch run recipes/qwen3_reranker.yaml --smoke",
    "orch resume",
    "orch submit recipes/qwen3_reranker.yaml --to slurm",  # tests/cluster: a real Slurm takes such a job
    "orch reproduce",
    "orch predict",
}
FOLDERS = "orchestrator|recipes|templates|datasets_example|docs|tests|benchmarks"
_FENCE = re.compile(r"^```(?P<info>[^\n]*)\n(?P<body>.*?)^```$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\]\((?P<target>[^)\s]+)\)")
_NAME_IN = re.compile(r"`(?P<name>\w+)`\s+of\s+`(?P<path>orchestrator/[\w/]+\.py)`")
_PATH = re.compile(rf"`(?P<path>(?:(?:{FOLDERS})/[\w./*-]*|Makefile|pyproject\.toml|constraints\.txt))`")


def bash_blocks(page: Path) -> list[tuple[str, str]]:
    """Return (info string, text) of every block whose language is bash."""
    found = _FENCE.finditer(page.read_text(encoding="utf-8"))
    return [(match["info"].strip(), match["body"]) for match in found if match["info"].split()[:1] == ["bash"]]


def commands_of(info: str) -> list[str]:
    """Return the commands of README.md's blocks with that info string, in order."""
    lines = [line for kind, text in bash_blocks(READMES[0]) if kind == info for line in text.splitlines()]
    return [line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")]


def is_covered_elsewhere(command: str) -> bool:
    words = command.partition(" #")[0].rstrip()
    return any(words == known or words.startswith(f"{known} -") for known in COVERED_ELSEWHERE)


def build_tree() -> str:
    """Return the annotated tree: one line a module, with the first line of its docstring."""

    def place(path: Path) -> tuple[bool, tuple[str, ...], bool, str]:
        folders = path.relative_to(ROOT / "orchestrator").parts[:-1]
        return bool(folders), folders, path.name != "__init__.py", path.name

    lines = []
    for path in sorted((ROOT / "orchestrator").rglob("*.py"), key=place):
        docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
        lines.append(f"    {path.relative_to(ROOT).as_posix()} — {docstring.split(chr(10))[0]}")
    return "\n".join(lines)


def build_layers() -> str:
    """Return the layers of import-linter's contract, one line a layer; a package ends with a slash."""
    with (ROOT / "pyproject.toml").open("rb") as stream:
        contracts = tomllib.load(stream)["tool"]["importlinter"]["contracts"]
    (layers,) = (contract["layers"] for contract in contracts if contract["type"] == "layers")
    lines = []
    for layer in layers:
        names = [name.strip() for name in layer.split("|")]
        shown = [f"{name}/" if (ROOT / "orchestrator" / name).is_dir() else name for name in names]
        wrapped = textwrap.wrap(" · ".join(shown), 112, subsequent_indent="  ", break_on_hyphens=False)
        lines += [f"    {line}" for line in wrapped]
    return "\n".join(lines)


def split_page(what: str) -> tuple[str, str, str]:
    """Return the architecture page before its `what` (tree or layers), that itself, and what follows."""
    head, rest = TREE_PAGE.read_text(encoding="utf-8").split(f"<!-- {what} -->\n\n")
    found, tail = rest.split(f"\n\n<!-- /{what} -->")
    return head, found, tail


def heading_anchors(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_relative_link_leads_somewhere(page):
    broken = []
    for match in _LINK.finditer(_FENCE.sub("", page.read_text(encoding="utf-8"))):
        target, _, anchor = match["target"].partition("#")
        if re.match(r"[a-z]+:", target):
            continue
        goal = (page.parent / target).resolve() if target else page
        if not goal.exists() or (anchor and anchor not in heading_anchors(goal)):
            broken.append(match["target"])
    assert not broken


# A decision is a record of its day, and keeps the paths of its day.
OF_TODAY = [page for page in PAGES if page.parent.name != "decisions"]


@pytest.mark.parametrize("page", OF_TODAY, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_path_of_the_repository_that_is_named_exists(page):
    named = {match["path"] for match in _PATH.finditer(page.read_text(encoding="utf-8"))}
    assert not [path for path in sorted(named) if not (any(ROOT.glob(path)) if "*" in path else (ROOT / path).exists())]


@pytest.mark.parametrize("page", OF_TODAY, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_name_that_is_said_to_stand_in_a_module_stands_there(page):
    for match in _NAME_IN.finditer(page.read_text(encoding="utf-8")):
        code = (ROOT / match["path"]).read_text(encoding="utf-8")
        assert re.search(rf"^\s*((def|class) )?{match['name']}\b\s*[(:=]", code, re.MULTILINE), match[0]


def test_the_first_day_in_the_code_is_ten_files():
    text = TREE_PAGE.read_text(encoding="utf-8").split("## Reading order")[1].split("\n## ")[0]
    first = re.findall(r"^\d+\. `(?P<path>orchestrator/[\w/]+\.py)`", text, re.MULTILINE)
    assert len(first) == len(set(first)) == len(re.findall(r"^\d+\. ", text, re.MULTILINE)) == 10


def find_tables(text):
    """Return the tables of a Markdown page, each as its lines with their places."""
    tables, fenced = [[]], False
    for number, line in enumerate(text.splitlines(), 1):
        fenced ^= line.startswith("```")
        if line.startswith("|") and not fenced:
            tables[-1].append((number, line))
        elif tables[-1]:
            tables.append([])
    return [table for table in tables if table]


def count_cells(line):
    """Return how many cells a table's line has; a bar in code or behind a backslash divides none."""
    return len(re.sub(r"`[^`]*`|\\\|", "", line).strip().strip("|").split("|"))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_line_of_a_table_has_as_many_cells_as_its_head(page):
    for table in find_tables(page.read_text(encoding="utf-8")):
        (first, head), *rest = table
        assert rest, f"line {first} stands alone"
        assert set(rest[0][1]) <= set("|-: "), f"line {first} heads no table"
        assert [number for number, line in rest if count_cells(line) != count_cells(head)] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_no_figure_is_still_to_be_filled_in(page):
    assert not re.findall(r"«[A-Z-]+»", page.read_text(encoding="utf-8"))


def test_the_tables_of_faults_are_those_that_the_benchmark_kept():
    spec = importlib.util.spec_from_file_location("faults", ROOT / "benchmarks" / "faults.py")
    faults = importlib.util.module_from_spec(spec)
    sys.modules["faults"] = faults
    spec.loader.exec_module(faults)
    outcomes = faults.load_results()
    done = [[outcome for outcome in outcomes if outcome.backend == backend] for backend in faults.BACKENDS]
    assert all(len(one) == len(faults.FAULTS) for one in done)  # each backend with every fault
    pages = faults.list_pages(outcomes)
    assert set(READMES) < set(pages)
    for page, text in pages.items():
        assert f"{faults.BEGIN}\n\n{text}\n\n{faults.END}" in page.read_text(encoding="utf-8")


def test_links_and_paths_were_found_at_all():
    text = "".join(page.read_text(encoding="utf-8") for page in PAGES)
    assert len(PAGES) >= 15
    assert len(_LINK.findall(text)) > 30
    assert len(_PATH.findall(text)) > 30
    assert len(_NAME_IN.findall(text)) > 10


def test_the_tree_lists_every_module_with_the_first_line_of_its_docstring():
    expected = build_tree()
    assert len(expected.splitlines()) > 50
    assert split_page("tree")[1] == expected, "write it anew: python tests/docs/test_docs.py"


def test_the_layers_are_those_of_the_import_contract():
    expected = build_layers()
    assert len(expected.splitlines()) > 10
    assert split_page("layers")[1] == expected, "write it anew: python tests/docs/test_docs.py"


def test_every_module_says_its_one_job_in_one_line():
    lines = [line.strip() for line in build_tree().splitlines()]
    assert not [line for line in lines if not line.endswith(".")]


def test_every_field_of_a_recipe_stands_in_the_reference():
    from orchestrator.recipe.schema import Data, Evaluate, Guard, Launch, Loss, ModelRef, Recipe, Teacher

    page = (ROOT / "docs" / "recipe-reference.md").read_text(encoding="utf-8")
    parts = (Recipe, ModelRef, Teacher, Data, Loss, Evaluate, Guard, Launch)
    names = [name for part in parts for name in part.model_fields]
    assert len(names) > 25
    assert not [name for name in names if f"| `{name}` |" not in page]


def test_every_loss_with_its_settings_stands_in_the_reference():
    from orchestrator.recipe.losses import LOSSES

    page = (ROOT / "docs" / "recipe-reference.md").read_text(encoding="utf-8")
    fields = {}  # the rows of both tables of settings, by the field that they begin with
    for line in page.splitlines():
        if match := re.match(r"\| `(\w+)` \| ([\w, ]+) \|", line):
            fields.setdefault(match[1], []).append(match[2])
    for (_, _, name), facts in LOSSES.items():
        assert f"`{name}`" in page
        for setting in facts.settings:
            owners = ", ".join(fields[setting])
            assert name in owners or facts.task in owners, (name, setting)


def test_every_old_spelling_and_every_refused_name_stands_in_the_reference():
    from orchestrator.backends import BACKENDS
    from orchestrator.backends.aliases import list_old_names
    from orchestrator.recipe.losses import list_script_names, list_variables

    page = (ROOT / "docs" / "recipe-reference.md").read_text(encoding="utf-8")
    names = []
    for name, backend in BACKENDS.items():
        names += [*list_old_names(backend.aliases), *backend.reserved, *list_script_names(name), *list_variables(name)]
    assert len(names) > 40
    assert not [name for name in names if f"`{name}" not in page]


def test_every_diagnosis_stands_in_the_troubleshooting_page():
    from orchestrator.logs.diagnose import load_rules

    page = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
    assert load_rules()
    assert not [rule.name for rule in load_rules() if f"| `{rule.name}` |" not in page]


def test_both_readmes_say_how_many_rules_there_are():
    from orchestrator.logs.diagnose import load_rules

    english, chinese = (page.read_text(encoding="utf-8") for page in READMES)
    assert f"{len(load_rules())} rules" in english
    assert f"{len(load_rules())} 条规则" in chinese


_ADDING = {"add", "add_own", "add_worker", "add_score", "_add_tiny", "_add_fetch"}


def read_text(node):
    """Return a text of the code, with .* for what stands in braces; "" for anything else."""
    parts = node.values if isinstance(node, ast.JoinedStr) else [node]
    return "".join(str(part.value) if isinstance(part, ast.Constant) else ".*" for part in parts)


def find_stage_kinds():
    """Return the kinds of stages that the functions of plan/ add, as patterns."""
    kinds = set()
    for path in (ROOT / "orchestrator" / "plan").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            found = []
            if isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] in _ADDING:
                found = node.args[:3]
            elif isinstance(node, ast.FunctionDef) and node.name.startswith(("add_", "_add_")):
                found = node.args.defaults
            kinds.update(text for text in map(read_text, found) if re.fullmatch(r"[a-z][a-z.*-]+", text))
    return kinds


def test_every_kind_of_stage_and_every_file_of_a_run_stands_in_the_architecture():
    from orchestrator.machine.rundir import RunDir, StageDir

    text = TREE_PAGE.read_text(encoding="utf-8")
    stages, rest = text.split("## Stages")[1].split("## The run folder")
    named = re.findall(r"`([\w-]+)`", stages)
    kinds = find_stage_kinds()
    assert len(kinds) > 10
    assert [kind for kind in kinds if not any(re.fullmatch(kind, name) for name in named)] == []
    files = rest.split("## Layers")[0]
    own = [where._name for name, where in vars(RunDir).items() if hasattr(where, "_name") and name != "data"]
    own += [f"stages/NN-name/{where._name}" for where in vars(StageDir).values() if hasattr(where, "_name")]
    assert len(own) > 30
    assert [name for name in own if not re.search(rf"`{re.escape(name)}/?`", files)] == []


def test_every_exit_code_stands_in_both_readmes():
    from orchestrator.errors import OrchError

    for page in READMES:
        text = page.read_text(encoding="utf-8")
        assert not [kind for kind in (OrchError, *OrchError.__subclasses__()) if f"| {kind.exit_code} |" not in text]


def test_every_command_stands_in_both_readmes():
    from orchestrator.cli import _COMMANDS

    for page in READMES:
        text = page.read_text(encoding="utf-8")
        assert not [name for name in _COMMANDS if f"`orch {name}" not in text]


def test_the_man_page_is_that_of_the_command_line():
    from tests.docs.man_page import build_man_page

    page = (ROOT / "docs" / "orch.1").read_text(encoding="utf-8")
    assert page.count(".SS ") > 25
    assert page == build_man_page(), "write it anew: make golden"


def test_both_readmes_have_the_same_commands_in_the_same_order():
    english, chinese = (bash_blocks(page) for page in READMES)
    assert len(english) >= 6
    assert english == chinese


def test_the_heavy_commands_of_the_readme_are_known_and_covered():
    commands = [command for _, text in bash_blocks(READMES[0]) for command in text.splitlines()]
    covered = [command for command in commands if is_covered_elsewhere(command)]
    assert len(covered) == len(COVERED_ELSEWHERE)
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for command in covered:
        if command.startswith("make "):
            assert f"\n{command.removeprefix('make ')}:" in makefile


@pytest.fixture(scope="module")
def checkout(tmp_path_factory) -> Path:
    """Return a folder with the data that the README's commands name, and one run that was planned."""
    folder = tmp_path_factory.mktemp("checkout")
    for name in ("recipes", "datasets_example"):
        shutil.copytree(ROOT / name, folder / name)
    done = run_in(folder, "orch render recipes/qwen3_reranker.yaml --smoke -o runs/seed")
    assert done.returncode == 0, done.stderr
    return folder


def run_in(folder: Path, command: str) -> subprocess.CompletedProcess[str]:
    """Run one command with this Python's own programs first on PATH."""
    env = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    env.pop("ORCH_RUNS", None)
    return subprocess.run(
        ["bash", "-c", command], cwd=folder, env=env, capture_output=True, text=True, timeout=300, check=False
    )


@pytest.mark.slow
def test_every_light_command_of_the_readme_works_in_order(checkout):
    commands = [command for command in commands_of("bash") if not is_covered_elsewhere(command)]
    assert len(commands) >= 8
    for command in commands:
        assert not command.startswith(("make ", "orch run ")), command
        done = run_in(checkout, command)
        assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"


def test_every_gpu_command_of_the_readme_renders(checkout):
    commands = commands_of("bash gpu")
    assert commands
    for command in commands:
        assert "orch run " in command, command
        done = run_in(checkout, command.replace("orch run ", "orch render --hardware gpu "))
        assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
        assert "workers launch" in done.stdout


def test_every_shipped_recipe_opens_with_commands_that_name_it():
    found = sorted((ROOT / "recipes").glob("*.yaml"))
    assert found
    for recipe in found:
        text = recipe.read_text(encoding="utf-8")
        commands = [shlex.split(line[1:], comments=True) for line in text.splitlines() if line.startswith("#   orch ")]
        assert commands, recipe
        assert all(f"recipes/{recipe.name}" in words for words in commands), recipe


if __name__ == "__main__":
    for part, build in (("layers", build_layers), ("tree", build_tree)):
        before, _, after = split_page(part)
        TREE_PAGE.write_text(f"{before}<!-- {part} -->\n\n{build()}\n\n<!-- /{part} -->{after}", encoding="utf-8")
