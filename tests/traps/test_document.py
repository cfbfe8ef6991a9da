"""docs/traps.md and the tests of traps say the same: every row has its test, every test its row."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

HERE = Path(__file__).parent
DOCUMENT = HERE.parents[1] / "docs" / "traps.md"
FILES = {
    "FlagEmbedding": "test_flagembedding.py",
    "ms-swift": "test_swift.py",
    "sentence-transformers": "test_sentence_transformers.py",
}
CAPTURED = "test_captured.py"
NO_TRAPS = {
    "test_a_sound_training_learns_and_passes",
    "test_every_loss_with_speedups_is_the_native_one",
    "test_the_deepspeed_keys_that_orch_knows_are_those_that_deepspeed_looks_for",
    "test_two_processes_that_are_one_group_have_the_losses_of_one_with_the_whole_batch",
    "test_orch_merges_into_a_folder_that_does_not_exist_yet",
}


def read_tests(name: str, folder: Path = HERE) -> dict[str, str]:
    """Return the source of each test of a file, with its decorators."""
    text = (folder / name).read_text(encoding="utf-8")
    lines = text.splitlines()
    found = {}
    for node in ast.parse(text).body:
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
            first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
            found[node.name] = "\n".join(lines[first - 1 : node.end_lineno])
    return found


def read_tables() -> list[tuple[str, list[str]]]:
    """Return (section, cells) of each row of a table."""
    rows, section = [], ""
    for line in DOCUMENT.read_text(encoding="utf-8").splitlines():
        section = line[3:] if line.startswith("## ") else section
        if line.startswith("|"):
            rows.append((section, [cell.strip() for cell in line.strip("|").split("|")]))
    return rows


ROWS = [(tool, cells) for tool, cells in read_tables() if tool in FILES and cells[-1].startswith("`test_")]
ELSEWHERE = [cells for section, cells in read_tables() if section == "Held elsewhere" and cells[-1].startswith("`")]


def test_every_trap_has_its_row():
    assert len(ROWS) > 60
    for tool, name in FILES.items():
        named = {cells[4].strip("`") for row_tool, cells in ROWS if row_tool == tool}
        assert set(read_tests(name)) - NO_TRAPS == named - set(read_tests(CAPTURED))
    assert set(read_tests(CAPTURED)) <= {cells[4].strip("`") for _, cells in ROWS}


@pytest.mark.parametrize(("tool", "cells"), ROWS, ids=[f"{tool}:{cells[4]}" for tool, cells in ROWS])
def test_a_row_says_what_its_test_proves(tool, cells):
    _, _, outcome, message, test = cells
    source = (read_tests(FILES[tool]) | read_tests(CAPTURED))[test.strip("`")]
    assert message.strip("`") in source.replace("\\", "")
    if code := re.match(r"\d", outcome):
        assert re.search(rf"code == {code[0]}\b", source) or f"_code == {code[0]}" in source


def test_what_is_held_elsewhere_is_held_by_tests_that_are_there():
    assert len(ELSEWHERE) > 15
    for _, file, test in ELSEWHERE:
        assert test.strip("`") in read_tests(file.strip("`"), HERE.parents[1])


def test_every_file_that_proves_a_package_is_there():
    named = set(re.findall(r"`(test_package\w*\.py)`", DOCUMENT.read_text(encoding="utf-8")))
    assert len(named) == 5
    assert all((HERE.parent / "workers" / name).is_file() for name in named)
