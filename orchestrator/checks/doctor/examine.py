"""Everything about a machine that decides whether a run can start, in one list."""

from __future__ import annotations

from pathlib import Path

from orchestrator.checks.doctor.environments import examine_environments, find_interpreters
from orchestrator.checks.doctor.finding import Finding
from orchestrator.checks.doctor.hub import HubProbe
from orchestrator.checks.doctor.machine import examine_machine
from orchestrator.checks.doctor.places import examine_places
from orchestrator.checks.environments.folder import environments_home, list_environments


def examine(
    runs: Path, *, python: str | None = None, backend: str | None = None, downloads: tuple[str, ...] = ()
) -> tuple[Finding, ...]:
    """Return all findings; `python` is the backends' own and `backend` the one that is wanted, where they are known.

    `downloads` are the hub ids that a recipe names and this machine does not have: without a hub, it cannot start. The
    hub is asked first and heard last: it may take seconds.
    """
    hub = HubProbe()
    built = [(f"built for {found.backend}", str(found.python)) for found in list_environments(environments_home())
             if found.complete]  # fmt: skip
    named = [("launch.python", python)] if python else []
    interpreters = find_interpreters([*named, *(built if python is None else [])])
    torch_home = python or next((found.python for found in interpreters if found.backends), interpreters[0].python)
    return (
        *examine_environments(interpreters, backend, python),
        *examine_machine(torch_home),
        *examine_places(runs),
        hub.finding(downloads),
    )


def can_start(findings: tuple[Finding, ...]) -> bool:
    """Tell whether nothing is missing that every run needs."""
    return all(finding.state != "missing" for finding in findings)
