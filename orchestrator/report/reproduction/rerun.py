"""One run once more: its plan in a fresh folder, what has changed since, and in the end the comparison."""

from __future__ import annotations

import secrets
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from orchestrator.errors import RunFolderError
from orchestrator.machine.files import read_regular, write_json
from orchestrator.machine.hardware import CPU, find_hardware
from orchestrator.machine.rundir import RunDir
from orchestrator.recipe.plan import Plan
from orchestrator.report.record import load_object
from orchestrator.report.reproduction.comparison import Reproduction, compare_reproduction
from orchestrator.report.reproduction.differences import Difference, find_differences, require_provenance
from orchestrator.report.reproduction.replay import move_plan
from orchestrator.run.folder import load_plan, understood, write_run
from orchestrator.run.provenance import Asked, build_provenance

REPRODUCES = "reproduces"  # the key of provenance.json that says which run this one repeats


@dataclass(frozen=True)
class Rerun:
    """A run that is about to be made once more: `plan` is its own, in the new folder."""

    first: RunDir
    plan: Plan
    provenance: dict[str, Any]
    differences: tuple[Difference, ...]

    def write(self) -> RunDir:
        """Write the new run folder, up to its plan. Raises RunFolderError when it cannot be written."""
        with understood(self.first.recipe_yaml):
            text = read_regular(self.first.recipe_yaml).decode("utf-8")
        repeated = {"run": str(self.first.root), "differences": [asdict(item) for item in self.differences]}
        return write_run(self.plan, text, {**self.provenance, REPRODUCES: repeated})


def begin_rerun(first: RunDir, plan: Plan, folder: Path | None, runs: Path, *, may_run: bool = True) -> Rerun:
    """Return the rerun of a finished run, in `folder` or a fresh one under `runs`. Raises RunFolderError.

    Without `may_run` no interpreter of the plan is started.
    """
    with understood(first.provenance_json):
        then = require_provenance(first, load_object(first.provenance_json))
        asked = Asked(Path(then["recipe"]), tuple(then["asked"]["set"]), then["asked"]["hardware"])
    if not first.report_json.is_file():
        raise RunFolderError(
            f"{first.root.name} is not finished: there is nothing to compare with",
            hint=f"finish it first: orch resume {first.root}",
        )
    name = f"{plan.name}-again-{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(2)}"
    moved = move_plan(plan, folder or runs.resolve() / name)
    cpu = plan.smoke or asked.hardware == "cpu"
    now = build_provenance(moved, CPU if cpu else find_hardware(), asked, may_run=may_run)
    with understood(first.provenance_json):
        return Rerun(first, moved, now, find_differences(then, now))


def is_rerun(run: RunDir) -> bool:
    """Tell whether a run was made to repeat another one."""
    return REPRODUCES in (load_object(run.provenance_json) or {})


def finish_rerun(second: RunDir) -> Reproduction:
    """Compare a finished rerun with the run that it repeats, and keep the answer in its reproduction.json.

    Raises RunFolderError where that run has gone, or has no result.
    """
    with understood(second.provenance_json):
        repeated = (load_object(second.provenance_json) or {})[REPRODUCES]
        first, differences = RunDir(Path(repeated["run"])), repeated["differences"]
    with understood(first.metrics_json):
        result = compare_reproduction(first, second, load_plan(second))
    write_json(second.reproduction_json, {**result.to_json(), "differences": differences})
    return result
