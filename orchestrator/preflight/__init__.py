"""Before any long work: what this machine, this environment and this model lack for a plan, all at once."""

from __future__ import annotations

from typing import TYPE_CHECKING

from orchestrator.errors import PreflightError, Problem
from orchestrator.preflight.advisories import advise_known_bugs, check_known_bugs
from orchestrator.preflight.arguments import check_arguments
from orchestrator.preflight.conflicts import advise_precision, check_conflicts
from orchestrator.preflight.cpu_training import advise_on_cpu
from orchestrator.preflight.devices import advise_devices, check_devices
from orchestrator.preflight.disk import check_disk
from orchestrator.preflight.hub import check_hub
from orchestrator.preflight.lengths import check_lengths
from orchestrator.preflight.memory_fit import advise_memory, check_memory
from orchestrator.preflight.model_files import advise_model_files, check_model_files
from orchestrator.preflight.model_loading import check_model_loading
from orchestrator.preflight.model_tensors import check_model_tensors
from orchestrator.preflight.packages import check_packages
from orchestrator.preflight.ports import check_ports
from orchestrator.preflight.resumable import advise_on_resuming
from orchestrator.preflight.run_path import check_run_path
from orchestrator.preflight.shell_variables import check_shell_variables
from orchestrator.preflight.target_modules import check_target_modules
from orchestrator.preflight.trust import advise_trust

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from orchestrator.backends.protocol import Job
    from orchestrator.plan import Plan

    Check = Callable[[Job, Plan], Iterator[Problem]]

# A check yields what ends the run before it starts; an advice yields what the user should know and may ignore.
CHECKS: tuple[Check, ...] = (
    check_packages,
    check_arguments,
    check_hub,
    check_disk,
    check_run_path,
    check_shell_variables,
    check_conflicts,
    check_known_bugs,
    check_model_files,
    check_lengths,
    check_target_modules,
    check_devices,
    check_memory,
    check_ports,
)
# What starts a process of the backend is asked last, and only where all else is in order.
LAST_CHECKS: tuple[Check, ...] = (check_model_loading, check_model_tensors)
ADVICE: tuple[Check, ...] = (
    advise_on_resuming,
    advise_known_bugs,
    advise_model_files,
    advise_precision,
    advise_devices,
    advise_on_cpu,
    advise_memory,
    advise_trust,
)


def require_ready(job: Job, plan: Plan) -> tuple[Problem, ...]:
    """Raise PreflightError with everything that is missing for the plan; return the advice on it otherwise."""
    problems = [problem for check in CHECKS for problem in check(job, plan)]
    problems = problems or [problem for check in LAST_CHECKS for problem in check(job, plan)]
    if problems:
        raise PreflightError.from_problems(problems)
    return tuple(problem for advise in ADVICE for problem in advise(job, plan))
