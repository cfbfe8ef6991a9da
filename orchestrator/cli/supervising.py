"""Running a plan's stages from the command line, with their progress on the terminal."""

from __future__ import annotations

from orchestrator.machine.rundir import RunDir
from orchestrator.machine.terminal import say
from orchestrator.recipe.plan import Plan
from orchestrator.run.loop import RunOutcome


def supervise(plan: Plan, run: RunDir, *, quiet: bool) -> RunOutcome:
    """Run every stage of a plan that is not done, telling its progress unless `quiet`."""
    from orchestrator.cli.progress import choose_listener
    from orchestrator.run.loop import run_plan
    from orchestrator.run.stopping import StopTimeouts

    say(f"run folder: {run.root}", err=True)
    seconds = plan.recipe.get("launch", {}).get("stop_patience_s")
    timeouts = StopTimeouts(interrupt_s=seconds) if seconds is not None else StopTimeouts()
    with choose_listener(plan, quiet=quiet) as listener:
        return run_plan(plan, run, listener=listener, timeouts=timeouts)
