"""Writes the snapshots of what backends accept anew: `python -m tests.backends.take_snapshots PYTHON [PYTHON …]`.

Each PYTHON is the interpreter of one set of versions, the tested set first; what a set lacks is left out. Files that
hold what `orchestrator/workers arguments` printed for a set may be named instead. Read the diff before you commit it.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from orchestrator.backends import arguments
from orchestrator.backends.arguments import find_modules, read_snapshot
from orchestrator.machine.process import run

FOLDER = Path(arguments.__file__).parent
WORKERS = FOLDER.parents[1] / "workers"
SNAPSHOT_OF = find_modules(
    path.stem for path in sorted(FOLDER.glob("*.json"))
)  # a new one begins as its first two lines


def read_set(source: str) -> list[dict[str, Any]]:
    """Return the descriptions of every module that one set of versions has."""
    if source.endswith(".jsonl"):
        return [json.loads(line) for line in Path(source).read_text(encoding="utf-8").splitlines()]
    found = []
    for module in SNAPSHOT_OF:
        done = run((source, str(WORKERS), "arguments", "--module", module), 600)
        if done.exit_code == 0:
            found.append(json.loads(done.stdout))
        else:
            print(f"{source} has no {module}: {done.stderr.splitlines()[-1]}", file=sys.stderr)  # noqa: T201
    return found


def merge_sets(name: str, described: list[dict[str, Any]]) -> dict[str, Any]:
    """Return one snapshot: every distinct item once, with the numbers of the sets that have it."""
    kept: dict[tuple[str, ...], dict[str, Any]] = {}
    for one in described:  # sets that differ in nothing which decides are one
        kept.setdefault(tuple(one["versions"].get(package, "") for package in read_snapshot(name)["deciding"]), one)
    items: dict[str, dict[str, Any]] = {}
    for number, one in enumerate(kept.values()):
        for item in one.get("arguments", one.get("models", [])):
            items.setdefault(json.dumps(item), {**item, "sets": []})["sets"].append(number)
    ordered = sorted(items.values(), key=lambda item: (item.get("name", item.get("model_type")), item["sets"]))
    deciding = read_snapshot(name)["deciding"]
    return {
        "module": described[0]["module"],
        "deciding": deciding,
        "sets": [one["versions"] for one in kept.values()],
        "items": ordered,
    }


def format_snapshot(snapshot: dict[str, Any]) -> str:
    """Return the snapshot as JSON with one set and one item a line, so that a diff says what changed."""

    def lines(key: str) -> str:
        return ",\n".join(json.dumps(one, ensure_ascii=False) for one in snapshot[key])

    return f'{{"module": {json.dumps(snapshot["module"])},\n"deciding": {json.dumps(snapshot["deciding"])},\n"sets": [\n{lines("sets")}\n],\n"items": [\n{lines("items")}\n]}}\n'


def main(sources: list[str]) -> None:
    sets = [read_set(source) for source in sources]
    for module, name in SNAPSHOT_OF.items():
        described = [one for found in sets for one in found if one["module"] == module]
        text = format_snapshot(merge_sets(name, described))
        (FOLDER / f"{name}.json").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
