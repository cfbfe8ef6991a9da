"""The language that Orch speaks to people: English or Chinese, chosen by the environment."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Language = Literal["en", "zh"]

# POSIX's order: the first of these that is set decides, the others are not asked.
_LOCALE_VARIABLES = ("LC_ALL", "LC_MESSAGES", "LANG")


@dataclass(frozen=True)
class Text:
    """One sentence in every language that Orch speaks."""

    en: str
    zh: str

    def say(self, language: Language) -> str:
        """Return the sentence in that language."""
        return self.zh if language == "zh" else self.en


def choose_language(environment: Mapping[str, str]) -> Language:
    """Return the language that an environment asks for: ORCH_LANG, else the locale; English unless it is Chinese."""
    asked = environment.get("ORCH_LANG") or next(
        (environment[name] for name in _LOCALE_VARIABLES if environment.get(name)), ""
    )
    return "zh" if asked.lower().startswith("zh") else "en"


def current_language() -> Language:
    """Return the language of this process's environment."""
    return choose_language(os.environ)
