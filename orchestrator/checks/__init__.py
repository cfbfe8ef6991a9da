"""Before any long work: what a machine, an environment, a model and the data lack for a plan, all at once.

One list for `orch run`, `orch check` and `orch doctor RECIPE` (decisions/0032).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Literal

import msgspec
from msgspec.structs import replace

from orchestrator.backends.protocol import Job
from orchestrator.checks import (
    arguments,
    data_files,
    hub,
    known_bugs,
    machine,
    memory_fit,
    model_files,
    model_loading,
    settings,
)
from orchestrator.errors import DataError, PreflightError, Problem
from orchestrator.recipe.plan import Plan

_ANY_VERSION = "9999"  # of a package that another machine may have: with no bug that is known
Find = Callable[[Job, Plan], Iterator[Problem]]


class Check(msgspec.Struct, frozen=True):
    """One question about a plan, and when it is asked.

    `kind`: refuse ends a run before it starts; data does so too, with the exit code of the stages that would find it;
    ask starts a process of the backend, last and only where all else is in order; advise says what the user should know
    and may ignore. `here`: nothing of it is known of a machine that is only named (--hardware gpu:4). `hub`: a network
    is asked.
    """

    find: Find
    kind: Literal["refuse", "data", "ask", "advise"] = "refuse"
    here: bool = False
    hub: bool = False


CHECKS: tuple[Check, ...] = (
    Check(machine.check_packages, here=True),
    Check(settings.check_argument_packages, here=True),
    Check(arguments.check_arguments),
    Check(hub.check_hub, hub=True),
    Check(machine.check_disk, here=True),
    Check(machine.check_run_path, here=True),
    Check(machine.check_shell_variables, here=True),
    Check(settings.check_conflicts),
    Check(known_bugs.check_known_bugs),
    Check(model_files.check_model_files),
    Check(settings.check_lengths),
    Check(settings.check_target_modules),
    Check(machine.check_devices, here=True),
    Check(memory_fit.check_memory),
    Check(machine.check_ports, here=True),
    Check(data_files.check_data_files, "data"),
    Check(model_loading.check_model_loading, "ask"),
    Check(model_loading.check_model_tensors, "ask"),
    Check(hub.advise_offline, "advise", here=True),
    Check(data_files.advise_data_files, "advise"),
    Check(settings.advise_on_resuming, "advise"),
    Check(known_bugs.advise_known_bugs, "advise"),
    Check(model_files.advise_model_files, "advise"),
    Check(settings.advise_precision, "advise"),
    Check(settings.advise_examples, "advise"),
    Check(machine.advise_devices, "advise", here=True),
    Check(memory_fit.advise_on_cpu, "advise", here=True),
    Check(memory_fit.advise_memory, "advise"),
    Check(memory_fit.advise_measuring, "advise"),
    Check(settings.advise_names, "advise"),
    Check(settings.advise_trust, "advise"),
    Check(settings.advise_trackers, "advise", here=True),
)


def require_runnable(job: Job, plan: Plan, *, this_machine: bool = True, asks_hub: bool = True) -> tuple[Problem, ...]:
    """Raise what `orch run` ends with before its first stage; return the advice otherwise. For run, check and doctor.

    `this_machine` is False where the plan is for another machine, `asks_hub` where no network may be used. Raises
    PreflightError, with what is wrong with the data too; DataError where that is all.
    """
    job = job if this_machine else replace(job, versions=dict.fromkeys(settings.OPTIONAL, _ANY_VERSION) | job.versions)

    def find(kind: str) -> list[Problem]:
        asked = [check for check in CHECKS if check.kind == kind]
        asked = [check for check in asked if (this_machine or not check.here) and (asks_hub or not check.hub)]
        return [problem for check in asked for problem in check.find(job, plan)]

    data, problems = find("data"), find("refuse")
    if not data and not problems and (this_machine or not any(machine.check_packages(job, plan))):
        problems = find("ask")
    if problems:
        raise PreflightError.from_problems([*problems, *data])
    if data:
        raise DataError.from_problems(data)
    return tuple(find("advise"))
