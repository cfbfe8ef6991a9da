"""What the rows of a training form depend on besides the record."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class RowOptions:
    """What the rows of a form depend on besides the record."""

    instruction: str | None = None
    loss: str | None = None
    target: str = "label"
    seed: int = 42
