"""Hold two greedy answers of supposedly equal models against each other, token by token."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from orchestrator.workers.chat.model import Answer


@dataclass(frozen=True)
class Divergence:
    """Where two answers part: the token's position, and how far the first model's two tokens are apart in logits.

    `margin` is None where the first model does not rank the second one's token among its best: no near tie.
    """

    position: int
    margin: float | None

    def is_tie(self, tolerance: float) -> bool:
        """Tell whether rounding explains it: the two tokens are nearer than the logits agree."""
        return self.margin is not None and self.margin <= tolerance


def find_divergence(answer: Answer, other: Answer, stop_ids: list[int]) -> Divergence | None:
    """Return where the answers part first, or None for equal ones. `answer` needs its top logits."""
    # an answer that ended has one more token, any of those that end it
    first, second = ([*one.ids, *([-1] if one.ended else [])] for one in (answer, other))
    for position, (one, two) in enumerate(zip(first, second, strict=False)):
        if one != two:
            largest = answer.top[position]
            wanted = [two] if two != -1 else stop_ids
            rivals = [largest[token] for token in wanted if token in largest]
            return Divergence(position, max(largest.values()) - max(rivals) if rivals else None)
    return None if len(first) == len(second) else Divergence(min(len(first), len(second)), None)


def describe_divergence(divergence: Divergence | None, tolerance: float) -> dict[str, Any]:
    """Return the facts for a report."""
    if divergence is None:
        return {"same": True}
    return {
        "same": False,
        "first_difference": divergence.position,
        "margin": divergence.margin,
        "tie": divergence.is_tie(tolerance),
    }
