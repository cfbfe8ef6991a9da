"""Progress lines on standard output: `orch-progress DONE/TOTAL`, at most one a second."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field

INTERVAL_S = 1.0


@dataclass
class Progress:
    """Counts work up to `total`; the first, the last and at most one line a second in between are printed."""

    total: int
    clock: Callable[[], float] = time.monotonic
    done: int = 0
    _printed_at: float | None = field(default=None, repr=False)

    def advance(self, count: int) -> None:
        """Count `count` more units of work as done, and print a line when one is due."""
        self.done += count
        now = self.clock()
        due = self._printed_at is None or now - self._printed_at >= INTERVAL_S
        if due or self.done >= self.total:
            self._printed_at = now
            sys.stdout.write(f"orch-progress {self.done}/{self.total}\n")
            sys.stdout.flush()
