"""Runs one bad input through the real command line, inside this process."""

from __future__ import annotations

import contextlib
import io
import os
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.cli import main

if TYPE_CHECKING:
    from tests.bad_input.case import BadInput


def run_case(case: BadInput, folder: Path) -> tuple[int, str]:
    """Write the case's files, run its command in `folder`, and return its exit code and all that it printed."""
    case.write(folder)
    said = io.StringIO()
    before = Path.cwd()
    os.chdir(folder)
    try:
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            try:
                main(list(case.argv))
            except SystemExit as ended:
                code = ended.code
    finally:
        os.chdir(before)
    return int(code or 0), said.getvalue()
