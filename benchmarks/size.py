"""How large the house is, beside its first edition and the bounds that it is to keep.

`python benchmarks/size.py [FOLDER]` counts the package of a checkout (this one); `--check` fails where a bound is
passed. Lines of code are those that hold a token of code: no blank line, comment, docstring or import.
"""

from __future__ import annotations

import argparse
import ast
import graphlib
import io
import sys
import tokenize
from pathlib import Path

from orchestrator.recipe.registry import TOOLS

ROOT = Path(__file__).resolve().parent.parent
_QUIET = {
    tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER,
}  # fmt: skip
#        row                                              first edition, at most
BOUNDS = {
    "lines": (44_141, 27_000),
    "lines of code": (27_944, 18_500),
    "files": (410, 230),
    "entries at the top": (47, 14),
    "import circles": (4, 0),
    "comparisons with a backend's name outside backends/": (35, 0),
}


def count_code(text: str, tree: ast.Module) -> int:
    """Return how many lines hold code."""
    lines: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type not in _QUIET:
            lines.update(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            lines.difference_update(range(node.lineno, (node.end_lineno or node.lineno) + 1))
            continue
        documented = isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        if documented and ast.get_docstring(node, clean=False) is not None:
            lines.difference_update(range(node.body[0].lineno, (node.body[0].end_lineno or 0) + 1))
    return len(lines)


def find_imports(name: str, tree: ast.Module, modules: dict[str, Path]) -> set[str]:
    """Return the modules of the package that a module imports anywhere in it, types included."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            full = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {one if one in modules else str(node.module) for one in full}
    return (found & modules.keys()) - {name}


def count_circles(imports: dict[str, set[str]]) -> int:
    """Return how many circles must be cut, one import each, until none is left."""
    graph = {name: set(targets) for name, targets in imports.items()}
    circles = 0
    while True:
        try:
            graphlib.TopologicalSorter(graph).prepare()
        except graphlib.CycleError as error:
            circles += 1
            target, name = error.args[1][:2]  # each is imported by the next
            graph[name].discard(target)
        else:
            return circles


def find_name_comparisons(tree: ast.Module) -> list[int]:
    """Return the lines of all comparisons, and cases of a match, that have a backend's name on a side."""

    def names_one(node: ast.AST) -> bool:
        words = (one.value for one in ast.walk(node) if isinstance(one, ast.Constant) and isinstance(one.value, str))
        return any(word in TOOLS for word in words)

    sides = [
        [node.left, *node.comparators] if isinstance(node, ast.Compare) else [node.pattern]
        for node in ast.walk(tree)
        if isinstance(node, ast.Compare | ast.match_case)
    ]
    return [nodes[0].lineno for nodes in sides if any(map(names_one, nodes))]


def measure(root: Path) -> tuple[dict[str, int], dict[str, list[int]]]:
    """Return the rows of the table, and [files, lines, lines of code] of every room."""
    package = root / "orchestrator"
    modules = {}
    for path in sorted(package.rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        modules[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    rooms: dict[str, list[int]] = {}
    imports, comparisons = {}, 0
    for name, path in modules.items():
        text = path.read_text(encoding="utf-8")
        tree = ast.parse(text)
        room = name.split(".")[1] if "." in name else "__init__"
        counted = (1, text.count("\n"), count_code(text, tree))
        rooms[room] = [old + new for old, new in zip(rooms.get(room, [0, 0, 0]), counted, strict=True)]
        imports[name] = find_imports(name, tree, modules)
        if room != "backends":
            comparisons += len(find_name_comparisons(tree))
    files, lines, code = (sum(column) for column in zip(*rooms.values(), strict=True))
    values = (lines, code, files, len(rooms.keys() - {"__init__"}), count_circles(imports), comparisons)
    return dict(zip(BOUNDS, values, strict=True)), rooms


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", nargs="?", type=Path, default=ROOT)
    parser.add_argument("--check", action="store_true", help="fail where a bound is passed")
    asked = parser.parse_args()
    rows, rooms = measure(asked.folder)
    print("| | first edition | now | at most |\n|---|---|---|---|")
    for name, value in rows.items():
        first, bound = BOUNDS[name]
        print(f"| {name} | {first:,} | {value:,} | {bound:,} |")
    print("\n| room | files | lines | lines of code |\n|---|---|---|---|")
    for room, counted in sorted(rooms.items(), key=lambda item: -item[1][1]):
        print(f"| {room} | " + " | ".join(f"{number:,}" for number in counted) + " |")
    return int(asked.check and any(value > BOUNDS[name][1] for name, value in rows.items()))


if __name__ == "__main__":
    sys.exit(main())
