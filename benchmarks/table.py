"""One table of what the benchmarks kept (what, native, Orch, ratio, equal?), printed, or put into docs/performance.md.

    python benchmarks/table.py            # print it
    python benchmarks/table.py --write    # put each part of it into docs/performance.md too, between its marks

Reads benchmarks/{step,verdict,scoring,stages,embedding,growth}.json; measures nothing.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).resolve().parent
PAGE = FOLDER.parent / "docs" / "performance.md"
PARTS = ("step", "verdict", "scoring", "stages", "embedding", "growth")  # in the page's order
HEAD = ("what", "native", "Orch", "unit", "ratio", "equal?")
GROWTH_HEAD = ("what", "size", "CPU s", "MB at most")


def load(name: str, folder: Path = FOLDER) -> dict[str, Any]:
    path = folder / f"{name}.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def show(value: object) -> str:
    """Return a number with three figures and commas, and what `equal` says in words."""
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "NO", None: "–"}[value]
    if isinstance(value, str):
        return value
    number = float(f"{value:.3g}")  # type: ignore[arg-type]
    return f"{number:,.0f}" if abs(number) >= 100 or number == int(number) else f"{number:g}"


def build_lines(head: tuple[str, ...], rows: list[tuple[object, ...]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join("| " + " | ".join(show(cell) for cell in line) + " |" for line in lines)


def build_table(name: str, kept: dict[str, Any]) -> str:
    """Return a part's table in Markdown, with the machine, the versions and the command under it."""
    rows = kept["rows"]
    if name == "growth":
        points = sorted(tuple(row[k] for k in ("what", "size", "cpu_s", "peak_mb")) for row in rows)
        table = build_lines(GROWTH_HEAD, points)
    else:
        table = build_lines(HEAD, [tuple(row[k.rstrip("?").lower()] for k in HEAD) for row in rows])
    machine, versions = kept["machine"], kept["versions"]
    where = f"{machine['cpu']}, {machine['cores']} cores, {machine['memory_gb']} GB"
    packages = ", ".join(f"{package} {version}" for package, version in versions.items())
    return f"{table}\n\n`{kept['command']}`; {where}; {packages}."


def write_page(text: str, name: str, table: str) -> str:
    """Return the page with the part's table between its marks.

    Raises SystemExit where the page has no such marks.
    """
    begin, end = f"<!-- bench {name} -->", f"<!-- /bench {name} -->"
    if begin not in text or end not in text:
        raise SystemExit(f"{PAGE}: no place for this table: {begin} … {end}")
    before, rest = text.split(begin, 1)
    return f"{before}{begin}\n\n{table}\n\n{end}{rest.split(end, 1)[1]}"


def list_shown(text: str) -> list[str]:
    """Return the parts that the page has a place for, in its order."""
    return re.findall(r"<!-- bench (\w+) -->", text)


def main() -> None:
    text = PAGE.read_text(encoding="utf-8") if PAGE.exists() else ""
    for name in PARTS:
        if kept := load(name):
            table = build_table(name, kept)
            print(f"\n## {name}\n\n{table}")
            text = write_page(text, name, table) if "--write" in sys.argv else text
    if "--write" in sys.argv:
        PAGE.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
