"""Which known bugs (known_bugs.yaml) are in the installed versions and concern this job.

Severe ones are refused, of the others the user is told.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec

from orchestrator.backends.models import load_config
from orchestrator.backends.protocol import Job
from orchestrator.checks.model_files import list_models
from orchestrator.checks.settings import is_on, read_train_values
from orchestrator.errors import Problem
from orchestrator.machine.packages import parse_release
from orchestrator.machine.tables import load_table
from orchestrator.machine.weights import read_weights
from orchestrator.recipe.plan import Plan

_TIED = frozenset({"lm_head", "embed_tokens", "wte", "all-embedding"})
_NO_P2P = frozenset({"NCCL_P2P_DISABLE", "NCCL_IB_DISABLE"})


class Affected(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The versions of one package that have a bug: from `since` on, and before `before`; empty: all."""

    package: str
    since: str = ""
    before: str = ""

    def holds(self, version: str | None) -> bool:
        """Tell whether an installed version lies in the range; what is not installed has no bugs."""
        if version is None:
            return False
        is_before = not self.before or parse_release(version) < parse_release(self.before)
        return is_before and parse_release(version) >= parse_release(self.since)


class KnownBug(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A row of known_bugs.yaml, which says what its keys mean."""

    id: str
    affected: tuple[Affected, ...]
    message: str
    hint: str
    source: str
    backends: tuple[str, ...] = ()
    tasks: tuple[str, ...] = ()
    family: str = ""
    architecture: str = ""
    when: str = ""
    severe: bool = False

    def concerns(self, job: Job, plan: Plan) -> bool:
        """Tell whether the bug is installed and this job meets it."""
        recipe, model = job.recipe, job.model
        return (
            all(part.holds(job.versions.get(part.package)) for part in self.affected)
            and (not self.backends or recipe.backend in self.backends)
            and (not self.tasks or recipe.task in self.tasks)
            and self.family in {"", model.family}
            and (not self.architecture or any(name.startswith(self.architecture) for name in model.architectures))
            and (not self.when or CONDITIONS[self.when](job, plan))
        )

    def describe(self, job: Job) -> Problem:
        """Return what happens, in which version, and where it was reported."""
        versions = ", ".join(f"{part.package} {job.versions[part.package]}" for part in self.affected)
        return Problem(f"{versions}: {self.message}", f"{self.hint}   ({self.id}: {self.source})")


def load_known_bugs() -> tuple[KnownBug, ...]:
    """Return the rows of known_bugs.yaml."""
    return load_table(Path(__file__).with_suffix(".yaml"), KnownBug)


def check_known_bugs(job: Job, plan: Plan) -> Iterator[Problem]:
    """Yield the bugs that would make a wrong model without an error, or end the run after long work."""
    return (bug.describe(job) for bug in find_bugs(job, plan) if bug.severe)


def advise_known_bugs(job: Job, plan: Plan) -> Iterator[Problem]:
    """Yield the bugs that may never show."""
    return (bug.describe(job) for bug in find_bugs(job, plan) if not bug.severe)


def find_bugs(job: Job, plan: Plan) -> list[KnownBug]:
    """Return the bugs of the installed versions that this job meets."""
    return [bug for bug in load_known_bugs() if bug.concerns(job, plan)]


def _adapts_tied_embeddings(job: Job, plan: Plan) -> bool:
    values = read_train_values(plan)
    if job.smoke or job.model.folder is None or "target_modules" not in values:
        return False
    layers = f"{values['target_modules']} {values.get('modules_to_save', '')}".split()
    named = {name.rpartition(".")[2] for name in layers}
    return bool(named & _TIED) and load_config(job.model.folder).get("tie_word_embeddings") is True


def _accumulates_gradients(_: Job, plan: Plan) -> bool:
    steps = read_train_values(plan).get("gradient_accumulation_steps", "1")
    return steps.isdigit() and int(steps) > 1


def _uses_several_rtx_40(job: Job, _: Plan) -> bool:
    env = {**os.environ, **job.recipe.launch.env}
    several = job.processes() > 1 and any("RTX 40" in name for name in job.hardware.names)
    return several and not env.keys() >= _NO_P2P


def _loads_pickles(job: Job, _: Plan) -> bool:
    allowed = (model.folder for _, model, said in list_models(job) if said.allow_pickle)
    return any(read_weights(folder).pickles for folder in allowed if folder)


# What a row's `when` names.
CONDITIONS: dict[str, Callable[[Job, Plan], bool]] = {
    "asks_for_hard_negatives": lambda job, _: getattr(job.recipe.loss, "hard_negatives", None) is not None,
    "adapts_tied_embeddings": _adapts_tied_embeddings,
    "accumulates_gradients": _accumulates_gradients,
    "is_in_fp16": lambda _, plan: is_on(read_train_values(plan), "fp16"),
    "loads_pickles": _loads_pickles,
    "uses_several_rtx_40": _uses_several_rtx_40,
}
