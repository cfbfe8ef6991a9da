"""Which labels count as relevant, wherever only yes or no is known (decisions/0017): one number and one question."""

from __future__ import annotations

RELEVANT = 0.5  # of labels from 0 to 1; workers/cross_encoder/losses.py has it too: it imports nothing of this


def is_relevant(label: float) -> bool:
    """Tell whether a document with this label, from 0 to 1, is relevant to its query."""
    return label >= RELEVANT
