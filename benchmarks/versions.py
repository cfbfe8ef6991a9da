"""Smoke runs of the shipped recipes with every set of versions whose arguments Orch ships, the tested set left out.

`python benchmarks/versions.py [--set NAME …] [--recipe NAME …] [--home FOLDER]` prints a table, set × recipe → done,
refused or failed, and keeps it in benchmarks/versions.json and the README; a part replaces its part. The sets are those
of orchestrator/backends/arguments; the tests run the tested one. Each set has an environment of its own under --home,
HOME/NAME: one that has these versions is used as it is, otherwise it is built there with pip, which takes minutes.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

from orchestrator.backends import BACKENDS
from orchestrator.backends.arguments import version_sets
from orchestrator.checks.environments import Environment, EnvironmentPlan, create_environment
from orchestrator.machine.packages import find_versions, parse_release
from orchestrator.machine.rundir import RunDir

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "versions.json"
PAGE = ROOT / "benchmarks" / "README.md"
BEGIN, END = "<!-- versions -->", "<!-- /versions -->"
ORCH = str(Path(sys.executable).parent / "orch")
RECIPES = {
    "qwen3_reranker": "flagembedding",
    "bge_reranker": "flagembedding",
    "qwen3_embedding_lora": "swift",
    "qwen3_reranker_native": "swift",
    "qwen3_sft_lora": "swift",
    "qwen3_sft_finance": "swift",
    "bge_pointwise": "sentence-transformers",
    "llm_pointwise": "sentence-transformers",
}
SHOWN = ("FlagEmbedding", "ms-swift", "sentence-transformers", "transformers", "peft")
DONE, REFUSED, FAILED = "done", "refused", "failed"


@dataclass(frozen=True)
class Outcome:
    """What a recipe came to: refused is what never started; `said` is the first message of what did not end well."""

    set: str
    recipe: str
    outcome: str
    exit_code: int
    said: str = ""


def list_sets() -> dict[str, dict[str, str]]:
    """Return the versions of every set but the tested one, by name."""
    names = [name for tool in BACKENDS.values() for name in (*tool.snapshots, *tool.command_snapshots)]
    found = [one for name in names for one in version_sets(name) if one.index]
    return {name_set(one.versions): one.versions for one in sorted(found, key=lambda one: order_set(one.versions))}


def name_set(versions: dict[str, str]) -> str:
    return f"transformers-{versions['transformers']}-flagembedding-{versions['FlagEmbedding']}"


def order_set(versions: dict[str, str]) -> tuple[tuple[int, ...], ...]:
    return parse_release(versions["transformers"]), parse_release(versions["FlagEmbedding"])


SETS = list_sets()


def has_backend(name: str, recipe: str) -> bool:
    return BACKENDS[RECIPES[recipe]].distributions[0] in SETS[name]  # the trainer comes first


def require_python(name: str, home: Path) -> str:
    """Return the interpreter of an environment with these versions; build it where there is none."""
    folder, wanted = home / name, SETS[name]
    environment = Environment(folder, name, complete=False)
    found = find_versions(str(environment.python))
    if any(parse_release(found.get(package, "")) != parse_release(wanted[package]) for package in wanted):
        pins = [f"{package}=={version.partition('+')[0]}" for package, version in wanted.items()]  # no +cpu
        pip = (str(environment.python), "-m", "pip", "install", "--no-input", *pins)
        commands = ((sys.executable, "-m", "venv", str(folder)), pip)
        create_environment(EnvironmentPlan(environment, commands, tuple(wanted)))
    return str(environment.python)


def run_recipe(name: str, recipe: str, python: str, work: Path) -> Outcome:
    run = RunDir(work / name / recipe)
    shutil.rmtree(run.root, ignore_errors=True)
    argv = [ORCH, "run", str(ROOT / "recipes" / f"{recipe}.yaml"), "--smoke", "--set", f"launch.python={python}"]
    env = os.environ | {"HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [*argv, "-o", str(run.root), "--json"], stdout=subprocess.PIPE, text=True, env=env, check=False
    )
    if done.returncode == 0:
        return Outcome(name, recipe, DONE, 0)
    message = json.loads(done.stdout)["error"]["problems"][0]["message"].splitlines()[0]
    said = message.replace(f"{run.root}/", "").replace(f"{ROOT}/", "")
    return Outcome(name, recipe, FAILED if run.plan_json.exists() else REFUSED, done.returncode, said)


def load_results() -> list[Outcome]:
    return [Outcome(**row) for row in json.loads(RESULTS.read_text(encoding="utf-8"))] if RESULTS.exists() else []


def write_results(outcome: Outcome) -> list[Outcome]:
    """Put this outcome in the place of an earlier one, and return all of sets and recipes that there are."""
    merged = {(row.set, row.recipe): row for row in [*load_results(), outcome]}
    rows = [merged[name, recipe] for name in SETS for recipe in RECIPES if (name, recipe) in merged]
    RESULTS.write_text(json.dumps([asdict(row) for row in rows], indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return rows


def build_table(outcomes: list[Outcome]) -> str:
    """Return the Markdown table, one row a set, and below it what was said where a run was not done."""
    found = {(row.set, row.recipe): row for row in outcomes}
    notes = list(dict.fromkeys(row.said for row in outcomes if row.outcome != DONE))

    def cell(name: str, recipe: str) -> str:
        if not has_backend(name, recipe):
            return "–"
        row = found.get((name, recipe))
        if row is None:
            return "not run"
        return DONE if row.outcome == DONE else f"{row.outcome}, {row.exit_code} [{notes.index(row.said) + 1}]"

    lines = [f"| {' | '.join((*SHOWN, *RECIPES))} |", f"|{'---|' * len((*SHOWN, *RECIPES))}"]
    for name, versions in SETS.items():
        cells = [*(versions.get(package, "–") for package in SHOWN), *(cell(name, recipe) for recipe in RECIPES)]
        lines.append(f"| {' | '.join(cells)} |")
    counts = [sum(row.outcome == kind for row in outcomes) for kind in (DONE, REFUSED, FAILED)]
    lines += ["", "{} done, {} refused before the start, {} failed.".format(*counts), ""]
    return "\n".join([*lines, *(f"{number}. {note}" for number, note in enumerate(notes, 1))]).strip()


def write_table(outcomes: list[Outcome]) -> None:
    head, rest = PAGE.read_text(encoding="utf-8").split(BEGIN)
    table = build_table(outcomes)
    PAGE.write_text(f"{head}{BEGIN}\n\n{table}\n\n{END}{rest.split(END)[1]}", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--set", action="append", choices=SETS, help="only this one (repeatable)")
    parser.add_argument("--recipe", action="append", choices=RECIPES, help="only this one (repeatable)")
    parser.add_argument("--home", type=Path, default=ROOT / "runs" / "versions", help="the environments, and the runs")
    parser.add_argument("--table", action="store_true", help="run nothing: write the table of what was run")
    args = parser.parse_args()
    home = args.home.resolve()
    for name in () if args.table else args.set or SETS:
        recipes = [recipe for recipe in args.recipe or RECIPES if has_backend(name, recipe)]
        python = require_python(name, home) if recipes else ""
        for recipe in recipes:
            outcome = run_recipe(name, recipe, python, home / "smoke")
            write_results(outcome)
            print(f"{name}: {recipe}: {outcome.outcome} {outcome.said}", file=sys.stderr, flush=True)
    outcomes = load_results()
    write_table(outcomes)
    print(build_table(outcomes))


if __name__ == "__main__":
    main()
