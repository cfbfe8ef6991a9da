"""Calls run_plan on RUN/plan.json in a process of its own, so that tests can kill it."""

from __future__ import annotations

import sys
from pathlib import Path

from orchestrator.errors import OrchError
from orchestrator.machine.rundir import RunDir
from orchestrator.recipe.plan import plan_from_json
from orchestrator.run.launching import Residents
from orchestrator.run.loop import run_plan
from orchestrator.run.stopping import StopTimeouts

HERE = Path(__file__).parent
FORKED = {str(HERE / name): ("json",) for name in ("fake_stage.py", "fake_trainer.py")}

if __name__ == "__main__":
    run_dir = RunDir(Path(sys.argv[1]))
    patience = StopTimeouts(float(sys.argv[2]) if len(sys.argv) > 2 else 2.0, 1.0, 3.0)
    plan = plan_from_json(run_dir.plan_json.read_text())
    try:
        with Residents(FORKED if plan.recipe.get("forked") else {}) as residents:
            outcome = run_plan(plan, run_dir, timeouts=patience, poll_s=0.05, stall_s=30, residents=residents)
    except OrchError as error:
        sys.stderr.write(f"{error.problems[0].message}\n")
        sys.exit(error.exit_code)
    sys.exit(outcome.exit_code)
