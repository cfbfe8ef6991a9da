"""What a silent stage writes to disk: downloads and saves of large checkpoints say nothing for hours, and are life.

huggingface_hub draws no bar where there is no terminal (utils/tqdm.py, is_tqdm_disabled), and no trainer tells how far
a save has come. A training that hangs writes next to nothing: a tracker's few kilobytes a minute.
"""

from __future__ import annotations

from orchestrator.machine.process import Child, Processes
from orchestrator.run.stopping import Clock

SIGN_BYTES = 16 << 20
_LOOKS = 20  # within the time that a stage may be silent
_LEAST_S = 10.0  # a look reads the process table


class DiskWrites:
    """Counts signs of life: one whenever a stage's processes have written `SIGN_BYTES` or more since the last."""

    def __init__(self, child: Child, processes: Processes, clock: Clock, timeout_s: float | None) -> None:
        """Look some times within `timeout_s`; never when None."""
        self._child = child
        self._processes = processes
        self._clock = clock
        self._every_s = None if timeout_s is None else max(timeout_s / _LOOKS, _LEAST_S)
        self._looked_at = clock.monotonic()
        self._before: dict[int, int] = {}
        self._unsigned = 0
        self._signs = 0

    def look(self) -> int:
        """Return how many signs there have been."""
        now = self._clock.monotonic()
        if self._every_s is None or now - self._looked_at < self._every_s:
            return self._signs
        self._looked_at = now
        written = self._processes.count_written_bytes(self._child)
        self._unsigned += sum(max(0, count - self._before.get(pid, 0)) for pid, count in written.items())
        self._before = written
        if self._unsigned >= SIGN_BYTES:
            self._unsigned = 0
            self._signs += 1
        return self._signs
