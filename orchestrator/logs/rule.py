"""One known failure: how its line looks, why it happens and what to do, in both languages."""

from __future__ import annotations

import re
from dataclasses import dataclass

from orchestrator.machine.language import Text


@dataclass(frozen=True)
class Rule:
    """A known failure. `cause` may use the pattern's groups as {1}, {2}, and the first that matched as {any}.

    `frames`: what the lines above the match must hold as well, where the exception's own line says too little.
    `secondary`: what a process says when another one has failed; it counts only where nothing else explains the end.
    """

    name: str
    pattern: re.Pattern[str]
    cause: Text
    remedy: Text
    frames: re.Pattern[str] | None = None
    secondary: bool = False


def rule(
    name: str, pattern: str, cause: Text, remedy: Text, *, frames: str | None = None, secondary: bool = False
) -> Rule:
    """Return a rule from its regular expressions."""
    return Rule(
        name,
        re.compile(pattern, re.MULTILINE),  # for a whole log as for one line
        cause,
        remedy,
        frames=re.compile(frames) if frames else None,
        secondary=secondary,
    )
