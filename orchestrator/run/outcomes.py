"""How a run and its stages ended well in one call of the supervisor."""

from __future__ import annotations

from dataclasses import dataclass

from orchestrator.machine.rundir import RunDir


@dataclass(frozen=True)
class StageOutcome:
    """How a stage came to be done in this call: `status` is done, or skipped when it was done before."""

    name: str
    status: str
    exit_code: int
    seconds: float
    attempts: int


@dataclass(frozen=True)
class RunOutcome:
    """A finished run. `exit_code` is 0, or the other done code that a stage ended with (8: the gate was missed)."""

    run_dir: RunDir
    stages: tuple[StageOutcome, ...]

    @property
    def exit_code(self) -> int:
        """The last code of a stage that is not 0."""
        return next((stage.exit_code for stage in reversed(self.stages) if stage.exit_code), 0)
