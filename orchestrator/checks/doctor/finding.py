"""One line of a machine's examination: what was looked at, what was found, and what to do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

State = Literal["ok", "note", "missing"]


@dataclass(frozen=True)
class Finding:
    """`state` is ok, note (a run can start, and may meet this later) or missing (no run can start without it)."""

    area: str
    name: str
    state: State
    value: str
    remedy: str | None = None
