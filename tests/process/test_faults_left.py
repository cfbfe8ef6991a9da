"""The fault benchmark sees what a run has left, whatever its command line says."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator.machine.rundir import RunDir

PATH = Path(__file__).resolve().parents[2] / "benchmarks" / "faults.py"


@pytest.fixture
def faults(monkeypatch):
    spec = importlib.util.spec_from_file_location("faults_left", PATH)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "faults_left", module)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "ENDING_S", 0.2)
    return module


def test_a_worker_of_orch_that_outlives_its_run_is_left_and_told(faults, tmp_path):
    case, other = (faults.Case(faults.FAKE, RunDir(tmp_path / name), "train", 1, {}, {}) for name in "ab")
    env = os.environ | {faults.MARK: str(tmp_path / "a")}
    code = "print('up', flush=True); import time; time.sleep(60)"
    worker = subprocess.Popen([sys.executable, "-c", code, "orchestrator/workers"], env=env, stdout=subprocess.PIPE)
    try:
        assert worker.stdout.readline() == b"up\n"
        assert case.left() == [worker.pid]
        with pytest.raises(faults.LostError, match=f"processes \\[{worker.pid}\\] were left: .*orchestrator/workers"):
            case.require_none_left()
        other.require_none_left()
    finally:
        worker.kill()
        worker.wait()
    case.require_none_left()
