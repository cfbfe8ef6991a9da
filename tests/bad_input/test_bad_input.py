"""Every bad input of the table is refused: its exit code, the file and line that it names, a remedy, no traceback."""

from __future__ import annotations

import collections
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.bad_input.cases import CASES
from tests.bad_input.run_case import run_case

if TYPE_CHECKING:
    from tests.bad_input.case import BadInput

ORCH = str(Path(sys.executable).with_name("orch"))
THROUGH_A_PROCESS = ("no-recipe", "path-bytes", "nul", "deep", "path-device", "data-is-device", "set-nested")


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_a_bad_input_is_refused(case: BadInput, tmp_path, monkeypatch):
    if case.needs_user and os.geteuid() == 0:
        pytest.skip("the superuser may read what is locked")
    monkeypatch.setenv("ORCH_LANG", "en")
    code, said = run_case(case, tmp_path)
    assert case.find_faults(code, said) == [], said


@pytest.mark.parametrize("case", [case for case in CASES if case.id in THROUGH_A_PROCESS], ids=lambda case: case.id)
def test_a_bad_input_is_refused_in_a_process_of_its_own(case: BadInput, tmp_path):
    case.write(tmp_path)
    argv = [ORCH, *case.argv]
    done = subprocess.run(
        argv, cwd=tmp_path, env={**os.environ, "ORCH_LANG": "en"}, capture_output=True, check=False, timeout=300
    )
    said = (done.stdout + done.stderr).decode("utf-8", "replace")
    assert case.find_faults(done.returncode, said) == [], said


def test_the_table_covers_every_kind_of_input_and_names_each_case_once():
    names = collections.Counter(case.id for case in CASES)
    assert [name for name, count in names.items() if count > 1] == []
    assert len(CASES) >= 170
    assert [case.id for case in CASES if not (case.says and case.remedy)] == []
    assert {case.exit_code for case in CASES} == {2, 3, 4, 9}


def test_a_message_without_place_or_remedy_counts_as_a_fault(tmp_path):
    case = CASES[0]
    assert case.find_faults(70, "a bug in Orch: x\x1b") == [
        f"exit code 70, not {case.exit_code}",
        "it says 'a bug in Orch'",
        "it holds a control character",
        f"it does not name {case.where!r}",
        f"it does not say {case.says!r}",
        f"it does not advise {case.remedy!r}",
        "it has no remedy",
    ]
