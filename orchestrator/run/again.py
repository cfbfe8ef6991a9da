"""Whether a run that ended is tried again: one table for every engine that repeats `orch resume --or-run`."""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace

from orchestrator.errors import InterruptedRunError, OrchError, StageFailedError, StalledError, TakenAwayError
from orchestrator.logs.diagnose import find_rule
from orchestrator.logs.events import RunFinished, StageStarted, load_events
from orchestrator.machine import process
from orchestrator.machine.files import open_to_append
from orchestrator.machine.rundir import RunDir
from orchestrator.machine.terminal import Text

# What an engine does with an exit code. All others are new to it, and what is new is looked at before it is repeated.
AGAIN = (TakenAwayError.exit_code, StalledError.exit_code)
NEVER = (0, 2, 3, 4, 5, 6, 8, 9, 70, InterruptedRunError.exit_code)
TRIES = 5  # attempts that begin at one place; whoever gets further begins to count anew

# A variable that an engine sets in its jobs, and nobody else.
SCHEDULERS = {
    "SLURM_JOB_ID": "Slurm",
    "SKYPILOT_TASK_ID": "SkyPilot",
    "KUBERNETES_SERVICE_HOST": "Kubernetes",
    "PBS_JOBID": "PBS",
    "LSB_JOBID": "LSF",
    "ORCH_PREEMPTIBLE": "ORCH_PREEMPTIBLE",
}


def find_scheduler(environment: Mapping[str, str] = os.environ) -> str | None:
    """Return the name of the engine that this process is a job of; None where a user has started it."""
    return next((name for variable, name in SCHEDULERS.items() if environment.get(variable)), None)


def is_taken_away(number: int) -> bool:
    """Tell whether a signal says that the machine is needed elsewhere: USR1 does, and TERM from a scheduler."""
    return number == signal.SIGUSR1 or (number == signal.SIGTERM and find_scheduler() is not None)


def count_tries(run: RunDir) -> int:
    """Return how many attempts in a row began at the place of the last one: its stage, from the same checkpoint.

    One that the user stopped ends the row.
    """
    count, place = 0, None
    for event in load_events(run.events_jsonl):
        if isinstance(event, StageStarted):
            here = (event.stage, event.resumed_from)
            count, place = (count + 1 if here == place else 1), here
        elif isinstance(event, RunFinished) and event.exit_code == InterruptedRunError.exit_code:
            count = 0
    return count


def judge(error: OrchError, run: RunDir, *, tries: int = TRIES) -> OrchError:
    """Return what an engine is told of a run that ended with `error`: 75 or 7 where it shall try again.

    A failed stage is tried again where a machine or a connection is at fault, on another machine where this one is.
    After `tries` attempts that got no further every reason is a failure.
    """
    problem = error.problems[0]
    rule = find_rule(problem.name) if isinstance(error, StageFailedError) and problem.name else None
    fault = rule.fault if rule else None
    if error.exit_code not in AGAIN and fault is None:
        return error
    if (count := count_tries(run)) >= tries:
        return StageFailedError.from_problems([replace(problem, message=GIVEN_UP.fill(problem.message, count))])
    if fault is None:
        return error
    # of several machines that ran the stage nobody knows which it was
    if fault == "node" and os.environ.get("SLURM_NNODES", "1") == "1":
        name = os.environ.get("SLURMD_NODENAME") or process.host()  # as its engine knows it
        with suppress(OSError), open_to_append(run.excluded_nodes) as stream:
            stream.write(f"{name}\n".encode())
    return TakenAwayError.from_problems([problem])


GIVEN_UP = Text(
    "{0}\n  {1} attempts in a row got no further than this: it is not tried again",
    "{0}\n  已连续 {1} 次停在此处，不再重试",
)
