"""docs/security.md: every promise names a test that is there."""

from __future__ import annotations

import re
from pathlib import Path

from tests.bad_input.cases import CASES

ROOT = Path(__file__).resolve().parents[2]
ROWS = [
    line for line in (ROOT / "docs" / "security.md").read_text(encoding="utf-8").splitlines() if line.startswith("| ")
]
PROMISES = [row.strip("| ").rpartition(" | ")[::2] for row in ROWS if not row.startswith("| promise")]


def test_every_promise_names_a_test_that_exists():
    assert len(PROMISES) >= 20
    for promise, tests in PROMISES:
        paths = re.findall(r"`(tests/[\w/.]+)`", tests)
        assert paths, promise
        assert [path for path in paths if not (ROOT / path).exists()] == [], promise


def test_every_bad_input_that_a_promise_names_is_in_the_table():
    known = {case.id for case in CASES}
    named = {
        name
        for _, tests in PROMISES
        for group in re.findall(r"`tests/bad_input` \(([^)]*)\)", tests)
        for name in re.findall(r"`([\w-]+)…?`", group)
    }
    assert len(named) >= 12
    assert {
        name
        for name in named
        if not any(case == name or (name.endswith("-") and case.startswith(name)) for case in known)
    } == set()
