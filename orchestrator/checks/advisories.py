"""Which known bugs are in the installed versions and concern this job: refused where severe, told otherwise."""

from __future__ import annotations

from collections.abc import Iterator

from orchestrator.backends.protocol import Job
from orchestrator.checks.known_bugs import KNOWN_BUGS, Affected, KnownBug
from orchestrator.errors import Problem
from orchestrator.machine.distributions import parse_release
from orchestrator.recipe.plan import Plan


def check_known_bugs(job: Job, plan: Plan) -> Iterator[Problem]:
    """Yield the bugs that would make a wrong model without an error, or end the run after long work."""
    return (describe_bug(bug, job) for bug in find_bugs(job, plan) if bug.severe)


def advise_known_bugs(job: Job, plan: Plan) -> Iterator[Problem]:
    """Yield the bugs that may never show."""
    return (describe_bug(bug, job) for bug in find_bugs(job, plan) if not bug.severe)


def find_bugs(job: Job, plan: Plan) -> list[KnownBug]:
    """Return the bugs of the installed versions that this job meets."""
    return [
        bug
        for bug in KNOWN_BUGS
        if all(is_affected(job.versions.get(part.package), part) for part in bug.affected) and bug.applies(job, plan)
    ]


def describe_bug(bug: KnownBug, job: Job) -> Problem:
    """Return a bug as a problem: what happens, in which version, and where it was reported."""
    versions = ", ".join(f"{part.package} {job.versions[part.package]}" for part in bug.affected)
    return Problem(f"{versions}: {bug.what}", f"{bug.remedy}   ({bug.id}: {bug.source})")


def is_affected(version: str | None, affected: Affected) -> bool:
    """Tell whether an installed version lies in the range; what is not installed has no bugs."""
    if version is None:
        return False
    release = parse_release(version)
    if affected.since and release < parse_release(affected.since):
        return False
    return not affected.before or release < parse_release(affected.before)
