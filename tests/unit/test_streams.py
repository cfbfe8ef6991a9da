"""The standard streams of the command line when nobody reads them, or nobody has opened them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator import cli
from orchestrator.errors import PreflightError

PROBE = """
import os, sys
from orchestrator import cli
cli.open_missing()
number = os.open(os.devnull, os.O_RDONLY)
print("to nobody", file=sys.stderr)
print("to nobody")
sys.stdout.flush()
sys.exit(number)
"""


@pytest.mark.parametrize("closed", ["0<&-", "1>&-", "2>&-", "0<&- 1>&- 2>&-"])
def test_a_closed_stream_is_opened_so_that_no_file_gets_its_number(closed):
    argv = ["/bin/sh", "-c", f'exec "$@" {closed}', "sh", sys.executable, "-c", PROBE]
    assert subprocess.run(argv, check=False, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).returncode > 2


@pytest.mark.parametrize("error", [BrokenPipeError(32, "Broken pipe"), OSError(5, "Input/output error")])
def test_what_nobody_reads_is_lost_and_no_more(error):
    with cli.may_be_gone():
        raise error
    assert cli.is_gone(error)


def test_other_errors_are_not_hidden():
    with pytest.raises(OSError, match="No space"), cli.may_be_gone():
        raise OSError(28, "No space left on device")


@pytest.mark.parametrize("command", [("schema",), ("ls", "--json")])
def test_a_full_disk_behind_standard_output_is_said(command, tmp_path):
    orch = Path(sys.executable).with_name("orch")
    env = {**os.environ, "ORCH_RUNS": str(tmp_path), "ORCH_LANG": "en"}
    with Path("/dev/full").open("w") as full:
        done = subprocess.run([orch, *command], stdout=full, stderr=subprocess.PIPE, text=True, env=env, check=False)
    assert done.returncode == PreflightError.exit_code
    assert "environment: No space left on device" in done.stderr
    assert "Traceback" not in done.stderr
