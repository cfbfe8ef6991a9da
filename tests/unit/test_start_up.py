"""A command imports what it needs: what is slow to import stays out of those that do without."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys

import pytest

from orchestrator.machine.rundir import RunDir
from orchestrator.run.state import RunState, write_state

# Each takes milliseconds, some of them seconds.
HEAVY = {
    "asyncio", "charset_normalizer", "huggingface_hub", "importlib.metadata", "ir_measures", "jinja2", "matplotlib", "msgspec",
    "multiprocessing", "numpy", "pandas", "psutil", "pyarrow", "pydantic", "python_calamine", "rich", "scipy", "sqlite3",
    "ssl", "torch", "transformers", "yaml", "zstandard",
}  # fmt: skip
ROOMS = {"backends", "checks", "data", "evaluation", "plan", "report", "serving", "workers"}
RECIPE = {"jinja2", "msgspec", "pydantic", "yaml"}
ON_RECIPES = {"backends", "data", "evaluation", "plan"}
MAY = {  # what each command may import of them
    ("--help",): set(),
    ("--version",): set(),
    ("ls", "--runs", "{runs}"): {"msgspec"},
    ("ls", "--json", "--runs", "{runs}"): {"msgspec"},
    ("stop", "a", "--runs", "{runs}"): {"msgspec"},
    ("board", "--runs", "{runs}", "-o", "board.html"): RECIPE | ON_RECIPES | {"checks", "report", "ssl"},
    ("render", "{recipe}", "--hardware", "cpu"): RECIPE | ON_RECIPES,
    ("check", "{recipe}", "--hardware", "cpu"): RECIPE | ON_RECIPES | {"checks", "sqlite3"},
}
# what a check leaves out when it has found before that the data is all right
PASS = {f"orchestrator.data.{name}" for name in ("data_pass", "prepare", "request", "rows.checks", "fit", "stats")}
SCRIPT = """
import json, sys
from orchestrator.cli import main
try:
    main(sys.argv[2:])
except SystemExit as end:
    code = end.code
with open(sys.argv[1], "w") as stream:
    json.dump([code, sorted(sys.modules)], stream)
"""


@pytest.mark.parametrize("argv", MAY, ids=" ".join)
def test_a_command_imports_no_more_than_it_needs(argv, tmp_path, root):
    run = RunDir(tmp_path / "runs" / "a")
    run.root.mkdir(parents=True)
    run.plan_json.write_text("{}")
    write_state(run, RunState("done", 1.0))
    words = [word.format(runs=tmp_path / "runs", recipe=root / "recipes" / "qwen3_reranker.yaml") for word in argv]
    said = tmp_path / "said.json"
    ask = [sys.executable, "-c", SCRIPT, str(said), *words]
    env = {**os.environ, "XDG_CACHE_HOME": str(tmp_path / "cache")}
    subprocess.run(ask, check=True, capture_output=True, cwd=tmp_path, env=env)
    code, modules = json.loads(said.read_text())
    assert code in {0, None}
    rooms = {name.split(".")[1] for name in modules if name.startswith("orchestrator.")}
    found = {name for name in modules if name in HEAVY} | (rooms & ROOMS)
    assert found <= MAY[argv]
    if argv[0] == "check":
        assert set(modules) >= PASS
        subprocess.run(ask, check=True, capture_output=True, cwd=tmp_path, env=env)
        assert not PASS & set(json.loads(said.read_text())[1])


def test_what_measures_nothing_does_without_the_packages_of_the_report(root):
    modules = ["report.board", "report.wording", "report.publish", "serving.artefact", "serving.push", "serving.track"]
    imports = "; ".join(f"import orchestrator.{name}" for name in modules)
    hidden = "import sys; sys.modules.update(dict.fromkeys(('numpy', 'scipy', 'ir_measures', 'matplotlib')))"
    subprocess.run([sys.executable, "-c", f"{hidden}; {imports}"], check=True, cwd=root)


def test_a_check_compiles_no_record_of_its_rooms_at_its_start(tmp_path, root):
    # a frozen dataclass is text that Python 3.11 compiles, half a millisecond each (docs/decisions/0102)
    rooms = ("backends", "plan", "recipe", "checks", "evaluation", "logs")
    program = (
        "import sys; from orchestrator.cli import main\n"
        "try: main(sys.argv[1:])\nexcept SystemExit: pass\n"
        "own = [one for name, one in sys.modules.items() if name.split('.')[:1] == ['orchestrator']]\n"
        "own = {one.__name__: one for one in own if set(one.__name__.split('.')[1:2]) & set(ROOMS)}\n"
        "kinds = [kind for one in own.values() for kind in vars(one).values() if isinstance(kind, type)]\n"
        "print(len(own), [one.__name__ for one in kinds if one.__module__ in own and '__dataclass_fields__' in vars(one)])"
    ).replace("ROOMS", str(rooms))
    recipe = str(root / "recipes" / "qwen3_reranker.yaml")
    env = {**os.environ, "XDG_CACHE_HOME": str(tmp_path / "cache")}
    ask = [sys.executable, "-c", program, "check", recipe, "--hardware", "cpu"]
    said = subprocess.run(ask, check=True, capture_output=True, text=True, cwd=tmp_path, env=env).stdout
    number, found = said.splitlines()[-1].split(" ", 1)
    assert int(number) > 20
    assert found == "[]"


def test_no_pattern_of_the_schema_counts_letters_of_all_alphabets(root):
    # pydantic's engine writes the class out as often: [\w.-]{0,99} took a tenth of the time of `orch check`
    patterns = re.findall(r'"pattern": (".*")', (root / "recipes" / "recipe.schema.json").read_text())
    assert patterns
    assert not [pattern for pattern in map(json.loads, patterns) if "\\w" in pattern and "{" in pattern]
