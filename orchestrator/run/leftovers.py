"""What a supervisor that was killed has left running, also where its state.json is lost or damaged."""

from __future__ import annotations

from dataclasses import dataclass

from orchestrator.machine.process import Child, Processes
from orchestrator.machine.rundir import RunDir
from orchestrator.run.state import find_state, load_launch


@dataclass(frozen=True)
class Leftover:
    """A stage that may still run. Where only its token is known, `child.pid` is 0."""

    stage: str
    child: Child


def find_leftover(run_dir: RunDir, processes: Processes) -> Leftover | None:
    """Return the process that state.json names, alive or not; without it, a stage whose token somebody carries."""
    state = find_state(run_dir)
    if state:
        return Leftover(state.stage, state.child) if state.stage and state.child else None
    for folder in sorted(run_dir.root.glob("stages/*")):
        record = load_launch(run_dir.stage(folder.name))
        child = Child(0, 0, "", record.token) if record else None
        if child and processes.find_members(child):
            return Leftover(folder.name, child)
    return None
