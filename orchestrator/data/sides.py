"""Which side a query belongs to when one file is split: a seeded hash of the query, compared with a cut.

A query's side depends on the seed and the query only: not on the other rows, not on their order. All rows of one query
go together.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from hashlib import blake2b

from orchestrator.data.digests import loose_key
from orchestrator.errors import DataError

_RANGE = 1 << 64
VALIDATION_SALT = "validation "


def draw(query: str, seed: int, *, salt: str = "") -> int:
    """Return a query's place in 0 … 2**64 - 1; texts that `loose_key` makes equal share it.

    Draws of another salt are independent: those for validation say nothing of those for eval.
    """
    data = f"{salt}{seed}\n{loose_key(query)}".encode()
    return int.from_bytes(blake2b(data, digest_size=8).digest(), "big")


def cut_for(eval_ratio: float) -> int:
    """Return the cut for a ratio: queries drawn below it go to eval. Raises DataError unless 0 < eval_ratio < 1."""
    if not (math.isfinite(eval_ratio) and 0 < eval_ratio < 1):
        raise DataError(f"eval_ratio is {eval_ratio}", hint="give a number between 0 and 1, such as 0.1")
    return int(eval_ratio * _RANGE)


@dataclass(frozen=True)
class Cuts:
    """The cuts of a pass: queries drawn below `eval` go to eval, then those below `validation`."""

    eval: int | None = None
    validation: int | None = None


class DrawRange:
    """The lowest and highest draw of the queries seen, from which a cut is mended that leaves one side empty."""

    def __init__(self) -> None:
        self.low = _RANGE
        self.high = -1

    def add(self, place: int) -> None:
        """Note one query's draw."""
        self.low = min(self.low, place)
        self.high = max(self.high, place)

    @property
    def can_split(self) -> bool:
        """Whether two different queries were seen."""
        return self.low < self.high

    def mend(self, cut: int) -> int | None:
        """Return None when `cut` gives both sides a query or none can, else the nearest cut that does."""
        if not self.can_split or self.low < cut <= self.high:
            return None
        return self.low + 1 if self.low >= cut else self.high
