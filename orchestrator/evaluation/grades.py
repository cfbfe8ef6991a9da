"""Turns labels into the whole numbers that trec_eval grades with, and says which of those are relevant."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction

from orchestrator.recipe.relevance import RELEVANT, is_relevant

FINEST = 1000  # grades a unit; trec_eval keeps one count a grade
_SAME = 1e-9  # labels were divided by a range: 2 / 3 is meant by every float this close to it


@dataclass(frozen=True)
class Grades:
    """A label becomes `scale` times itself: exact where the labels are few, to 1/1000 otherwise."""

    scale: int

    @property
    def relevant(self) -> int:
        """The lowest grade of a relevant document (a label of at least 0.5)."""
        return math.ceil(self.scale * RELEVANT)

    def grade(self, label: float) -> int:
        """Return a label's grade; rounding carries none over the border of what is relevant."""
        nearest = round(label * self.scale)
        return max(nearest, self.relevant) if is_relevant(label) else min(nearest, self.relevant - 1)


def choose_grades(labels: Iterable[float]) -> Grades:
    """Return the coarsest grades that hold every label exactly, else the finest ones. Labels 0 and 1 stay 0 and 1."""
    scale = 1
    for label in set(labels):
        fraction = Fraction(label).limit_denominator(FINEST)
        scale = math.lcm(scale, fraction.denominator)
        if scale > FINEST or abs(float(fraction) - label) > _SAME:
            return Grades(FINEST)
    return Grades(scale)
