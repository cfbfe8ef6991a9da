"""Before any long work: what a machine, an environment, a model and the data lack for a plan, all at once.

One list for `orch run`, `orch check` and `orch doctor RECIPE` (decisions/0032).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from orchestrator.backends.protocol import Job
from orchestrator.checks.arguments import check_arguments
from orchestrator.checks.data_files import check_data_files
from orchestrator.checks.disk import check_disk, check_run_path
from orchestrator.checks.hub import check_hub
from orchestrator.checks.known_bugs import advise_known_bugs, check_known_bugs
from orchestrator.checks.machine import (
    advise_devices,
    check_devices,
    check_packages,
    check_ports,
    check_shell_variables,
)
from orchestrator.checks.memory_fit import advise_measuring, advise_memory, advise_on_cpu, check_memory
from orchestrator.checks.model_files import advise_model_files, check_model_files
from orchestrator.checks.model_loading import check_model_loading, check_model_tensors
from orchestrator.checks.settings import (
    OPTIONAL,
    advise_on_resuming,
    advise_precision,
    advise_trust,
    check_argument_packages,
    check_conflicts,
    check_lengths,
    check_target_modules,
)
from orchestrator.errors import DataError, PreflightError, Problem
from orchestrator.recipe.plan import Plan

Check = Callable[[Job, Plan], Iterator[Problem]]

# A check yields what ends the run before it starts; an advice yields what the user should know and may ignore.
CHECKS: tuple[Check, ...] = (
    check_packages,
    check_argument_packages,
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
# What the first stages would find: it has the exit code of data.
DATA_CHECKS: tuple[Check, ...] = (check_data_files,)
_ANY_VERSION = "9999"  # of a package that another machine may have: with no bug that is known
# Nothing of this is known of a machine that is only named (--hardware gpu:4).
OF_THIS_MACHINE: frozenset[Check] = frozenset({
    check_packages, check_argument_packages, check_disk, check_run_path, check_shell_variables, check_devices,
    check_ports,
})  # fmt: skip
OF_A_HUB: frozenset[Check] = frozenset({check_hub})
ADVICE: tuple[Check, ...] = (
    advise_on_resuming,
    advise_known_bugs,
    advise_model_files,
    advise_precision,
    advise_devices,
    advise_on_cpu,
    advise_memory,
    advise_measuring,
    advise_trust,
)
_ADVICE_ON_THIS_MACHINE: frozenset[Check] = frozenset({advise_devices, advise_on_cpu})


def require_runnable(job: Job, plan: Plan, *, this_machine: bool = True, asks_hub: bool = True) -> tuple[Problem, ...]:
    """Raise what `orch run` ends with before its first stage; return the advice otherwise. For run, check and doctor.

    `this_machine` is False where the plan is for another machine, `asks_hub` where no network may be used. Raises
    PreflightError, with what is wrong with the data too; DataError where that is all.
    """
    left_out = (frozenset() if this_machine else OF_THIS_MACHINE) | (frozenset() if asks_hub else OF_A_HUB)
    job = job if this_machine else replace(job, versions=dict.fromkeys(OPTIONAL, _ANY_VERSION) | job.versions)
    data = [problem for check in DATA_CHECKS for problem in check(job, plan)]
    if problems := _find_problems(job, plan, left_out, data):
        raise PreflightError.from_problems([*problems, *data])
    if data:
        raise DataError.from_problems(data)
    advice = [advise for advise in ADVICE if this_machine or advise not in _ADVICE_ON_THIS_MACHINE]
    return tuple(problem for advise in advice for problem in advise(job, plan))


def _find_problems(job: Job, plan: Plan, left_out: frozenset[Check], others: Sequence[Problem]) -> list[Problem]:
    """Return what the checks find; what starts a process is asked where neither they nor `others` say anything."""
    problems = [problem for check in CHECKS if check not in left_out for problem in check(job, plan)]
    if problems or others or (check_packages in left_out and any(check_packages(job, plan))):
        return problems
    return [problem for check in LAST_CHECKS for problem in check(job, plan)]
