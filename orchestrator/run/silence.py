"""When a running stage has stalled: nothing new in its logs for so long, or no step for ten times as long."""

from __future__ import annotations

from dataclasses import dataclass

from orchestrator.run.stopping import Clock

# Lines that are no steps (an evaluation, a save, a warning that repeats) show that the process lives, not that it
# trains: for a while they count, and for good in a stage that has never shown a step.
TALK_FACTOR = 10
MAX_GAP_S = 60.0  # Orch itself was suspended for what lies above: nobody knows what the stage did meanwhile


@dataclass(frozen=True)
class Stall:
    """A stage that does not come on. `seconds` without (`kind`) news or steps, `since` that unix time."""

    kind: str
    seconds: float
    since: float


class Silence:
    """Measures, look by look, how long a stage has said nothing new and how long it has made no step."""

    def __init__(self, timeout_s: float | None, clock: Clock) -> None:
        """Call it a stall after `timeout_s`; never when None."""
        self._timeout_s = timeout_s
        self._clock = clock
        self._looked_at = clock.monotonic()
        self._news = _Wait(clock.time())
        self._steps = _Wait(clock.time())

    def look(self, news: int, steps: int) -> Stall | None:
        """Return the stall, if it is one by now. `news`, `steps`: how many of each the logs have shown so far."""
        now = self._clock.monotonic()
        gap, self._looked_at = min(now - self._looked_at, MAX_GAP_S), now
        unix = self._clock.time()
        self._news = self._news.after(gap, news, unix)
        self._steps = self._steps.after(gap, steps, unix)
        if self._timeout_s is None:
            return None
        if self._news.seconds > self._timeout_s:
            return Stall("news", self._timeout_s, self._news.since)
        if steps and self._steps.seconds > TALK_FACTOR * self._timeout_s:
            return Stall("steps", TALK_FACTOR * self._timeout_s, self._steps.since)
        return None


@dataclass(frozen=True)
class _Wait:
    """So long a count has stood still, since that unix time."""

    since: float
    seconds: float = 0.0
    count: int = 0

    def after(self, gap: float, count: int, unix: float) -> _Wait:
        if count != self.count:
            return _Wait(unix, 0.0, count)
        return _Wait(self.since, self.seconds + gap, count)
